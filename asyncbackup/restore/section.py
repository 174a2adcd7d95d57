"""Restoring one section: resources are opened here, and given back however it ends."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.selection import Role, Selection, State
from asyncbackup.config import SectionSettings
from asyncbackup.errors import ConfigError, FormatError, StoreError, TargetError
from asyncbackup.flow.budget import ByteBudget
from asyncbackup.flow.cleanup import run_shielded
from asyncbackup.flow.hops import hop
from asyncbackup.flow.pace import Pace
from asyncbackup.flow.stop import StopRequest
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.escape import escape_path
from asyncbackup.repository.open import Repository, open_repository
from asyncbackup.repository.side_parser import open_side_parsing
from asyncbackup.repository.snapshots import resolve_snapshot
from asyncbackup.restore.builder import Builder
from asyncbackup.restore.fetcher import Fetcher
from asyncbackup.restore.filter import EntryFilter
from asyncbackup.restore.forecast import forecast
from asyncbackup.restore.large import LargeFiles, LargeSettings
from asyncbackup.restore.metadata import Privileges
from asyncbackup.restore.overwrite import Overwrite
from asyncbackup.restore.packed import PackedFiles
from asyncbackup.restore.restorer import Restorer
from asyncbackup.restore.selecting import relocate, select
from asyncbackup.restore.side_writer import SLOT_BYTES, open_side_writer
from asyncbackup.restore.spans import SPAN_BYTES
from asyncbackup.restore.summary import RestoreCounters, RestoreSummary
from asyncbackup.restore.tally import Tally
from asyncbackup.restore.transfer import Transfer
from asyncbackup.restore.tree import FOLDER_MODE, TargetTree

if TYPE_CHECKING:
    from asyncbackup.config import Settings
    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.model import RunId

log = logging.getLogger(__name__)

THREADS = 4
OTHER_FILES = 128
"""Of the open files that the process may have, those that no connection takes: cached folders, large files
being written, databases. The rest is for downloads at once, if the concurrency is that high."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TOKEN_DIGITS = 16


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked for, checked."""

    section: SectionSettings
    target: Path
    filter: EntryFilter
    overwrite: Overwrite
    privileged: bool
    dry_run: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def identity(self, repository: Repository, run: RunId) -> dict[str, str]:
        """What makes a restore the same as an earlier one, so that it goes on with it."""
        return {
            "section": self.section.name,
            "destination": self.section.destination,
            "repository": repository.repository_id,
            "snapshot": run,
            "target": escape_path(os.fsencode(self.target)),
            "paths": msgspec.json.encode([escape_path(path) for path in self.filter.paths]).decode(),
            "include": msgspec.json.encode(self.include).decode(),
            "exclude": msgspec.json.encode(self.exclude).decode(),
            "overwrite": str(self.overwrite),
            "privileged": str(self.privileged),
            "dry_run": str(self.dry_run),
        }


async def restore_section(
    settings: Settings,
    section: SectionSettings,
    *,
    paths: Sequence[bytes] = (),
    snapshot: str = "latest",
    target: Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: str = "always",
    privileged: bool = False,
    dry_run: bool = False,
    counters: RestoreCounters | None = None,
    stop: StopRequest | None = None,
    on_retry: Callable[[str], None] | None = None,
    writing: SideProcess | None = None,
) -> RestoreSummary:
    """Restore a snapshot of a section, or what ``paths`` and patterns choose of it, below ``target``.

    Without ``target`` everything goes to where it came from. ``paths`` are
    relative to the section's root, or absolute below the section's path. An
    interrupted restore goes on where it was when called with the same arguments.
    ``privileged`` also restores set-id bits of files, ``security.*`` and ``trusted.*`` attributes.
    The section's catalog is not needed. ``writing`` is a process that writes small files, made by
    :func:`~asyncbackup.restore.side_writer.fork_writer` before there was a thread; without one they
    are written in threads.

    Single entries that could not be restored are in the summary. Raises
    ``ConfigError`` for paths and options that cannot be, ``SectionBusyError``
    while the same restore is under way elsewhere, ``TargetError`` for a target
    that is full or read-only, ``Interrupted`` after ``stop``, and errors of
    store, format and catalog. What was begun is kept in all these cases.
    """
    began = time.monotonic()
    counters = counters or RestoreCounters()
    stop = stop or StopRequest()
    request = _checked(
        section,
        paths=paths,
        target=target,
        include=include,
        exclude=exclude,
        overwrite=overwrite,
        privileged=privileged,
        dry_run=dry_run,
    )

    def note_retry(what: str) -> None:
        counters.retries += 1
        if on_retry is not None:
            on_retry(what)

    gate = ThreadGate("restore", THREADS)
    budget = ByteBudget(settings.memory_limit_bytes)
    try:
        async with open_repository(settings, section, on_retry=note_retry) as repository:
            run = await resolve_snapshot(repository, snapshot)
            identity = request.identity(repository, run)
            token = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:_TOKEN_DIGITS]
            path = settings.state_dir / "restores" / f"{section.name}-{token}.sqlite3"
            boot = _boot_id()
            async with Selection.open(path, identity, boot=boot) as selection:
                going_on = selection.complete
                if going_on:
                    await selection.begin_again(boot=boot)
                else:
                    async with open_side_parsing(writing, slot_bytes=SLOT_BYTES) as parsing:
                        parsed = msgspec.structs.replace(repository, parsing=parsing)
                        await select(parsed, run, request.filter, selection, gate=gate, stop=stop)
                totals = await selection.totals()
                counters.files_total, counters.bytes_total = totals.files, totals.bytes_total
                tally = Tally(selection, counters)
                if dry_run:
                    await _forecast(request, selection, tally, gate)
                else:
                    resources = _Resources(repository, selection, gate, budget, tally, stop)
                    await _restore(
                        request,
                        resources,
                        writing,
                        token=token,
                        going_on=going_on,
                        concurrency=settings.concurrency,
                    )
                    if tally.failures_total and await _have_moved(request, resources, run):
                        await selection.begin_again(boot=boot)
                        counters.begin_again()
                        tally = Tally(selection, counters)
                        resources = msgspec.structs.replace(resources, tally=tally)
                        await _restore(
                            request,
                            resources,
                            writing,
                            token=token,
                            going_on=True,
                            concurrency=settings.concurrency,
                        )
                if dry_run or not tally.failures_total:
                    selection.discard()
            requests = dict(repository.store.requests)
    finally:
        gate.close()
    return RestoreSummary(
        section=section.name,
        snapshot=run,
        target=escape_path(os.fsencode(request.target)),
        files_restored=counters.files_restored,
        files_resumed=counters.files_resumed,
        files_skipped=counters.files_skipped,
        files_failed=counters.files_failed,
        folders=counters.folders,
        symlinks=counters.symlinks,
        hardlinks=counters.hardlinks,
        bytes_restored=counters.bytes_restored,
        bytes_downloaded=counters.bytes_downloaded,
        requests=requests,
        elapsed_seconds=time.monotonic() - began,
        peak_inflight_bytes=budget.peak_bytes,
        dry_run=dry_run,
        notes=tally.sentences(),
        failures=tuple(sorted(tally.failures, key=lambda failure: failure.path)),
        failures_total=tally.failures_total,
    )


class _Resources(msgspec.Struct, frozen=True):
    """What is open while one restore runs."""

    repository: Repository
    selection: Selection
    gate: ThreadGate
    budget: ByteBudget
    tally: Tally
    stop: StopRequest


async def _restore(
    request: _Request,
    resources: _Resources,
    writing: SideProcess | None,
    *,
    token: str,
    going_on: bool,
    concurrency: int,
) -> None:
    gate, budget, tally, stop = resources.gate, resources.budget, resources.tally, resources.stop
    await _note_root(resources.selection, request)
    async with _open_tree(request.target, gate, create=True) as tree:
        assert tree is not None
        fetcher = Fetcher(resources.repository, tally.counters)
        builder = Builder(
            tree,
            target=str(request.target),
            privileges=Privileges.of_process(privileged=request.privileged),
            overwrite=request.overwrite,
            token=token,
            going_on=going_on,
        )
        async with open_side_writer(writing, builder, target=str(request.target)) as side:
            window_bytes = max(1, min(LargeSettings().window_bytes, budget.limit_bytes // 8))
            large = LargeFiles(
                builder, fetcher, gate, budget, tally.counters, LargeSettings(window_bytes=window_bytes)
            )
            pace = Pace(gate, THREADS)
            transfer = Transfer(
                builder,
                fetcher,
                large,
                PackedFiles(builder, fetcher, pace, budget, side),
                pace,
                budget,
                tally,
                stop,
                side,
                section=request.section.name,
                workers=_downloads_at_once(concurrency),
            )
            try:
                await Restorer(
                    resources.selection,
                    builder,
                    transfer,
                    gate,
                    tally,
                    stop,
                    section=request.section.name,
                    can_open=fetcher.can_open,
                    span_bytes=max(1, min(SPAN_BYTES, budget.limit_bytes // 8)),
                ).run()
            except BaseException:
                # What is done stays done, whatever ended the rest.
                await run_shielded(tally.flush(), what="noting how far the restore came")
                raise


def _downloads_at_once(concurrency: int) -> int:
    """As many as are wanted, if as many files may be open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return concurrency if limit == resource.RLIM_INFINITY else max(1, min(concurrency, limit - OTHER_FILES))


