"""Small files that were downloaded, put together until they are worth a thread hop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.channel import Sender
    from asyncbackup.restore.builder import FetchedFile

BATCH_FILES = 64
"""A hop costs as much as writing several files, and the interpreter's lock twice."""
BATCH_BYTES = 2 * 1024 * 1024


class Batches:
    """Files for the writers. They hold bytes of ``budget``, so whoever needs some goes through
    :meth:`lease` or calls :meth:`send` first: nobody waits for a batch that waits to become full.

    Shared by the tasks of one transfer; :meth:`send` is called once more when all of them are done.
    """

    def __init__(self, sender: Sender[list[FetchedFile]], budget: ByteBudget) -> None:
        self._sender = sender
        self._budget = budget
        self._files: list[FetchedFile] = []
        self._bytes = 0

    async def lease(self, size_bytes: int) -> int:
        """Take bytes of the budget, which the writers give back. Returns how many."""
        if not self._budget.has_room(size_bytes):
            await self.send()
        return await self._budget.acquire(size_bytes)

    async def add(self, file: FetchedFile) -> None:
        """Take a file in that holds as many bytes of the budget as its content has as stored."""
        self._files.append(file)
        self._bytes += file.content.length
        if len(self._files) >= BATCH_FILES or self._bytes >= BATCH_BYTES or self._budget.waiting:
            await self.send()

    async def send(self) -> None:
        """Hand what there is to the writers."""
        files, self._files, self._bytes = self._files, [], 0
        if files:
            await self._sender.send(files)
