"""Hops to threads: what a call that failed worked on is let go at once."""

from __future__ import annotations

import gc
import weakref

import pytest

from asyncbackup.flow.hops import hop
from asyncbackup.flow.workers import ThreadGate
from tests.unit.flow.turns import settle


class Buffer:
    """Something that is large, and can be watched."""


def fail(_: Buffer) -> None:
    raise ValueError("as planned")


async def failed(gate: ThreadGate, *, by_hop: bool) -> weakref.ref[Buffer]:
    """The buffer of a call that failed."""
    buffer = Buffer()
    try:
        await (hop(gate, fail, buffer) if by_hop else gate.run(fail, buffer))
    except ValueError:
        return weakref.ref(buffer)
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("by_hop", [False, True])
async def test_no_circle_keeps_the_buffer_of_a_failed_call(by_hop: bool) -> None:
    """Of a restore whose files are bombs, each kept a window of zstd until somebody collected circles."""
    gate = ThreadGate("test", 1)
    gc.collect()
    gc.disable()
    try:
        left = await failed(gate, by_hop=by_hop)
        gate.close()  # the thread has let go of it as well
        await settle()  # and so has the turn of the loop that brought the failure
        assert left() is None
    finally:
        gc.enable()
