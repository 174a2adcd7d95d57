"""Reading one large file part by part, within the byte budget, and checking that it stood still."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import aiofiles
import msgspec

from asyncbackup.errors import SourceError
from asyncbackup.flow.cleanup import run_shielded
from asyncbackup.format.manifest_entries import entry_fits
from asyncbackup.model import source_entry
from asyncbackup.pipeline.attributes import entry_of_source, read_xattrs
from asyncbackup.source import folder_descriptor, open_file

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable

    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.buffers import SpareBuffers
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.model import Entry, SourceEntry


class RawFile(Protocol):
    """What is used of aiofiles' unbuffered file."""

    def fileno(self) -> int: ...

    async def readinto(self, buffer: memoryview, /) -> int | None: ...

    async def read(self, size: int, /) -> bytes: ...


class ClosableFile(Protocol):
    async def close(self) -> None: ...


class LargeFile:
    """An open file; ``entry`` is its state when it was opened, without digest and extent."""

    def __init__(
        self,
        file: RawFile,
        entry: Entry,
        status: os.stat_result,
        gate: ThreadGate,
        buffers: SpareBuffers,
    ) -> None:
        self.entry = entry
        self._file = file
        self._status = status
        self._gate = gate
        self._buffers = buffers
        self._content = hashlib.sha256()
        self._counted = False

    @property
    def path(self) -> bytes:
        return self.entry.path

    @property
    def status(self) -> os.stat_result:
        """Its ``fstat`` when it was opened."""
        return self._status

    async def blocks(self, budget: ByteBudget, block_size: int) -> AsyncGenerator[memoryview, None]:
        """The content in blocks of ``block_size`` bytes, the last one shorter.

        Each block's bytes are taken from the budget before it is read; the
        caller releases them. Its memory is used again once nobody views it.
        Raises ``SourceError`` where the file cannot be read, or gives fewer or
        more bytes than it had when it was opened.
        """
        remaining = self.entry.size
        while remaining:
            length = min(block_size, remaining)
            await budget.acquire(length)
            try:
                block = await self._fill(length)
            except BaseException:
                budget.release(length)
                raise
            remaining -= length
            yield block
            # While this waits for room for the next one, it must not hold on to this one.
            del block
        if await self._read_on():
            raise SourceError(self.path, "it became longer while it was read")

    async def samples(self, size: int) -> list[bytes]:
        """``size`` bytes each from its beginning, middle and end. Does not move where it is read."""

        def read() -> list[bytes]:
            last = max(0, self.entry.size - size)
            return [os.pread(self._file.fileno(), size, start) for start in (0, last // 2, last)]

        try:
            return await self._gate.run(read)
        except OSError as error:
            raise SourceError(self.path, f"cannot read: {error.strerror}") from error

    async def _fill(self, length: int) -> memoryview:
        block = self._buffers.take(length)
        filled = 0
        while filled < length:
            try:
                count = await self._file.readinto(block[filled:])
            except OSError as error:
                raise SourceError(self.path, f"cannot read: {error.strerror}") from error
            if not count:
                raise SourceError(self.path, "it became shorter while it was read")
            filled += count
        return block

    async def _read_on(self) -> bool:
        try:
            return bool(await self._file.read(1))
        except OSError as error:
            raise SourceError(self.path, f"cannot read: {error.strerror}") from error

    async def digest_block(self, block: memoryview, *, alone: bool) -> bytes:
        """Count a block into the content's digest; with ``alone`` also give its own SHA-256."""
        first, self._counted = not self._counted, True
        if first or not alone:
            await self._gate.run(self._content.update, block)
            # The first block is all that was counted so far.
            return self._content.digest() if alone else b""
        _, own = await asyncio.gather(
            self._gate.run(self._content.update, block), self._gate.run(_sha256, block)
        )
        return own

    async def finish(self) -> Entry:
        """The entry with its digest. Raises ``SourceError`` if the file changed since it was opened."""
        try:
            status = await self._gate.run(os.fstat, self._file.fileno())
        except OSError as error:
            raise SourceError(self.path, f"cannot read: {error.strerror}") from error
        before = self._status
        if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (
            before.st_size,
            before.st_mtime_ns,
            before.st_ctime_ns,
        ):
            raise SourceError(self.path, "it kept changing while it was read")
        return msgspec.structs.replace(self.entry, sha256=self._content.digest())


def _sha256(block: memoryview) -> bytes:
    return hashlib.sha256(block).digest()


@asynccontextmanager
async def open_large(
    root: bytes, seen: SourceEntry, gate: ThreadGate, buffers: SpareBuffers
) -> AsyncIterator[LargeFile]:
    """Open a file of the tree for the length of a block, to be read into ``buffers``.

    Raises ``SourceError``.
    """

    def opener(_: str, __: int) -> int:
        with folder_descriptor(root, seen.folder) as folder:
            return open_file(seen.name, folder)

    opening = asyncio.ensure_future(aiofiles.open("", "rb", buffering=0, opener=opener))
    try:
        file = await asyncio.shield(opening)
    except OSError as error:
        raise SourceError(seen.path, f"cannot read: {error.strerror}") from error
    except asyncio.CancelledError:
        # The thread opens it all the same, and nobody else would close it.
        await run_shielded(_close_once_open(opening), what="closing a file")
        raise
    try:
        status, entry = await gate.run(_look_at, file.fileno(), seen)
        yield LargeFile(file, entry, status, gate, buffers)
    finally:
        # A cancelled call that waits for its thread never runs.
        await run_shielded(file.close(), what="closing a file")


async def _close_once_open(opening: Awaitable[ClosableFile]) -> None:
    with suppress(OSError):
        await (await opening).close()


def _look_at(descriptor: int, seen: SourceEntry) -> tuple[os.stat_result, Entry]:
    try:
        looked_ns = time.time_ns()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(seen.path, "it is no regular file any more")
        entry = entry_of_source(
            source_entry(seen.folder, seen.name, status), looked_ns=looked_ns, xattrs=read_xattrs(descriptor)
        )
        if not entry_fits(entry):
            raise SourceError(
                seen.path, "its path and extended attributes are too large for a manifest (1 MiB in all)"
            )
        return status, entry
    except OSError as error:
        raise SourceError(seen.path, f"cannot read: {error.strerror}") from error