async def _have_moved(request: _Request, resources: _Resources, run: RunId) -> bool:
    """Whether a prune has moved contents that could not be had, since the selection was made; the
    selection then knows where they are."""
    try:
        moved = await relocate(
            resources.repository, run, request.filter, resources.selection, gate=resources.gate
        )
    except (FormatError, StoreError) as error:
        log.info("whether anything was moved by a prune is not known: %s", error)
        return False
    if moved:
        log.info("%d entries were moved by a prune meanwhile", moved)
    return moved > 0


async def _forecast(request: _Request, selection: Selection, tally: Tally, gate: ThreadGate) -> None:
    async with (
        _open_tree(request.target, gate, create=False) as tree,
        aclosing(selection.pages(tuple(Role))) as pages,
    ):
        async for page in pages:
            await tally.add(await hop(gate, forecast, page, tree, request.overwrite))


async def _note_root(selection: Selection, request: _Request) -> None:
    """Note whether the target existed before it is made: then its own metadata may be left alone."""
    root = (await selection.rows([1])).get(1)
    if root is None or root.entry.path or root.state is not State.TODO:
        return
    if root.implied or request.overwrite is Overwrite.NEVER:
        existed = os.path.isdir(request.target)  # noqa: ASYNC240 - one stat
        await selection.mark([(root.id, State.SKIPPED if existed else State.MADE)])


