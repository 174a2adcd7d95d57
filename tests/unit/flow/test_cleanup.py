"""Cleanup that runs to its end although its caller is cancelled."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asyncbackup.flow import cleanup
from asyncbackup.flow.cleanup import run_shielded
from tests.unit.flow.turns import settle


class Remote:
    """A remote resource whose cleanup takes until ``answer`` is set."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.begun = False
        self.ended = ""

    async def abort(self) -> None:
        self.begun = True
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "done"


async def test_it_waits_for_the_cleanup() -> None:
    remote = Remote()
    task = asyncio.create_task(run_shielded(remote.abort(), what="aborting"))
    await settle()
    assert not task.done()
    remote.answer.set()
    await task
    assert remote.ended == "done"


async def test_cancelling_the_caller_does_not_stop_the_cleanup_and_is_not_forgotten() -> None:
    remote = Remote()
    task = asyncio.create_task(run_shielded(remote.abort(), what="aborting"))
    await settle()
    for _ in range(3):
        task.cancel()
        await settle()
        assert not task.done()
        assert remote.ended == ""
    remote.answer.set()
    await settle()
    assert remote.ended == "done"
    assert task.cancelled(), "who asked for the cancellation waits for it"


async def test_called_while_a_cancellation_is_handled_it_still_runs() -> None:
    remote = Remote()

    async def stage() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await run_shielded(remote.abort(), what="aborting")

    task = asyncio.create_task(stage())
    await settle()
    task.cancel()
    await settle()
    assert remote.begun
    assert not task.done()
    remote.answer.set()
    await settle()
    assert task.cancelled()
    assert remote.ended == "done"


async def test_a_failing_cleanup_is_logged_and_the_first_error_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def abort() -> None:
        raise ConnectionError("no answer")

    async def stage() -> None:
        try:
            raise ValueError("the reason")
        finally:
            await run_shielded(abort(), what="aborting the upload of 'k'")

    with pytest.raises(ValueError, match="the reason"):
        await stage()
    assert [record.getMessage() for record in caplog.records] == [
        "aborting the upload of 'k' failed: no answer"
    ]


async def test_a_cleanup_that_never_ends_is_given_up_and_leaves_no_task(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "CLEANUP_TIMEOUT_SECONDS", 0.01)
    remote = Remote()
    before = asyncio.all_tasks()
    with caplog.at_level(logging.WARNING):
        await run_shielded(remote.abort(), what="aborting")
    assert asyncio.all_tasks() == before
    assert remote.ended == "cancelled"
    assert "aborting did not finish within" in caplog.text
