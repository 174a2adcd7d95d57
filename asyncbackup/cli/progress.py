"""How far a command is: a live display on a terminal, a line now and then elsewhere.

The display reads counters; it never stands in the way of the work. On a
terminal it draws from a thread of its own, so that a terminal that is stopped
(Ctrl-S) does not stop a backup.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.text import terminal_path
from asyncbackup.units import format_count, format_duration, format_size, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from asyncbackup.cli.output import Output
    from asyncbackup.model import RunCounters
    from asyncbackup.prune.summary import PruneCounters
    from asyncbackup.rebuild.summary import RebuildCounters
    from asyncbackup.restore.summary import RestoreCounters
    from asyncbackup.verify.summary import VerifyCounters

REFRESH_PER_SECOND = 5
FIRST_LINE_SECONDS = 10.0
LAST_LINE_SECONDS = 600.0

# A request costs about as much time as this many bytes: what makes the estimate fit for trees
# of small files as well as for one large file.
FILE_COST_BYTES = 128 * 1024
_WINDOW_SECONDS = 20.0
_SETTLED_SECONDS = 2.0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How far a command is. Totals are 0 while nobody knows them; ``unit`` is what ``files_*`` count."""

    verb: str
    unit: str = "files"
    files_done: int
    bytes_done: int
    files_total: int = 0
    bytes_total: int = 0
    failed: int = 0
    failed_word: str = "failed"
    retries: int = 0
    path: bytes = b""

    @property
    def work_done(self) -> int:
        # Bytes of which nobody says how many there will be are no measure.
        return self.files_done * FILE_COST_BYTES + (self.bytes_done if self.bytes_total else 0)

    @property
    def work_total(self) -> int:
        return self.bytes_total + self.files_total * FILE_COST_BYTES

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1; ``None`` while the total is unknown."""
        return min(1.0, self.work_done / self.work_total) if self.work_total else None


def run_figures(counters: RunCounters) -> Figures:
    """The figures of a run: what was found unchanged counts as done."""
    files = counters.files_new + counters.files_changed + counters.files_unchanged + counters.files_failed
    return Figures(
        verb="saving",
        files_done=files,
        bytes_done=counters.bytes_unchanged + counters.bytes_read,
        files_total=counters.files_total,
        bytes_total=counters.bytes_total,
        failed=counters.files_failed,
        retries=counters.retries,
        path=counters.current_path,
    )


def restore_figures(counters: RestoreCounters) -> Figures:
    """The figures of a restore."""
    files = counters.files_restored + counters.files_resumed + counters.files_skipped + counters.files_failed
    return Figures(
        verb="restoring",
        files_done=files,
        bytes_done=counters.bytes_done,
        files_total=counters.files_total,
        bytes_total=counters.bytes_total,
        failed=counters.files_failed,
        retries=counters.retries,
        path=counters.current_path,
    )


def verify_figures(counters: VerifyCounters) -> Figures:
    """The figures of a verification: first the manifests, then the objects."""
    if not counters.objects_total:
        return Figures(
            verb="reading manifests",
            unit="snapshots",
            files_done=counters.snapshots_read,
            files_total=counters.snapshots_total,
            bytes_done=0,
            failed=counters.damaged_objects,
            failed_word="damaged",
        )
    return Figures(
        verb="checking objects",
        unit="objects",
        files_done=counters.objects_checked,
        files_total=counters.objects_total,
        bytes_done=counters.bytes_read,
        failed=counters.damaged_objects,
        failed_word="damaged",
    )


def rebuild_figures(counters: RebuildCounters) -> Figures:
    """The figures of a rebuild: objects that are asked for their metadata, or entries of a manifest."""
    if counters.objects_asked and not counters.entries:
        return Figures(
            verb="asking objects",
            unit="objects",
            files_done=counters.objects_asked,
            files_total=counters.objects_listed,
            bytes_done=0,
            failed=counters.unrecovered_objects,
            failed_word="not whole",
        )
    return Figures(verb="reading", unit="entries", files_done=counters.entries, bytes_done=0)


def prune_figures(counters: PruneCounters) -> Figures:
    """The figures of a prune: manifests, then what is listed, then what is deleted."""
    if counters.objects_total:
        return Figures(
            verb="deleting",
            unit="objects",
            files_done=counters.objects_deleted,
            files_total=counters.objects_total,
            bytes_done=0,
        )
    if counters.objects_listed:
        return Figures(verb="listing", unit="objects", files_done=counters.objects_listed, bytes_done=0)
    return Figures(
        verb="reading",
        unit="manifests",
        files_done=counters.manifests_read,
        files_total=counters.manifests_total,
        bytes_done=0,
    )


class Pace:
    """How fast the work went lately, and how long the rest will take at that pace."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, Figures]] = deque()

    def note(self, figures: Figures) -> None:
        """Take a sample; old ones are forgotten."""
        now = self._clock()
        self._samples.append((now, figures))
        while now - self._samples[0][0] > _WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()

    def bytes_per_second(self) -> float | None:
        """The rate of file bytes, or ``None`` while it is too early to say."""
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        if end - begin < _SETTLED_SECONDS:
            return None
        return max(0.0, (last.bytes_done - first.bytes_done) / (end - begin))

    def seconds_left(self) -> float | None:
        """How long the rest takes at this pace; ``None`` while nobody can tell."""
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        work = last.work_done - first.work_done
        if end - begin < _SETTLED_SECONDS or work <= 0 or not last.work_total:
            return None
        return max(0, last.work_total - last.work_done) * (end - begin) / work