@asynccontextmanager
async def _open_tree(target: Path, gate: ThreadGate, *, create: bool) -> AsyncIterator[TargetTree | None]:
    """The tree below the target, which is made if ``create``; ``None`` where there is none."""
    opened: list[TargetTree] = []

    def open_it() -> None:
        if create:
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                target.mkdir(FOLDER_MODE)
        elif not target.exists():
            return
        opened.append(TargetTree.open(target))

    try:
        try:
            await hop(gate, open_it)
        except (NotADirectoryError, FileExistsError) as error:
            raise ConfigError(f"the target {target} is not a folder, or lies below a file") from error
        except OSError as error:
            raise TargetError(
                f"the target {target} cannot be opened: {error.strerror}; check its permissions"
            ) from error
        yield opened[0] if opened else None
    finally:
        for tree in opened:
            tree.close()


def _checked(
    section: SectionSettings,
    *,
    paths: Sequence[bytes],
    target: Path | None,
    include: Sequence[str],
    exclude: Sequence[str],
    overwrite: str,
    privileged: bool,
    dry_run: bool,
) -> _Request:
    try:
        mode = Overwrite(overwrite)
    except ValueError:
        accepted = ", ".join(Overwrite)
        raise ConfigError(f"--overwrite {overwrite!r} is unknown; accepted are {accepted}") from None
    return _Request(
        section=section,
        target=Path(os.path.realpath(section.path if target is None else target)),
        filter=EntryFilter(paths=paths, include=include, exclude=exclude, root=section.path),
        overwrite=mode,
        privileged=privileged,
        dry_run=dry_run,
        include=tuple(include),
        exclude=tuple(exclude),
    )


def _boot_id() -> str:
    """What tells one boot of this machine from the next; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
