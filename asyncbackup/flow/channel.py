"""Bounded channels between stages, after trio's memory channels.

A channel has counted senders and receivers. It ends for the receivers when
every sender was closed and the buffer is empty. Leaving a ``with sender:``
block closes the sender only if the block ended *clean*: a stage that fails
leaves its channel open, so that its failure can never look like the end of the
input (the task group then cancels whoever still waits).

Channels belong to one event loop and are not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from asyncbackup.flow.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

T = TypeVar("T")


class EndOfChannel(Exception):  # noqa: N818 - a signal, as StopAsyncIteration is
    """All senders were closed and the buffer is empty."""


class BrokenChannelError(Exception):
    """All receivers were closed: nobody will ever take the item."""


class ChannelWatches:
    """For how long something was the case: ``filled``, that items lay in the channel, so that the
    receivers were what it waited for; ``working``, that a receiver was busy with what it had taken."""

    __slots__ = ("filled", "working")

    def __init__(self, filled: Stopwatch | None = None, working: Stopwatch | None = None) -> None:
        self.filled = filled or Stopwatch()
        self.working = working or Stopwatch()


class ChannelStatistics:
    """Occupancy figures of one channel. ``*_wait_seconds`` are sums over all waiters.

    ``filled`` and ``working`` are its :class:`ChannelWatches`; ``blocked`` runs while a sender waits
    for room.
    """

    __slots__ = (
        "blocked",
        "capacity",
        "filled",
        "items",
        "name",
        "receiver_wait_seconds",
        "sender_wait_seconds",
        "working",
    )

    def __init__(self, name: str, capacity: int, watches: ChannelWatches | None = None) -> None:
        watches = watches or ChannelWatches()
        self.name = name
        self.capacity = capacity
        self.items = 0
        self.sender_wait_seconds = 0.0
        self.receiver_wait_seconds = 0.0
        self.filled = watches.filled
        self.blocked = Stopwatch()
        self.working = watches.working


_watching: ContextVar[list[ChannelStatistics] | None] = ContextVar("watched channels", default=None)


@contextmanager
def watch_channels() -> Iterator[list[ChannelStatistics]]:
    """The statistics of every channel that is opened in the block, also by the tasks that it starts."""
    seen: list[ChannelStatistics] = []
    token = _watching.set(seen)
    try:
        yield seen
    finally:
        _watching.reset(token)


class _State(Generic[T]):
    __slots__ = (
        "blocked",
        "buffer",
        "getters",
        "idle",
        "putters",
        "receivers",
        "senders",
        "statistics",
        "wanted",
    )

    def __init__(self, statistics: ChannelStatistics) -> None:
        self.buffer: deque[T] = deque()
        self.getters: deque[asyncio.Future[None]] = deque()
        self.putters: deque[asyncio.Future[None]] = deque()
        self.senders = 0
        self.receivers = 0
        self.idle = 0
        """Receivers that wait for an item."""
        self.blocked = 0
        """Senders that wait for room."""
        self.wanted = 1
        """Items for which a receiver that waits is woken."""
        self.statistics = statistics

    def full(self) -> bool:
        return len(self.buffer) >= self.statistics.capacity

    def take(self) -> T:
        """The next item out of a buffer that is not empty."""
        item = self.buffer.popleft()
        if not self.buffer:
            self.statistics.filled.stop()
        _wake_one(self.putters)
        return item

    def note_idle(self, change: int) -> None:
        self.idle += change
        self.statistics.working.set(self.receivers > self.idle)

    def note_blocked(self, change: int) -> None:
        self.blocked += change
        self.statistics.blocked.set(self.blocked > 0)


def _wake_one(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return


def _wake_all(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        _wake_one(waiters)


async def _wait_in(waiters: deque[asyncio.Future[None]]) -> None:
    waiter = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except BaseException:
        # Cancelled after the wake-up was already ours: hand it on, or another waiter sleeps for ever.
        if waiter.done() and not waiter.cancelled():
            _wake_one(waiters)
        raise


class _End(Generic[T]):
    """What both ends have in common. A ``with`` block that ends clean closes its end."""

    __slots__ = ("_closed", "_state")

    def __init__(self, state: _State[T]) -> None:
        self._state = state
        self._closed = False

    def close(self) -> None:
        """Say that this end is used no more. Idempotent."""
        raise NotImplementedError

    @property
    def statistics(self) -> ChannelStatistics:
        return self._state.statistics

    def __len__(self) -> int:
        return len(self._state.buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


class Sender(_End[T]):
    """The end that puts items in. Clone it for every task that sends."""

    __slots__ = ()

    def __init__(self, state: _State[T]) -> None:
        super().__init__(state)
        state.senders += 1

    async def send(self, item: T) -> None:
        """Put one item in, waiting while the channel is full.

        Raises ``BrokenChannelError`` when no receiver is left. Cancelling it
        puts nothing in.
        """
        state = self._state
        if self._closed:
            raise RuntimeError(f"sending on a closed sender of channel {state.statistics.name}")
        if state.full() and state.receivers:
            began = monotonic()
            state.note_blocked(1)
            try:
                while state.full() and state.receivers:
                    await _wait_in(state.putters)
            finally:
                state.note_blocked(-1)
                state.statistics.sender_wait_seconds += monotonic() - began
        if not state.receivers:
            raise BrokenChannelError(state.statistics.name)
        state.buffer.append(item)
        state.statistics.items += 1
        state.statistics.filled.start()
        if len(state.buffer) >= state.wanted:
            _wake_one(state.getters)

    async def send_all(self, items: Iterable[T]) -> None:
        """Put several items in, one after another, as room comes free."""
        for item in items:
            await self.send(item)

    def clone(self) -> Sender[T]:
        """A further sender of the same channel, to be closed on its own."""
        if self._closed:
            raise RuntimeError("cloning a closed sender")
        return Sender(self._state)

    def close(self) -> None:
        """Say that this sender sends no more. Idempotent."""
        if not self._closed:
            self._closed = True
            self._state.senders -= 1
            if not self._state.senders:
                _wake_all(self._state.getters)


class Receiver(_End[T]):
    """The end that takes items out, in the order they were sent. Clone it for every task that receives."""

    __slots__ = ()

    def __init__(self, state: _State[T]) -> None:
        super().__init__(state)
        state.receivers += 1
        state.note_idle(0)

    @property
    def ended(self) -> bool:
        """Whether all senders were closed and the channel is empty."""
        return not self._state.senders and not self._state.buffer

    async def wait(self) -> bool:
        """Whether there is an item, waiting while the channel is empty; ``False`` once it has ended.

        Takes nothing out; of several receivers another may.
        """
        try:
            if not self._state.buffer or self._closed:
                await self._wait_for_item()
        except EndOfChannel:
            return False
        return True

    async def receive(self) -> T:
        """Take the next item, waiting while the channel is empty. Raises ``EndOfChannel``.

        Cancelling it takes nothing out.
        """
        state = self._state
        if not state.buffer or self._closed:
            await self._wait_for_item()
        return state.take()

    async def _wait_for_item(self) -> None:
        state = self._state
        if self._closed:
            raise RuntimeError(f"receiving on a closed receiver of channel {state.statistics.name}")
        began = monotonic()
        state.note_idle(1)
        try:
            while not state.buffer:
                if not state.senders:
                    raise EndOfChannel(state.statistics.name)
                await _wait_in(state.getters)
        finally:
            state.note_idle(-1)
            state.statistics.receiver_wait_seconds += monotonic() - began

    async def receive_some(self, limit: int) -> list[T]:
        """Wait for an item, then take it and those there are, at most ``limit``. Raises ``EndOfChannel``."""
        items = [await self.receive()]
        state = self._state
        while state.buffer and len(items) < limit:
            items.append(state.take())
        return items

    async def receive_batch(self, limit: int, *, at_least: int, within_seconds: float) -> list[T]:
        """Wait for an item, then up to ``within_seconds`` until there are ``at_least``, and take them
        and those there are, at most ``limit``.

        Fewer come at the end of the channel, and where it holds no more. For channels with one receiver.
        Raises ``EndOfChannel``; cancelling it takes nothing out.
        """
        state = self._state
        if not state.buffer or self._closed:
            await self._wait_for_item()
        wanted = min(at_least, state.statistics.capacity)
        if len(state.buffer) < wanted and state.senders:
            state.wanted = wanted
            state.note_idle(1)
            try:
                async with asyncio.timeout(within_seconds):
                    while len(state.buffer) < wanted and state.senders:
                        await _wait_in(state.getters)
            except TimeoutError:
                pass
            finally:
                state.wanted = 1
                state.note_idle(-1)
        return await self.receive_some(limit)

    def clone(self) -> Receiver[T]:
        """A further receiver of the same channel; every item goes to one of them."""
        if self._closed:
            raise RuntimeError("cloning a closed receiver")
        return Receiver(self._state)

    def close(self) -> None:
        """Say that this receiver takes no more. Idempotent."""
        if not self._closed:
            self._closed = True
            self._state.receivers -= 1
            self._state.note_idle(0)
            if not self._state.receivers:
                _wake_all(self._state.putters)

    def __aiter__(self) -> Self:
        # No generator: one that a failing stage leaves behind would be finished by the loop, later.
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except EndOfChannel:
            raise StopAsyncIteration from None


def open_channel(
    name: str, capacity: int, *, watches: ChannelWatches | None = None
) -> tuple[Sender[T], Receiver[T]]:
    """One sender and one receiver of a new channel that holds at most ``capacity`` items.

    ``watches`` go on from an earlier channel in the same place.
    """
    if capacity < 1:
        raise ValueError(f"channel {name}: capacity must be at least 1, not {capacity}")
    state: _State[T] = _State(ChannelStatistics(name, capacity, watches))
    if (seen := _watching.get()) is not None:
        seen.append(state.statistics)
    return Sender(state), Receiver(state)