def progress_line(label: str, figures: Figures, pace: Pace) -> str:
    """One line of plain text."""
    parts = [*_amounts(figures, " of "), *_speed(figures, pace), *_trouble(figures)]
    return f"{label}: {', '.join(parts)}"


def shows_progress(output: Output) -> bool:
    """Whether :func:`show_progress` shows anything, so that counting ahead is worth its while."""
    return not output.quiet and (sys.stderr.isatty() or not output.json)


@contextmanager
def show_progress(output: Output, label: str, figures: Callable[[], Figures]) -> Iterator[None]:
    """Show how far the command is while the block runs. Call it on the event loop.

    Everything goes to stderr. Nothing is shown with ``--quiet``, nor with
    ``--json`` unless stderr is a terminal: its reader may take both streams
    for one.
    """
    if not shows_progress(output):
        yield
    elif sys.stderr.isatty():
        with _live(label, figures):
            yield
    else:
        with _Lines(output, label, figures):
            yield


class _Lines:
    """A line after 10 seconds, then ever more rarely: a long run under cron shall not fill a mailbox."""

    def __init__(self, output: Output, label: str, figures: Callable[[], Figures]) -> None:
        self._output = output
        self._label = label
        self._figures = figures
        self._pace = Pace()
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    def __enter__(self) -> None:
        self._pace.note(self._figures())
        self._timer = self._loop.call_later(FIRST_LINE_SECONDS, self._tick)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        figures = self._figures()
        self._pace.note(figures)
        self._output.note(progress_line(self._label, figures, self._pace))
        elapsed = self._loop.time() - self._started
        self._timer = self._loop.call_later(next_line_seconds(elapsed), self._tick)


def next_line_seconds(elapsed_seconds: float) -> float:
    """How long to wait for the next plain line: a quarter of the time so far, within bounds."""
    return min(LAST_LINE_SECONDS, max(FIRST_LINE_SECONDS, elapsed_seconds / 4))


@contextmanager
def _live(label: str, figures: Callable[[], Figures]) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live

    pace = Pace()

    def render() -> RenderableType:
        now = figures()
        pace.note(now)
        return render_live(label, now, pace)

    console = Console(stderr=True, highlight=False)
    with Live(
        get_renderable=render,
        console=console,
        refresh_per_second=REFRESH_PER_SECOND,
        transient=True,
        # stdout holds results only, and those come after the display.
        redirect_stdout=False,
    ):
        yield


def render_live(label: str, figures: Figures, pace: Pace) -> RenderableType:
    """Two lines: a bar with figures, and what is under way."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share = figures.share
    percent = "" if share is None else f"{share:4.0%}"
    amounts = "  ".join([percent, *_amounts(figures, "/"), *_speed(figures, pace)])
    first = Table.grid(padding=(0, 1), expand=True)
    first.add_column(no_wrap=True, min_width=min(len(label), 20))
    first.add_column(ratio=1, min_width=4)
    first.add_column(no_wrap=True, overflow="ellipsis")
    # Text, not markup: a file called "[red]" is a file called "[red]".
    first.add_row(
        Text(label, "bold"),
        ProgressBar(total=1.0, completed=share or 0.0, pulse=share is None),
        Text(amounts),
    )
    second = Text("  ", no_wrap=True, overflow="ellipsis", style="dim")
    doing = f"{figures.verb} {terminal_path(figures.path)}" if figures.path else figures.verb
    second.append(" · ".join([*_trouble(figures), doing]))
    return Group(first, second)


def _amounts(figures: Figures, of: str) -> list[str]:
    """How much is done, and of how much where that is known."""
    files, size = format_count(figures.files_done), format_size(figures.bytes_done)
    if figures.files_total:
        # A tree grows while it is counted and saved; a total below what is done would be no total.
        files += f"{of}{format_count(max(figures.files_total, figures.files_done))}"
    if figures.bytes_total:
        size += f"{of}{format_size(max(figures.bytes_total, figures.bytes_done))}"
    amounts = [f"{files} {figures.unit}"]
    if figures.bytes_done or figures.bytes_total:
        amounts.append(size)
    return amounts


def _speed(figures: Figures, pace: Pace) -> list[str]:
    parts: list[str] = []
    if (rate := pace.bytes_per_second()) is not None and figures.bytes_done:
        parts.append(f"{format_size(rate)}/s")
    if (left := pace.seconds_left()) is not None and figures.work_done < figures.work_total:
        # To the second: a forecast knows no tenths.
        text = f"{max(1, round(left))} s" if left < 60 else format_duration(left)
        parts.append(f"{text} left")
    return parts


def _trouble(figures: Figures) -> list[str]:
    parts: list[str] = []
    if figures.failed:
        parts.append(f"{format_count(figures.failed)} {figures.failed_word}")
    if figures.retries:
        parts.append(f"{plural(figures.retries, 'request')} sent again")
    return parts
