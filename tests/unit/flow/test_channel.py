"""Channels: order, bounds, how they end, and what cancelling costs (nothing)."""

from __future__ import annotations

import asyncio

import pytest

from asyncbackup.flow.channel import (
    BrokenChannelError,
    ChannelWatches,
    EndOfChannel,
    Receiver,
    Sender,
    open_channel,
    watch_channels,
)
from asyncbackup.flow.stopwatch import Stopwatch
from tests.unit.flow.turns import settle


def channel(capacity: int = 2) -> tuple[Sender[int], Receiver[int]]:
    return open_channel("test", capacity)


async def drained(receiver: Receiver[int]) -> list[int]:
    return [item async for item in receiver]


async def test_items_come_out_in_the_order_they_went_in() -> None:
    sender, receiver = channel(3)

    async def produce() -> None:
        with sender:
            await sender.send_all(range(100))

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        received = group.create_task(drained(receiver))
    assert received.result() == list(range(100))


async def test_a_batch_is_taken_once_there_is_enough_for_it() -> None:
    sender, receiver = channel(10)
    task = asyncio.create_task(receiver.receive_batch(1000, at_least=3, within_seconds=3600.0))
    for number in range(3):
        await settle()
        assert not task.done()
        await sender.send(number)
    assert await task == [0, 1, 2]
    # What is there already is taken whole, and single receivers are woken by every item again.
    await sender.send_all(range(7))
    assert await receiver.receive_batch(1000, at_least=3, within_seconds=3600.0) == list(range(7))
    task_of_one = asyncio.create_task(receiver.receive())
    await settle()
    await sender.send(8)
    assert await task_of_one == 8


async def test_a_batch_is_smaller_where_the_channel_is_or_the_time_is_over() -> None:
    sender, receiver = channel(2)
    task = asyncio.create_task(receiver.receive_batch(1000, at_least=100, within_seconds=3600.0))
    await sender.send_all([1, 2, 3])
    assert await task == [1, 2]
    assert await receiver.receive_batch(1000, at_least=2, within_seconds=0.001) == [3]
    await sender.send(4)
    task = asyncio.create_task(receiver.receive_batch(1000, at_least=2, within_seconds=3600.0))
    await settle()
    sender.close()
    assert await task == [4]
    with pytest.raises(EndOfChannel):
        await receiver.receive_batch(1000, at_least=2, within_seconds=3600.0)


async def test_a_batch_that_is_cancelled_takes_nothing() -> None:
    sender, receiver = channel(10)
    task = asyncio.create_task(receiver.receive_batch(1000, at_least=3, within_seconds=3600.0))
    await sender.send_all([1, 2])
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(receiver) == 2
    assert await receiver.receive() == 1


async def test_a_full_channel_makes_the_sender_wait_until_there_is_room() -> None:
    sender, receiver = channel(2)
    await sender.send_all([1, 2])
    third = asyncio.create_task(sender.send(3))
    await settle()
    assert not third.done()
    assert len(sender) == 2
    assert await receiver.receive() == 1
    await third
    assert len(receiver) == 2


async def test_senders_that_wait_are_served_in_their_order() -> None:
    sender, receiver = channel(1)
    await sender.send(0)
    waiting = [asyncio.create_task(sender.send(number)) for number in range(1, 5)]
    await settle()
    assert [await receiver.receive() for _ in range(5)] == [0, 1, 2, 3, 4]
    await asyncio.gather(*waiting)


async def test_receivers_that_wait_are_served_in_their_order() -> None:
    sender, receiver = channel(8)
    waiting = [asyncio.create_task(receiver.receive()) for _ in range(4)]
    await settle()
    await sender.send_all(range(4))
    assert await asyncio.gather(*waiting) == [0, 1, 2, 3]


async def test_it_ends_once_every_sender_was_closed_and_the_buffer_is_empty() -> None:
    sender, receiver = channel()
    other = sender.clone()
    await other.send(1)
    sender.close()
    other.close()
    assert await receiver.receive() == 1
    with pytest.raises(EndOfChannel):
        await receiver.receive()
    with pytest.raises(EndOfChannel):
        await receiver.receive_some(5)


async def test_the_last_close_wakes_every_receiver_that_waits() -> None:
    sender, receiver = channel()
    waiting = [asyncio.create_task(drained(receiver)) for _ in range(3)]
    await settle()
    sender.close()
    assert await asyncio.gather(*waiting) == [[], [], []]


