"""A transfer that is made when there is something to transfer.

Its stages, with tasks and threads for every request that there may be, are a seventh of what a run without
a change would load and set up, for nothing.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from asyncbackup.flow.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from asyncbackup.flow.channel import ChannelWatches, Receiver, Sender
    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import Change, RunCounters
    from asyncbackup.pipeline.holdings import KnownContents
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.pipeline.transfer import Transfer
    from asyncbackup.pipeline.transfer_settings import TransferSettings
    from asyncbackup.resume import UploadJournal
    from asyncbackup.store.base import Store

_NEVER = Stopwatch()
"""What stopwatches show of a transfer that is not there."""


class LateTransfer:
    """Runs as the transfer does that it makes. Use :func:`late_transfer`."""

    def __init__(self, make: Callable[[], Awaitable[Transfer]]) -> None:
        self._make = make
        self._made: Transfer | None = None

    async def run(
        self, changes: Receiver[list[Change]], outcomes: Sender[Outcome], *, in_order: bool = False
    ) -> None:
        """As :meth:`Transfer.run`; without a change nothing is made."""
        if not await changes.wait():
            changes.close()
            outcomes.close()
            return
        if self._made is None:
            self._made = await self._make()
        await self._made.run(changes, outcomes, in_order=in_order)

    @property
    def peak_bytes(self) -> int:
        """The most file bytes that were in flight."""
        return self._made.budget.peak_bytes if self._made is not None else 0

    @property
    def bodies_waiting(self) -> Stopwatch:
        return self._made.bodies_waiting if self._made is not None else _NEVER

    @property
    def stages(self) -> Mapping[str, ChannelWatches]:
        return self._made.stages if self._made is not None else {}

    @property
    def memory_short(self) -> Stopwatch:
        return self._made.budget.short if self._made is not None else _NEVER

    @property
    def sending(self) -> Stopwatch:
        return self._made.sending if self._made is not None else _NEVER


@asynccontextmanager
async def late_transfer(
    settings: Callable[[], Awaitable[TransferSettings]],
    store: Store,
    journal: UploadJournal,
    counters: RunCounters,
    stop: StopRequest,
    contents: KnownContents | None = None,
    reading: SideProcess | None = None,
) -> AsyncIterator[LateTransfer]:
    """A transfer that is made with ``settings`` when the first change comes, and cleaned up however the
    block ends. ``reading`` is the process that reads small files, where there is one."""
    async with AsyncExitStack() as stack:

        async def make() -> Transfer:
            from asyncbackup.pipeline.transfer import open_transfer

            opened = open_transfer(await settings(), store, journal, counters, stop, contents, reading)
            return await stack.enter_async_context(opened)

        yield LateTransfer(make)
