"""``initdb`` and ``syncdb_remote``: the local databases, made and made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from asyncbackup.cli.commands import Command, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.text import local_path, terminal_text
from asyncbackup.units import plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest


@click.command(
    cls=Command,
    examples="""
asyncbackup initdb            # every section of the configuration
asyncbackup initdb home
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED),
)
@click.argument("sections", metavar="[SECTION]...", nargs=-1)
@section_options
@global_options
@click.pass_obj
def initdb(session: Session, sections: tuple[str, ...]) -> ExitCode:
    """Create the databases, and the descriptor at a destination that has none.

    This is a step of its own so that nobody loses a database without noticing: where there is one, it is
    left alone and the command fails. A lost database is rebuilt with 'syncdb_remote'.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, sections)

    async def main(stop: StopRequest) -> ExitCode:
        async def create(section: SectionSettings) -> ExitCode:
            return await _create(output, selection.settings, section)

        return await each_section(session, output, selection, create, stop=stop)

    return run_async(main, output=output, graceful=False)


async def _create(output: Output, settings: Settings, section: SectionSettings) -> ExitCode:
    from asyncbackup.initialise import create_database

    created = await create_database(settings, section)
    output.event(
        "summary",
        {
            "section": section.name,
            "database": local_path(created.database),
            "destination": section.destination,
            "repository": created.repository,
            "encrypted": section.encryption.enabled,
            "repository_created": created.repository_created,
            "snapshots": created.snapshots,
        },
    )
    what = "new repository" if created.repository_created else "existing repository"
    output.result(
        f"{section.name}: database {local_path(created.database)} created, "
        f"{what} {created.repository} at {terminal_text(section.destination)}"
    )
    if created.snapshots:
        output.warning(
            f"{section.name}: the destination holds {plural(created.snapshots, 'snapshot')} of this section "
            "already; the next run will upload everything again. To go on from them, remove the new "
            "database and use 'asyncbackup syncdb_remote'"
        )
    return ExitCode.OK


async def ensure_database(output: Output, settings: Settings, section: SectionSettings) -> None:
    """Make the database of a ``--path`` and ``--to`` section at its first run.

    There is nothing to lose as long as the destination holds no snapshot of
    it; where it holds one, raises ``CatalogMissingError`` naming ``syncdb_remote``.
    """
    if settings.database_path(section.name).exists():
        return
    from asyncbackup.initialise import create_database

    created = await create_database(settings, section, only_without_snapshots=True)
    output.note(f"{section.name}: first run, database {local_path(created.database)} created")
