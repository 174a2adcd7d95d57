"""``diff`` and ``find``: what changed between two snapshots, and which snapshots hold a file."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from asyncbackup.cli.commands import Command, GroupedOption, global_options, section_options
from asyncbackup.cli.exit_codes import ExitCode
from asyncbackup.cli.remote import SNAPSHOT_HELP, time_text
from asyncbackup.cli.runner import run_async
from asyncbackup.cli.sections import each_section
from asyncbackup.cli.session import select, select_one
from asyncbackup.format.escape import escape_path
from asyncbackup.model import Kind
from asyncbackup.repository.difference import Change
from asyncbackup.text import terminal_path
from asyncbackup.units import format_count, format_size, plural

if TYPE_CHECKING:
    from asyncbackup.cli.output import Output
    from asyncbackup.cli.session import Session
    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import Entry
    from asyncbackup.repository.difference import Difference
    from asyncbackup.repository.search import Found

_CODES = (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED)
_SIGNS = {
    Change.ADDED: "+",
    Change.REMOVED: "-",
    Change.CONTENT: "M",
    Change.METADATA: "U",
    Change.TYPE: "T",
}


@click.command(
    cls=Command,
    examples="""
asyncbackup diff home yesterday latest
asyncbackup diff home 2026-11-01 2026-12-01 --stat      # the figures alone
asyncbackup diff 20261101 20261102 --json               # the only section there is
""",
    codes=_CODES,
)
@click.argument("arguments", metavar="[SECTION] A B", nargs=-1)
@click.option("--stat", cls=GroupedOption, is_flag=True, help="Only how much changed, not what.")
@click.option(
    "--content", cls=GroupedOption, is_flag=True, help="Leave out what differs in metadata alone (U)."
)
@section_options
@global_options
@click.pass_obj
def diff(session: Session, arguments: tuple[str, ...], stat: bool, content: bool) -> ExitCode:
    """Show what changed from snapshot A to snapshot B.

    A and B are ids or beginnings of ids, times, or 'latest', as for --snapshot. Of three arguments the
    first is the SECTION; it may be left out where the configuration has only one. A line is a sign and
    a path: + added, - removed, M another content, U other metadata, T of another type. The mtime of a
    folder alone is no difference.
    """
    session.start_logging()
    output = session.output()
    if len(arguments) not in (2, 3):
        raise click.UsageError("name two snapshots, and before them the section: diff [SECTION] A B")
    settings, section = select_one(session, arguments[0] if len(arguments) == 3 else None)
    before, after = arguments[-2:]

    async def main(_: StopRequest) -> ExitCode:
        return await _diff(output, settings, section, before, after, listed=not stat, metadata=not content)

    return run_async(main, output=output, graceful=False)


class _Sums:
    """What differences add up to."""

    def __init__(self) -> None:
        self.counts: Counter[Change] = Counter()
        self.bytes_added = 0
        self.bytes_removed = 0

    def add(self, difference: Difference) -> None:
        """Count one; the sizes are those of files whose content came or went."""
        self.counts[difference.change] += 1
        if difference.change is not Change.METADATA:
            self.bytes_added += _file_size(difference.after)
            self.bytes_removed += _file_size(difference.before)


async def _diff(
    output: Output,
    settings: Settings,
    section: SectionSettings,
    before: str,
    after: str,
    *,
    listed: bool,
    metadata: bool,
) -> ExitCode:
    from asyncbackup.repository.compare import compare_snapshots
    from asyncbackup.repository.open import open_repository
    from asyncbackup.repository.snapshots import choose_snapshot, list_snapshots

    sums = _Sums()
    async with open_repository(settings, section) as repository:
        snapshots = await list_snapshots(repository)
        older, newer = (choose_snapshot(snapshots, text, section=section.name) for text in (before, after))
        async with aclosing(compare_snapshots(repository, older, newer)) as batches:
            async for batch in batches:
                if not metadata:
                    batch = [each for each in batch if each.change is not Change.METADATA]
                for difference in batch:
                    sums.add(difference)
                if listed and output.json:
                    output.events(difference_fields(section.name, difference) for difference in batch)
                elif listed:
                    output.result(*map(difference_line, batch))
    output.event(
        "summary",
        {
            "section": section.name,
            "before": older,
            "after": newer,
            **{change.value: sums.counts[change] for change in Change},
            "bytes_added": sums.bytes_added,
            "bytes_removed": sums.bytes_removed,
        },
    )
    counts = sums.counts
    text = (
        f"{section.name}: from {older} to {newer}: {format_count(counts[Change.ADDED])} added, "
        f"{format_count(counts[Change.REMOVED])} removed, {format_count(counts[Change.CONTENT])} with "
        f"another content, {format_count(counts[Change.METADATA])} with other metadata, "
        f"{format_count(counts[Change.TYPE])} of another type; "
        f"+{format_size(sums.bytes_added)}, -{format_size(sums.bytes_removed)}"
    )
    if not listed:
        output.result(text)
    elif not output.json:
        # To stderr, as with ls: what is counted or searched shall hold differences only.
        sys.stdout.flush()
        output.note(text)
    return ExitCode.OK


def difference_line(difference: Difference) -> str:
    """One difference for a person: sign, path, sizes of a file, and which metadata differ."""
    entry = difference.after or difference.before
    assert entry is not None, "a path is in one snapshot at least"
    name = terminal_path(difference.path) + ("/" if entry.kind is Kind.FOLDER and difference.path else "")
    return f"{_SIGNS[difference.change]} {name}{_explained(difference)}"


def _explained(difference: Difference) -> str:
    before, after = difference.before, difference.after
    match difference.change:
        case Change.ADDED | Change.REMOVED:
            only = after or before
            return f"  {format_size(only.size)}" if only is not None and only.kind is Kind.FILE else ""
        case Change.TYPE if before is not None and after is not None:
            return f"  {before.kind} -> {after.kind}"
        case Change.CONTENT if before is not None and after is not None and after.kind is Kind.FILE:
            return f"  {format_size(before.size)} -> {format_size(after.size)}"
        case Change.METADATA:
            return f"  {', '.join(difference.fields)}"
        case _:
            return ""


def difference_fields(section: str, difference: Difference) -> dict[str, object]:
    """One difference as an event. ``before`` and ``after`` tell of the entry in each snapshot."""
    fields: dict[str, object] = {
        "event": "difference",
        "section": section,
        "path": escape_path(difference.path),
        "change": difference.change.value,
        "fields": difference.fields,
    }
    for side, entry in (("before", difference.before), ("after", difference.after)):
        if entry is not None:
            fields[side] = _side_fields(entry)
    return fields


def _side_fields(entry: Entry) -> dict[str, object]:
    fields: dict[str, object] = {
        "kind": entry.kind,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "mode": f"{entry.mode:o}",
        "uid": entry.uid,
        "gid": entry.gid,
    }
    if entry.sha256:
        fields["sha256"] = entry.sha256.hex()
    if entry.kind is Kind.SYMLINK:
        fields["target"] = escape_path(entry.target)
    return fields


def _file_size(entry: Entry | None) -> int:
    return entry.size if entry is not None and entry.kind is Kind.FILE else 0


@click.command(
    cls=Command,
    examples="""
