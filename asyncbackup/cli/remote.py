"""``list_remote``: what a snapshot holds, read from the destination."""

from __future__ import annotations

import stat
import sys
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import click
import msgspec

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select_with_paths
from asyncbackup.format.escape import escape_path
from asyncbackup.model import Kind
from asyncbackup.text import terminal_path, terminal_text
from asyncbackup.units import format_size, plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Selection, Session
    from asyncbackup.config import SectionSettings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import Entry

_CODES = (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED)

SNAPSHOT_HELP = (
    "An id or its beginning, or a time: the newest snapshot not younger than 2026-11-01, "
    "2026-11-01T12:00, yesterday, '3 days ago'."
)


class Totals(msgspec.Struct):
    """What a listing added up to."""

    files: int = 0
    folders: int = 0
    symlinks: int = 0
    bytes: int = 0

    @property
    def entries(self) -> int:
        return self.files + self.folders + self.symlinks

    def add(self, entry: Entry) -> None:
        """Count one entry."""
        if entry.kind is Kind.FILE:
            self.files += 1
            self.bytes += entry.size
        elif entry.kind is Kind.FOLDER:
            self.folders += 1
        else:
            self.symlinks += 1


@click.command(
    cls=Command,
    examples="""
asyncbackup ls home                                   # the latest snapshot
asyncbackup ls home docs/letters --long               # one folder, with owners
asyncbackup ls home --snapshot 2026-11-01 | grep pdf
asyncbackup ls home --json | jq -r .path
""",
    codes=_CODES,
)
@click.argument("arguments", metavar="[SECTION] [PATH]...", nargs=-1)
@click.option(
    "--snapshot",
    cls=GroupedOption,
    metavar="ID|latest|TIME",
    default="latest",
    show_default=True,
    help=SNAPSHOT_HELP,
)
@click.option(
    "-l", "--long", cls=GroupedOption, is_flag=True, help="Also the number of names, the owner and the group."
)
@section_options
@global_options
@click.pass_obj
def list_remote(session: Session, arguments: tuple[str, ...], snapshot: str, long: bool) -> ExitCode:
    """List the files of a snapshot, or the PATHs of it with what is below.

    It is read from the destination, not from the database. A line is the mode, the size in bytes, the
    time of the last change, and the path; what could upset a terminal is written as %XX. PATHs are
    relative to the section's folder, or absolute below it. SECTION may be left out where the
    configuration has only one; without SECTION and PATHs all sections are listed.
    """
    session.start_logging()
    output = session.output()
    selection, paths = select_with_paths(session, arguments)

    async def main(stop: StopRequest) -> ExitCode:
        async def list_one(section: SectionSettings) -> ExitCode:
            return await _list(output, selection, section, snapshot, paths, long=long)

        return await each_section(session, output, selection, list_one, stop=stop)

    return run_async(main, output=output, graceful=False)


async def _list(
    output: Output,
    selection: Selection,
    section: SectionSettings,
    snapshot: str,
    paths: list[bytes],
    *,
    long: bool,
) -> ExitCode:
    from asyncbackup.repository.open import open_repository
    from asyncbackup.repository.remote import list_remote as entries_of
    from asyncbackup.repository.snapshots import resolve_snapshot
    from asyncbackup.restore.filter import Choice, EntryFilter

    wanted = EntryFilter(paths=paths, include=(), exclude=(), root=section.path)
    totals = Totals()
    async with open_repository(selection.settings, section) as repository:
        run = await resolve_snapshot(repository, snapshot)
        if len(selection.sections) > 1:
            output.result(f"{section.name}: snapshot {run}")
        async with aclosing(entries_of(repository, run)) as batches:
            async for batch in batches:
                if not wanted.takes_all:
                    batch = [entry for entry in batch if wanted.choose(entry) is Choice.SELECTED]
                for entry in batch:
                    totals.add(entry)
                if output.json:
                    output.events([entry_fields(section.name, entry) for entry in batch])
                else:
                    output.result(*(entry_line(entry, long=long) for entry in batch))
        wanted.check_matched(selected=totals.entries, snapshot=run, section=section.name)
    fields: dict[str, object] = {"section": section.name, "snapshot": run, **msgspec.structs.asdict(totals)}
    output.event("summary", fields)
    if not output.json:
        # To stderr: a listing that is counted or searched shall hold entries only.
        sys.stdout.flush()
        output.note(
            f"{section.name}: {plural(totals.files, 'file')} ({format_size(totals.bytes)}), "
            f"{plural(totals.folders, 'folder')}, {plural(totals.symlinks, 'symlink')} in snapshot {run}"
        )
    return ExitCode.OK


def entry_line(entry: Entry, *, long: bool = False) -> str:
    """One entry as ``ls -l`` would show it, owner and links only if it shall be ``long``."""
    name = terminal_path(entry.path)
    if entry.kind is Kind.FOLDER and entry.path:
        name += "/"
    elif entry.kind is Kind.SYMLINK:
        name += f" -> {terminal_path(entry.target)}"
    owners = f" {entry.nlink:>3} {_owner(entry):16}" if long else ""
    return f"{stat.filemode(entry.mode)}{owners} {entry.size:>12} {time_text(entry.mtime_ns)} {name}"


def _owner(entry: Entry) -> str:
    """Owner and group, by their numbers where they had no names."""
    return terminal_text(f"{entry.owner or entry.uid} {entry.group or entry.gid}")


def entry_fields(section: str, entry: Entry) -> dict[str, object]:
    """One entry as an event. Paths and targets are escaped as in manifests, times are nanoseconds."""
    fields: dict[str, object] = {
        "event": "entry",
        "section": section,
        "path": escape_path(entry.path),
        "kind": entry.kind,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "mode": f"{entry.mode:o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "owner": entry.owner,
        "group": entry.group,
    }
    if entry.sha256:
        fields["sha256"] = entry.sha256.hex()
    if entry.kind is Kind.SYMLINK:
        fields["target"] = escape_path(entry.target)
    if entry.extent is not None:
        fields["run"] = entry.extent.run
        fields["key"] = entry.extent.key
        if entry.extent.in_pack:
            fields["offset"] = entry.extent.offset
    return fields


def time_text(time_ns: int) -> str:
    """A time to the second, in the zone of this machine; UTC nanoseconds where no calendar has it."""
    seconds = time_ns // 1_000_000_000
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"@{seconds}"
