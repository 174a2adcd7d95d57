"""Summaries of what was done: fields for ``--json``, and lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncbackup.format.escape import escape_path
from asyncbackup.model import Kind
from asyncbackup.text import terminal_path, terminal_text
from asyncbackup.units import format_count, format_duration, format_rate, format_size, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncbackup.model import Failure, RunSummary
    from asyncbackup.restore.summary import RestoreSummary

FAILURES_SHOWN = 20
_LABEL_WIDTH = 10


def row(label: str, text: str) -> str:
    """One line of a summary: a label and what is said under it."""
    return f"  {label:<{_LABEL_WIDTH}} {text}"


def failure_lines(failures: Sequence[Failure], *, total: int, every: bool) -> list[str]:
    """A line for each failed entry with its reason; the first 20 unless ``every`` is to be named."""
    shown = failures if every else failures[:FAILURES_SHOWN]
    lines = [
        row("failed" if number == 0 else "", f"{_name(failure)}: {terminal_text(failure.reason)}")
        for number, failure in enumerate(shown)
    ]
    if (more := total - len(shown)) > 0:
        hint = "" if every else "; --verbose names all"
        lines.append(row("", f"and {format_count(more)} more{hint}"))
    return lines


def failure_events(section: str, failures: Iterable[Failure]) -> list[dict[str, object]]:
    """An event for each failed entry; paths are escaped as in manifests."""
    return [
        {
            "event": "failure",
            "section": section,
            "path": escape_path(failure.path),
            "kind": failure.kind,
            "reason": failure.reason,
        }
        for failure in failures
    ]


def run_fields(summary: RunSummary) -> dict[str, object]:
    """The summary event of a run. Its failures are events of their own, so that a line stays a line."""
    fields = msgspec.structs.asdict(summary)
    del fields["failures"]
    fields["elapsed_seconds"] = round(summary.elapsed_seconds, 3)
    return fields


def tree_lines(summary: RunSummary) -> list[str]:
    """What was found in the tree: files by what became of them, and what else there is."""
    files = (
        f"{format_count(summary.files_scanned)}: {format_count(summary.files_new)} new, "
        f"{format_count(summary.files_changed)} changed, {format_count(summary.files_unchanged)} unchanged, "
        f"{format_count(summary.files_failed)} failed"
    )
    if summary.files_deleted:
        files += f"; {format_count(summary.files_deleted)} gone since the last snapshot"
    others = f"{plural(summary.folders, 'folder')}, {plural(summary.symlinks, 'symlink')}"
    if summary.files_ignored:
        others += f"; {format_count(summary.files_ignored)} of other kinds ignored"
    return [row("files", files), row("besides", others)]


def failed_count(summary: RunSummary) -> int:
    """How many entries could not be saved, those included that are no files."""
    return max(summary.files_failed, len(summary.failures))


def run_lines(summary: RunSummary, *, verbose: bool) -> list[str]:
    """A run as a person wants to see it."""
    name = terminal_text(summary.section)
    if summary.dry_run:
        lines = [f"{name}: dry run, nothing was saved"]
    elif summary.snapshot:
        lines = [f"{name}: snapshot {summary.snapshot}"]
    else:
        lines = [f"{name}: no snapshot"]
    lines += tree_lines(summary)
    read = f"{format_size(summary.bytes_read)} of {format_size(summary.bytes_scanned)}"
    if summary.dry_run:
        lines.append(row("to upload", format_size(summary.bytes_to_upload)))
        lines.append(row("took", format_duration(summary.elapsed_seconds)))
        return [*lines, *failure_lines(summary.failures, total=failed_count(summary), every=verbose)]
    lines.append(row("read", read))
    uploaded = format_size(summary.bytes_uploaded)
    if summary.bytes_uploaded:
        uploaded += f" at {format_rate(summary.bytes_uploaded, summary.elapsed_seconds)}"
    lines.append(row("uploaded", uploaded))
    lines.append(row("requests", request_text(summary.requests) + _at_once(summary)))
    lines.append(row("took", format_duration(summary.elapsed_seconds) + _limited(summary)))
    lines.append(row("in flight", f"at most {format_size(summary.peak_inflight_bytes)} of file bytes"))
    return [*lines, *failure_lines(summary.failures, total=failed_count(summary), every=verbose)]


def restore_fields(summary: RestoreSummary) -> dict[str, object]:
    """The summary event of a restore."""
    fields = msgspec.structs.asdict(summary)
    del fields["failures"]
    fields["elapsed_seconds"] = round(summary.elapsed_seconds, 3)
    return fields


def restore_lines(summary: RestoreSummary, *, verbose: bool) -> list[str]:
    """A restore as a person wants to see it."""
    name, target = terminal_text(summary.section), terminal_text(summary.target)
    verb = "would restore" if summary.dry_run else "restored"
    lines = [f"{name}: {verb} snapshot {summary.snapshot} to {target}"]
    files = f"{format_count(summary.files_restored)} restored"
    if summary.files_resumed:
        files += f", {format_count(summary.files_resumed)} in place from an interrupted restore"
    if summary.files_skipped:
        files += f", {format_count(summary.files_skipped)} left as they are"
    files += f", {format_count(summary.files_failed)} failed"
    lines.append(row("files", files))
    lines.append(
        row(
            "besides",
            f"{plural(summary.folders, 'folder')}, {plural(summary.symlinks, 'symlink')}, "
            f"{plural(summary.hardlinks, 'hard link')}",
        )
    )
    if not summary.dry_run:
        lines.append(
            row(
                "written",
                f"{format_size(summary.bytes_restored)} at "
                f"{format_rate(summary.bytes_restored, summary.elapsed_seconds)}",
            )
        )
        lines.append(row("requests", request_text(summary.requests)))
    lines.append(row("took", format_duration(summary.elapsed_seconds)))
    lines += [
        row("note" if not number else "", terminal_text(note)) for number, note in enumerate(summary.notes)
    ]
    return [*lines, *failure_lines(summary.failures, total=summary.failures_total, every=verbose)]


def request_text(requests: Mapping[str, int]) -> str:
    """``"17 (PutObject 15, HeadObject 2)"``, the most frequent first."""
    total = sum(requests.values())
    if not total:
        return "none"
    ordered = sorted(requests.items(), key=lambda item: (-item[1], item[0]))
    return f"{format_count(total)} ({', '.join(f'{name} {format_count(count)}' for name, count in ordered)})"


def _at_once(summary: RunSummary) -> str:
    if not summary.concurrency.get("peak"):
        return ""
    return f", at most {summary.concurrency['peak']} of {summary.concurrency['final']} at once"


def _limited(summary: RunSummary) -> str:
    if not summary.limited_by:
        return ""
    share = summary.limited_by_shares.get(summary.limited_by)
    percent = f" ({share:.0%} of the time)" if share is not None else ""
    return f", limited by {terminal_text(summary.limited_by)}{percent}"


def _name(failure: Failure) -> str:
    return terminal_path(failure.path) + "/" * (failure.kind is Kind.FOLDER and bool(failure.path))