asyncbackup find '*.pdf'                                # every version in every snapshot
asyncbackup find home 'docs/**/report*' --ignore-case
asyncbackup find home report.pdf --snapshot 2026-11-01
""",
    codes=_CODES,
)
@click.argument("arguments", metavar="[SECTION] PATTERN", nargs=-1)
@click.option(
    "--snapshot", cls=GroupedOption, metavar="ID|latest|TIME", help=f"Only in this one. {SNAPSHOT_HELP}"
)
@click.option(
    "-i", "--ignore-case", cls=GroupedOption, is_flag=True, help="Upper and lower case are the same."
)
@section_options
@global_options
@click.pass_obj
def find(session: Session, arguments: tuple[str, ...], snapshot: str | None, ignore_case: bool) -> ExitCode:
    """Find files by name in all snapshots, and say which snapshots hold them.

    PATTERN is a shell pattern: of the name where it has no '/', else of the whole path below the
    section's folder. '*' and '?' match no '/', '**' between slashes stands for any number of folders,
    and [a-z] is a set. Each version of a file is a line: its size, its mtime, its path, and the first
    and last snapshot that hold it. Of two arguments the first is the SECTION; with one, all sections
    are searched. It reads each manifest once and no file.
    """
    from asyncbackup.repository.glob import compile_glob

    session.start_logging()
    output = session.output()
    if len(arguments) not in (1, 2):
        raise click.UsageError("name what to find, and before it the section: find [SECTION] PATTERN")
    selection = select(session, arguments[:-1])
    matches = compile_glob(arguments[-1], ignore_case=ignore_case)

    async def main(stop: StopRequest) -> ExitCode:
        async def search(section: SectionSettings) -> ExitCode:
            from asyncbackup.repository.open import open_repository
            from asyncbackup.repository.search import find_versions
            from asyncbackup.repository.snapshots import choose_snapshot, list_snapshots

            paths = versions = 0
            last_path: bytes | None = None
            settings = selection.settings
            async with open_repository(settings, section) as repository:
                listed = await list_snapshots(repository)
                wanted = [each.id for each in listed]
                if snapshot is not None:
                    wanted = [choose_snapshot(listed, snapshot, section=section.name)]
                found = find_versions(
                    repository,
                    wanted,
                    matches,
                    scratch_folder=settings.state_dir,
                    concurrency=settings.concurrency,
                )
                async with aclosing(found) as batches:
                    async for batch in batches:
                        versions += len(batch)
                        for each in batch:
                            paths += each.path != last_path
                            last_path = each.path
                        output.events(found_fields(section.name, each) for each in batch)
                        output.result(*map(found_line, batch))
            sums = {"section": section.name, "snapshots": len(wanted), "paths": paths, "versions": versions}
            output.event("summary", sums)
            if not output.json:
                sys.stdout.flush()
                output.note(
                    f"{section.name}: {plural(paths, 'path')} in {plural(versions, 'version')}, "
                    f"{plural(len(wanted), 'snapshot')} searched"
                )
            return ExitCode.OK

        return await each_section(session, output, selection, search, stop=stop)

    return run_async(main, output=output, graceful=False)


def found_line(found: Found) -> str:
    """One version for a person."""
    version = found.version
    name = terminal_path(found.path)
    size, when = f"{version.size:>12}", time_text(int(version.mtime))
    if version.kind is Kind.FOLDER:
        # Neither tells anything of a folder.
        name, size, when = f"{name}/" if found.path else name, f"{_UNTOLD:>12}", f"{_UNTOLD:19}"
    elif version.kind is Kind.SYMLINK:
        name += f" -> {terminal_path(version.target)}"
    held = found.first if found.first == found.last else f"{found.first} to {found.last}"
    return f"{size} {when} {name}  in {held} ({plural(found.snapshots, 'snapshot')})"


_UNTOLD = "-"


def found_fields(section: str, found: Found) -> dict[str, object]:
    """One version as an event."""
    version = found.version
    fields: dict[str, object] = {
        "event": "match",
        "section": section,
        "path": escape_path(found.path),
        "kind": version.kind,
        "mode": f"{version.mode:o}",
        "first": found.first,
        "last": found.last,
        "snapshots": found.snapshots,
    }
    if version.kind is not Kind.FOLDER:
        fields["size"] = version.size
        fields["mtime_ns"] = int(version.mtime)
    if version.sha256:
        fields["sha256"] = version.sha256.hex()
    if version.kind is Kind.SYMLINK:
        fields["target"] = escape_path(version.target)
    return fields
