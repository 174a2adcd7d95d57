"""Which error of a task group is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from asyncbackup.errors import CatalogError, StoreError
from asyncbackup.flow.channel import BrokenChannelError, Sender, open_channel
from asyncbackup.flow.groups import single_error


async def fail(error: BaseException) -> None:
    raise error


async def together(*work: Coroutine[Any, Any, None]) -> None:
    with single_error():
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)


async def test_nothing_is_raised_of_what_ends_well() -> None:
    await together(asyncio.sleep(0), asyncio.sleep(0))


async def test_one_error_comes_out_bare() -> None:
    with pytest.raises(CatalogError, match="disk full"):
        await together(fail(CatalogError("disk full")), asyncio.sleep(0))


async def test_a_broken_channel_is_never_the_reason() -> None:
    error = StoreError("PutObject", "k", "no route")
    with pytest.raises(StoreError) as caught:
        await together(fail(BrokenChannelError("payloads")), fail(error))
    assert caught.value is error


async def test_of_several_on_purpose_the_first_is_raised() -> None:
    first = CatalogError("first")
    with pytest.raises(CatalogError) as caught:
        await together(fail(first), fail(StoreError("PutObject", "k", "second")))
    assert caught.value is first


async def test_what_nobody_expected_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await together(fail(CatalogError("also")), fail(ZeroDivisionError()))


async def test_groups_in_groups_are_looked_through_and_the_cause_is_kept() -> None:
    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            try:
                raise OSError("cable")
            except OSError as cause:
                error = StoreError("PutObject", "k", "reset")
                error.__cause__ = cause
                group.create_task(fail(error))

    with pytest.raises(StoreError) as caught:
        await together(inner())
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_lonely_broken_channel_is_told_all_the_same() -> None:
    with pytest.raises(BrokenChannelError):
        await together(fail(BrokenChannelError("payloads")))


async def test_other_errors_and_cancellations_pass() -> None:
    with pytest.raises(KeyError), single_error():
        raise KeyError("bare")
    with pytest.raises(asyncio.CancelledError), single_error():
        raise asyncio.CancelledError


async def test_a_failing_stage_ends_its_neighbours_without_an_end_of_input() -> None:
    sender: Sender[str]
    sender, receiver = open_channel("items", 1)
    seen: list[str] = []

    async def produce() -> None:
        with sender:
            await sender.send("one")
            raise CatalogError("lost")

    async def consume() -> None:
        with receiver:
            async for item in receiver:
                seen.append(item)
            seen.append("end")

    with pytest.raises(CatalogError, match="lost"):
        await together(consume(), produce())
    assert "end" not in seen