async def test_closing_twice_counts_once() -> None:
    sender, receiver = channel()
    other = sender.clone()
    sender.close()
    sender.close()
    await other.send(7)
    other.close()
    assert await drained(receiver) == [7]


async def test_a_sender_that_leaves_on_an_exception_does_not_end_the_channel() -> None:
    sender, receiver = channel()
    await sender.send(1)
    with pytest.raises(RuntimeError, match="failed"), sender:
        raise RuntimeError("failed")
    assert await receiver.receive() == 1
    waiting = asyncio.create_task(receiver.receive())
    await settle()
    assert not waiting.done(), "the failure looks like the end of the input"
    waiting.cancel()


async def test_a_cancelled_sender_does_not_end_the_channel_either() -> None:
    sender, receiver = channel()

    async def produce() -> None:
        with sender:
            await asyncio.Event().wait()

    task = asyncio.create_task(produce())
    await settle()
    task.cancel()
    waiting = asyncio.create_task(receiver.receive())
    await settle()
    assert task.cancelled()
    assert not waiting.done()
    waiting.cancel()


async def test_without_receivers_sending_fails_at_once_and_for_those_who_wait() -> None:
    sender, receiver = channel(1)
    await sender.send(1)
    waiting = [asyncio.create_task(sender.send(number)) for number in (2, 3)]
    await settle()
    receiver.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [BrokenChannelError, BrokenChannelError]
    with pytest.raises(BrokenChannelError, match="test"):
        await sender.send(4)


async def test_a_receiver_that_leaves_on_an_exception_breaks_nothing() -> None:
    sender, receiver = channel(1)
    with pytest.raises(RuntimeError, match="failed"), receiver:
        raise RuntimeError("failed")
    await sender.send(1)


async def test_one_of_two_receivers_left_is_enough() -> None:
    sender, receiver = channel(1)
    other = receiver.clone()
    receiver.close()
    await sender.send(1)
    assert await other.receive() == 1


async def test_closed_ends_refuse_to_work() -> None:
    sender, receiver = channel()
    still_open = sender.clone()
    sender.close()
    with pytest.raises(RuntimeError, match="closed sender"):
        await sender.send(1)
    with pytest.raises(RuntimeError, match="closed sender"):
        sender.clone()
    await still_open.send(1)
    receiver.close()
    with pytest.raises(RuntimeError, match="closed receiver"):
        await receiver.receive()
    with pytest.raises(RuntimeError, match="closed receiver"):
        receiver.clone()


async def test_receive_some_takes_what_is_there_and_waits_for_no_more() -> None:
    sender, receiver = channel(8)
    await sender.send_all(range(5))
    assert await receiver.receive_some(3) == [0, 1, 2]
    assert await receiver.receive_some(3) == [3, 4]
    waiting = asyncio.create_task(receiver.receive_some(3))
    await settle()
    await sender.send(5)
    assert await waiting == [5]


async def test_receive_some_lets_as_many_senders_in_as_it_took_items() -> None:
    sender, receiver = channel(3)
    await sender.send_all(range(3))
    waiting = [asyncio.create_task(sender.send(number)) for number in range(3, 7)]
    await settle()
    assert await receiver.receive_some(3) == [0, 1, 2]
    await settle()
    assert [task.done() for task in waiting] == [True, True, True, False]
    assert await receiver.receive_some(10) == [3, 4, 5]
    await asyncio.gather(*waiting)


async def test_a_cancelled_send_puts_nothing_in() -> None:
    sender, receiver = channel(1)
    await sender.send(1)
    waiting = asyncio.create_task(sender.send(2))
    await settle()
    waiting.cancel()
    await settle()
    assert await receiver.receive() == 1
    assert len(receiver) == 0


async def test_a_send_cancelled_in_the_turn_of_its_wake_up_hands_it_on() -> None:
    sender, receiver = channel(1)
    await sender.send(0)
    first = asyncio.create_task(sender.send(1))
    second = asyncio.create_task(sender.send(2))
    await settle()
    assert await receiver.receive() == 0  # wakes the first
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done(), "the wake-up was lost with the cancelled sender"
    assert await receiver.receive() == 2


async def test_a_receive_cancelled_in_the_turn_of_its_wake_up_loses_no_item() -> None:
    sender, receiver = channel(1)
    first = asyncio.create_task(receiver.receive())
    second = asyncio.create_task(receiver.receive())
    await settle()
    await sender.send(1)  # wakes the first
    first.cancel()
    await settle()
    assert first.cancelled()
    assert await second == 1


