"""A channel under every interleaving of sends, receipts, cancellations and closings that Hypothesis finds."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.flow.channel import BrokenChannelError, EndOfChannel, Receiver, Sender, open_channel
from tests.unit.flow.turns import settle

STEPS = (
    "send", "send", "send now", "cancel send", "close sender",
    "receive", "receive", "receive now", "receive some", "cancel receive", "close receiver",
    "clone", "turn", "settle",
)  # fmt: skip


class Model:
    """A channel and all that was asked of it.

    ``sent`` and ``received`` are written in the very turn in which the channel lets an item through, so
    the one has to be the beginning of the other at all times. Steps without a turn of the loop between
    them happen in one turn.
    """

    def __init__(self, capacity: int) -> None:
        sender: Sender[int]
        sender, receiver = open_channel("model", capacity)
        self.capacity = capacity
        self.senders = [sender]
        self.receivers = [receiver]
        self.witness = sender
        self.sent: list[int] = []
        self.received: list[int] = []
        self.sends: list[asyncio.Task[None]] = []
        self.receives: list[asyncio.Task[None]] = []

    async def step(self, what: str, which: int) -> None:
        match what:
            case "send" if self.senders:
                for _ in range(which % 4):
                    sender = self.senders[which % len(self.senders)]
                    self.sends.append(asyncio.create_task(self.send(sender, len(self.sends))))
            # Without a turn of the loop: whoever is woken may be cancelled before it knows.
            case "send now" if self.senders and self.receivers and len(self.witness) < self.capacity:
                await self.send(self.senders[0], -len(self.sent))
            case "receive now" if self.receivers and len(self.witness):
                await self.receive(self.receivers[0])
            case "receive" if self.receivers:
                for _ in range(which % 4):
                    receiver = self.receivers[which % len(self.receivers)]
                    self.receives.append(asyncio.create_task(self.receive(receiver)))
            case "receive some" if self.receivers:
                receiver = self.receivers[which % len(self.receivers)]
                self.receives.append(asyncio.create_task(self.receive_some(receiver, which % 3 + 1)))
            case "cancel send":
                _cancel(self.sends, which)
            case "cancel receive":
                _cancel(self.receives, which)
            case "clone" if self.senders and self.receivers:
                self.senders.append(self.senders[0].clone())
                self.receivers.append(self.receivers[0].clone())
            # An end is closed by the task that uses it, so never while something waits on it. Seldom,
            # or most examples would have ended before anything happened.
            case "close sender" if which == 0 and self.senders and not _waiting(self.sends):
                self.senders.pop().close()
            case "close receiver" if which == 0 and self.receivers and not _waiting(self.receives):
                self.receivers.pop().close()
            case "turn":
                await asyncio.sleep(0)
            case "settle":
                await self.settle()
                self.nobody_waits_for_nothing()
            case _:
                pass
        self.items_are_neither_lost_nor_doubled_nor_reordered()

    async def settle(self) -> None:
        # An item through a full channel takes its sender and its receiver some turns.
        waiting = len(_waiting(self.sends)) + len(_waiting(self.receives))
        await settle(turns=5 + 3 * waiting)

    async def send(self, sender: Sender[int], item: int) -> None:
        await sender.send(item)
        self.sent.append(item)

    async def receive(self, receiver: Receiver[int]) -> None:
        self.received.append(await receiver.receive())

    async def receive_some(self, receiver: Receiver[int], limit: int) -> None:
        items = await receiver.receive_some(limit)
        assert 1 <= len(items) <= limit
        self.received += items

    def items_are_neither_lost_nor_doubled_nor_reordered(self) -> None:
        assert self.received == self.sent[: len(self.received)]
        assert len(self.witness) == len(self.sent) - len(self.received) <= self.capacity
        assert self.witness.statistics.items == len(self.sent)

    def nobody_waits_for_nothing(self) -> None:
        """Whoever still waits when nothing moves any more has a reason."""
        if _waiting(self.receives):
            assert len(self.witness) == 0, "an item is there and a receiver sleeps"
            assert self.senders, "the channel has ended and a receiver sleeps"
        if _waiting(self.sends):
            assert len(self.witness) == self.capacity, "there is room and a sender sleeps"
            assert self.receivers, "nobody will ever receive and a sender sleeps"

    async def end(self) -> None:
        await self.settle()
        self.nobody_waits_for_nothing()
        for task in _waiting(self.sends) + _waiting(self.receives):
            task.cancel()
        await self.settle()
        for task, reason in [(t, BrokenChannelError) for t in self.sends] + [
            (t, EndOfChannel) for t in self.receives
        ]:
            assert task.done()
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, reason), error
        self.items_are_neither_lost_nor_doubled_nor_reordered()


def _waiting(tasks: list[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    return [task for task in tasks if not task.done()]


def _cancel(tasks: list[asyncio.Task[None]], which: int) -> None:
    if waiting := _waiting(tasks):
        waiting[which % min(2, len(waiting))].cancel()


@given(
    capacity=st.integers(1, 3),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), min_size=12, max_size=30),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_channel_keeps_its_promises(capacity: int, steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        model = Model(capacity)
        for what, which in steps:
            await model.step(what, which)
        await model.end()

    asyncio.run(play())
