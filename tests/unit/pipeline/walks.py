"""Walking real trees, and making trees that are awkward to walk."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup.excludes import compile_excludes
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.stop import StopRequest
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.pipeline.walker import WalkSettings, walk

if TYPE_CHECKING:
    from asyncbackup.model import Failure, SourceEntry
    from asyncbackup.pipeline.listing import FolderChunk, WalkBatch


class Walk:
    """All that a walk told."""

    def __init__(self, batches: list[WalkBatch]) -> None:
        self.batches = batches
        self.chunks: list[FolderChunk] = [chunk for batch in batches for chunk in batch.chunks]
        self.entries: dict[bytes, SourceEntry] = {}
        for chunk in self.chunks:
            for entry in chunk.entries:
                assert entry.path not in self.entries, "listed twice"
                assert entry.folder == chunk.folder
                self.entries[entry.path] = entry
        self.unlisted: list[Failure] = [failure for batch in batches for failure in batch.unlisted]
        self.special = sorted(path for batch in batches for path in batch.special)
        self.excluded = sum(batch.excluded for batch in batches)

    def chunks_of(self, folder: bytes) -> list[FolderChunk]:
        return [chunk for chunk in self.chunks if chunk.folder == folder]


def settings(
    root: Path | bytes,
    *,
    exclude: tuple[str, ...] = (),
    skip_inodes: frozenset[tuple[int, int]] = frozenset(),
    device: int | None = None,
    tasks: int = 2,
) -> WalkSettings:
    return WalkSettings(
        root=os.fsencode(root),
        excludes=compile_excludes(exclude, section="test"),
        skip_inodes=skip_inodes,
        device=device,
        tasks=tasks,
    )


async def walked(how: WalkSettings, *, stop: StopRequest | None = None, capacity: int = 1) -> Walk:
    """A whole walk, read as fast as it comes."""
    sender: Sender[WalkBatch]
    receiver: Receiver[WalkBatch]
    sender, receiver = open_channel("listings", capacity)
    gate = ThreadGate("walk", how.tasks)

    async def read() -> list[WalkBatch]:
        return [batch async for batch in receiver]

    try:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            group.create_task(walk(how, sender, gate, stop or StopRequest()))
    finally:
        gate.close()
    return Walk(reading.result())


@contextmanager
def deep_tree(base: Path, levels: int, *, name: bytes = b"dd") -> Iterator[Path]:
    """A chain of folders with a file at its end; its path may be longer than the system takes."""
    top = base / "deep"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    try:
        for _ in range(levels):
            os.mkdir(name, dir_fd=descriptor)
            deeper = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=descriptor))
        yield top
    finally:
        os.close(descriptor)
        # pytest's own removal recurses once a level.
        subprocess.run(["rm", "-rf", str(top)], check=True)