async def test_leaving_a_loop_over_a_receiver_leaves_the_rest_in_the_channel() -> None:
    sender, receiver = channel(3)
    await sender.send_all([1, 2, 3])
    async for item in receiver:
        if item == 2:
            break
    assert await receiver.receive() == 3


async def test_two_loops_share_one_receiver_and_every_item_comes_once() -> None:
    sender, receiver = channel(2)
    seen: list[int] = []

    async def consume() -> None:
        async for item in receiver:
            seen.append(item)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(consume())
        with sender:
            await sender.send_all(range(20))
    assert sorted(seen) == list(range(20))


async def test_statistics_tell_items_and_who_waited() -> None:
    sender, receiver = channel(1)
    await sender.send(1)
    statistics = sender.statistics
    assert receiver.statistics is statistics
    assert (statistics.name, statistics.capacity, statistics.items) == ("test", 1, 1)
    assert (statistics.sender_wait_seconds, statistics.receiver_wait_seconds) == (0.0, 0.0)
    waiting = asyncio.create_task(sender.send(2))
    await settle()
    await receiver.receive()
    await waiting
    assert statistics.sender_wait_seconds > 0
    assert statistics.receiver_wait_seconds == 0
    await receiver.receive()
    late = asyncio.create_task(receiver.receive())
    await settle()
    late.cancel()
    await settle()
    assert statistics.receiver_wait_seconds > 0, "time waited in vain counts as well"
    assert statistics.items == 2


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_channel_that_could_hold_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1"):
        open_channel("none", capacity)


async def test_the_stopwatches_of_a_channel() -> None:
    sender, receiver = channel(1)
    now = 0.0
    statistics = sender.statistics
    for name in ("filled", "blocked", "working"):
        setattr(statistics, name, Stopwatch(lambda: now))

    def figures() -> tuple[float, float, float]:
        return statistics.filled.seconds, statistics.blocked.seconds, statistics.working.seconds

    receiving = asyncio.create_task(receiver.receive())
    await settle()
    now = 1.0
    assert figures() == (0, 0, 0), "the only receiver waits"
    await sender.send(1)
    await receiving
    now = 3.0
    assert figures() == (0, 0, 2), "it works, and nothing lies in the channel"
    await sender.send(2)
    blocked = asyncio.create_task(sender.send(3))
    await settle()
    now = 7.0
    assert figures() == (4, 4, 6)
    await receiver.receive()
    await blocked
    now = 8.0
    assert figures() == (5, 4, 7)
    assert await receiver.receive_some(5) == [3]
    now = 10.0
    assert figures() == (5, 4, 9)
    sender.close()
    assert receiver.ended
    receiver.close()
    now = 20.0
    assert figures() == (5, 4, 9)


async def test_a_stopwatch_goes_on_in_a_later_channel() -> None:
    now = 0.0
    watches = ChannelWatches(Stopwatch(lambda: now), Stopwatch(lambda: now))
    for _ in range(2):
        sender: Sender[int]
        sender, receiver = open_channel("payloads", 2, watches=watches)
        await sender.send(1)
        now += 2.0
        await receiver.receive()
        assert not receiver.ended
        now += 5.0
        receiver.close()
        now += 1.0
    assert watches.filled.seconds == 4
    assert watches.working.seconds == 14


async def test_channels_opened_in_the_block_are_watched_also_those_of_its_tasks() -> None:
    async def open_one_more() -> None:
        open_channel("second", 1)

    open_channel("before", 1)
    with watch_channels() as seen:
        sender: Sender[int]
        sender, _receiver = open_channel("first", 1)
        await asyncio.create_task(open_one_more())
    open_channel("after", 1)
    await sender.send(1)
    assert [(statistics.name, statistics.items) for statistics in seen] == [("first", 1), ("second", 0)]


async def test_waiting_for_an_item_takes_nothing_out() -> None:
    sender: Sender[int]
    receiver: Receiver[int]
    sender, receiver = open_channel("test", 2)
    waiting = asyncio.create_task(receiver.wait())
    await settle()
    assert not waiting.done()
    await sender.send(1)
    assert await waiting
    assert await receiver.wait()
    sender.close()
    assert await receiver.wait(), "what is left comes before the end"
    assert await receiver.receive() == 1
    assert not await receiver.wait()
    receiver.close()
    with pytest.raises(RuntimeError, match="closed receiver"):
        await receiver.wait()
