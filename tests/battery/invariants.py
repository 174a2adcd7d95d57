"""What holds after every case, whatever happened before: the invariants, checked by one clean run.

A run ends clean, the destination verifies, nothing unfinished is left, little was sent twice, and
every snapshot that was ever committed restores exactly.
"""

from __future__ import annotations

import shutil
from collections import Counter
from typing import TYPE_CHECKING

from asyncbackup.engine import OUTCOMES
from asyncbackup.repository.open import open_repository
from asyncbackup.store.local_keys import is_own
from asyncbackup.verify.section import verify_section
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.model import RunSummary

Picture = dict[bytes, tuple[object, ...]]


def in_flight(bench: Workbench) -> int:
    """The most objects that a kill may cost: requests under way, receipts that wait for the recorder,
    and those of the transaction that it was writing."""
    concurrency = bench.settings.concurrency
    return concurrency + 2 * (OUTCOMES + 2 * concurrency)


async def check_invariants(
    bench: Workbench, *, earlier: dict[str, Picture] | None = None, read_percent: float = 0.0
) -> RunSummary:
    """Run once more and check everything. ``earlier`` are pictures of snapshots committed before."""
    summary = await bench.run()
    assert summary.failures == ()
    assert summary.files_failed == 0
    scanned = summary.files_new + summary.files_changed + summary.files_unchanged
    assert summary.files_scanned == scanned

    verified = await verify_section(bench.settings, bench.section, read_percent=read_percent)
    assert verified.damaged == ()

    async with open_repository(bench.settings, bench.section) as repository:
        unfinished = [item async for page in repository.store.list_uploads("") for item in page]
        keys = [info.key async for page in repository.store.list("home/data/") for info in page]
    assert unfinished == []
    assert left_behind(bench) == []
    stored = Counter(key.split("/", 3)[3] for key in keys if "/files/" in key and not key.endswith("/"))
    committed = len(earlier or ()) + 1
    assert sum(count - 1 for count in stored.values()) <= in_flight(bench) * committed

    await check_restores(bench, "latest", picture(bench.tree))
    for snapshot, looked in (earlier or {}).items():
        await check_restores(bench, snapshot, looked)
    again = await bench.run()
    assert (again.files_unchanged, again.bytes_uploaded) == (again.files_scanned, 0)
    return summary


async def check_restores(bench: Workbench, snapshot: str, looked: Picture) -> None:
    """The snapshot restores to exactly what the tree looked like."""
    target = bench.base / "invariants"
    try:
        await bench.restored(snapshot=snapshot, name=target.name)
        restored = picture(target)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    assert restored == looked


def left_behind(bench: Workbench) -> list[Path]:
    """Files of the section's own that have no business being there after a clean run."""
    state = bench.settings.state_dir
    found = [path for path in state.rglob("*") if path.is_file() and not _belongs(path)]
    if bench.section.destination.startswith("file://"):
        root = destination(bench)
        found += [path for path in root.rglob(".asyncbackup-*") if is_own(bytes(path.relative_to(root)))]
    return found + list(bench.tree.rglob(".asyncbackup-restore-*"))


def destination(bench: Workbench) -> Path:
    """The folder behind a ``file://`` destination."""
    return type(bench.base)(bench.section.destination.removeprefix("file://"))


def _belongs(path: Path) -> bool:
    return path.name.endswith((".sqlite3", ".sqlite3.sha256")) and path.parent.name != "restores"
