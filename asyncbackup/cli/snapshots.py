"""``snapshots``: which snapshots the destination holds, and what is known of each."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.remote import time_text
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select
from asyncbackup.errors import CatalogError, SectionBusyError
from asyncbackup.text import terminal_text
from asyncbackup.units import format_count, format_size, plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Selection, Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import RunSummary
    from asyncbackup.repository.open import Repository
    from asyncbackup.repository.snapshots import SnapshotInfo

_UNKNOWN = "-"


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one snapshot beside its place in the listing; ``None`` is not known.

    ``files_new``, ``files_changed`` and ``files_deleted`` are against the
    snapshot before, from the run's summary; ``entries`` and ``deleted`` count
    the lines of the manifest.
    """

    host: str | None = None
    files: int | None = None
    bytes: int | None = None
    files_new: int | None = None
    files_changed: int | None = None
    files_deleted: int | None = None
    files_failed: int | None = None
    base: str | None = None
    entries: int | None = None
    deleted: int | None = None


@click.command(
    cls=Command,
    examples="""
asyncbackup snapshots
asyncbackup snapshots home --details                 # also what other machines have made
asyncbackup snapshots home --json | jq -r 'select(.event == "snapshot").id'
""",
    codes=(ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED),
)
@click.argument("section", required=False, metavar="[SECTION]")
@click.option(
    "--details",
    cls=GroupedOption,
    is_flag=True,
    help="Read every manifest to its end: host, counts and base, whoever made the snapshot.",
)
@section_options
@global_options
@click.pass_obj
def snapshots(session: Session, section: str | None, details: bool) -> ExitCode:
    """List the snapshots that the destination holds, the oldest first.

    One listing tells which there are. What each holds and changed is taken from the database where
    this machine made it and no run is under way; '-' is not known. A manifest with a base says what
    changed since that snapshot, one without a base holds every entry.
    """
    session.start_logging()
    output = session.output()
    selection = select(session, (section,) if section else ())

    async def main(stop: StopRequest) -> ExitCode:
        async def show(section: SectionSettings) -> ExitCode:
            return await _snapshots(output, selection, section, details=details)

        return await each_section(session, output, selection, show, stop=stop)

    return run_async(main, output=output, graceful=False)


async def _snapshots(
    output: Output, selection: Selection, section: SectionSettings, *, details: bool
) -> ExitCode:
    from asyncbackup.repository.open import open_repository
    from asyncbackup.repository.parallel import in_parallel
    from asyncbackup.repository.snapshots import list_snapshots

    known = {
        run: _details_of_run(summary)
        for run, summary in (await _summaries(selection.settings, section)).items()
    }
    async with open_repository(selection.settings, section) as repository:
        found = await list_snapshots(repository)
        if details:

            async def look(info: SnapshotInfo) -> Details:
                return await _read_details(repository, info, known.get(info.id, Details()))

            told = await in_parallel(found, look, limit=selection.settings.concurrency)
        else:
            told = [known.get(info.id, Details()) for info in found]
    rows = list(zip(found, told, strict=True))
    output.events(
        {
            "event": "snapshot",
            "section": section.name,
            "id": info.id,
            "started": datetime.fromtimestamp(info.started_ns // 1_000_000_000, UTC).isoformat(),
            "manifest_bytes": info.size,
            **{name: value for name, value in msgspec.structs.asdict(each).items() if value is not None},
        }
        for info, each in rows
    )
    output.event("summary", {"section": section.name, "snapshots": len(found)})
    output.result(f"{section.name}: {plural(len(found), 'snapshot')} at {terminal_text(section.destination)}")
    if rows:
        output.result(_HEADING, *(_line(info, each) for info, each in rows))
    return ExitCode.OK


_ROW = "  {:21}  {:19}  {:>10}  {:>9}  {:>8}  {:>8}  {:>8}  {:>9}  {:21}  {}"
_HEADING = _ROW.format(
    "snapshot", "began", "files", "size", "new", "changed", "deleted", "manifest", "base", "host"
)


def _line(info: SnapshotInfo, details: Details) -> str:
    def number(value: int | None) -> str:
        return _UNKNOWN if value is None else format_count(value)

    return _ROW.format(
        info.id,
        time_text(info.started_ns),
        number(details.files),
        _UNKNOWN if details.bytes is None else format_size(details.bytes),
        number(details.files_new),
        number(details.files_changed),
        number(details.files_deleted),
        format_size(info.size),
        _UNKNOWN if details.base is None else details.base or "none",
        _UNKNOWN if details.host is None else terminal_text(details.host),
    ).rstrip()


def _details_of_run(summary: RunSummary) -> Details:
    return Details(
        host=summary.host,
        files=summary.files_scanned - summary.files_failed,
        bytes=summary.bytes_scanned,
        files_new=summary.files_new,
        files_changed=summary.files_changed,
        files_deleted=summary.files_deleted,
        files_failed=summary.files_failed,
        base=summary.base,
    )


async def _read_details(repository: Repository, info: SnapshotInfo, known: Details) -> Details:
    """The same from the manifest itself, which has the last word."""
    from asyncbackup.repository.manifest_stream import ManifestStream

    async with (
        ManifestStream(repository, info.id, revision=info.revision) as stream,
        aclosing(stream.items()) as items,
    ):
        async for _ in items:
            pass
        header, trailer = stream.header, stream.trailer
    assert trailer is not None, "the items were taken to their end"
    return msgspec.structs.replace(
        known,
        host=header.host,
        files=trailer.files,
        bytes=trailer.bytes,
        files_failed=trailer.failed,
        base=header.base or "",
        entries=trailer.entries,
        deleted=trailer.deleted,
    )


async def _summaries(settings: Settings, section: SectionSettings) -> dict[str, RunSummary]:
    """What the database knows of its runs; nothing where there is none that can be opened now."""
    from asyncbackup.catalog.catalog import Catalog

    try:
        async with Catalog.open(
            settings.database_path(section.name), section=section.name, destination=section.destination
        ) as catalog:
            return {record.run: record.summary for record in await catalog.runs.all() if record.summary}
    except (CatalogError, SectionBusyError):
        # A listing is of the destination: it needs no database, and waits for no run.
        return {}
