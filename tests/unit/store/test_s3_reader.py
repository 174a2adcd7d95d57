"""The reader against a scripted transport: endpoints that no real server can be made to be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import StoreError
from asyncbackup.store.base import Body, ObjectInfo, PartReceipt, PutResult, UploadId
from asyncbackup.store.retry import RetryPolicy, TransientError
from asyncbackup.store.s3_reader import FORGIVEN_BYTES, S3Reader
from asyncbackup.store.s3_requests import S3Requests
from asyncbackup.store.slots import RequestSlots
from tests.unit.store.virtual_time import VirtualClock

if TYPE_CHECKING:
    from asyncbackup.store.s3_transport import Download, ListingPage, Progress

CONTENT = bytes(range(256)) * 400


Step = bytes | float | TransientError


class Script:
    """A download: its body in chunks, an exception where the connection breaks, seconds where it stalls.

    It begins at ``start``, or where it was asked for.
    """

    def __init__(
        self,
        *steps: Step,
        start: int | None = 0,
        total: int = len(CONTENT),
        length: int = -1,
    ) -> None:
        self.info = ObjectInfo(key="key", size=total, etag='"e"')
        self.start = start or 0
        self.as_asked = start is None
        self.length = length
        self.steps = list(steps)
        self.closed = False
        self.clock: VirtualClock | None = None

    def received(self) -> bytes:
        """Whatever comes without being waited for."""
        if self.steps and isinstance(step := self.steps[0], bytes):
            del self.steps[0]
            return step
        return b""

    async def read(self) -> bytes:
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, TransientError):
                raise step
            if isinstance(step, bytes):
                return step
            assert self.clock is not None
            self.clock.advance(step)
        return b""

    async def fill(self, view: memoryview, progress: Callable[[int], None]) -> None:
        step = await self.read()
        if len(step) > len(view):
            self.steps.insert(0, step[len(view) :])
            step = step[: len(view)]
        view[: len(step)] = step
        progress(len(step))

    def close(self) -> None:
        self.closed = True


class ScriptedTransport:
    """Gives the scripts out in turn and remembers what was asked for."""

    def __init__(self, clock: VirtualClock, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.opened: list[Script] = []
        self.asked: list[tuple[int, int | None, str]] = []
        for script in scripts:
            script.clock = clock

    async def open(
        self, key: str, *, offset: int, length: int | None, if_match: str, described: bool
    ) -> Download:
        self.asked.append((offset, length, if_match))
        self.opened.append(self.scripts.pop(0))
        if self.opened[-1].as_asked:
            self.opened[-1].start = offset
        return self.opened[-1]

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str],
        only_if_absent: bool,
        progress: Progress,
    ) -> PutResult:
        raise NotImplementedError

    async def upload_part(
        self, key: str, upload_id: UploadId, number: int, body: Body, *, sha256: bytes, progress: Progress
    ) -> PartReceipt:
        raise NotImplementedError

    async def head(self, key: str) -> ObjectInfo:
        raise NotImplementedError

    async def list_page(self, prefix: str, token: str) -> ListingPage:
        raise NotImplementedError


def broken() -> TransientError:
    return TransientError("GetObject", "key", "the connection broke", code="ConnectionBroken")


async def iterated(reader: S3Reader) -> bytes:
    return b"".join([chunk async for chunk in reader])


async def filled(reader: S3Reader) -> bytes:
    """Through one buffer that is smaller than most steps."""
    pieces, buffer = [], memoryview(bytearray(70_000))
    while count := await reader.fill(buffer):
        pieces.append(bytes(buffer[:count]))
        if count < len(buffer):
            break
    return b"".join(pieces)


@pytest.fixture(params=[iterated, filled], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How every object is read."""
    monkeypatch.setattr(Reading, "way", staticmethod(request.param))


class Reading:
    way: Callable[[S3Reader], Awaitable[bytes]] = staticmethod(iterated)

    def __init__(self, *scripts: Script, max_attempts: int = 4) -> None:
        self.clock = VirtualClock()
        self.transport = ScriptedTransport(self.clock, *scripts)
        self.requests = S3Requests(
            slots=RequestSlots(1, clock=self.clock),
            policy=RetryPolicy(max_attempts=max_attempts),
            timeout_seconds=60.0,
            clock=self.clock,
        )

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        async def work() -> bytes:
            reader = S3Reader(self.requests, self.transport, "key", offset=offset, length=length)
            try:
                await reader.start()
                return await self.way(reader)
            finally:
                reader.close()

        try:
            return await self.clock.run(work())
        finally:
            assert self.requests.slots.in_use == 0
            assert all(script.closed for script in self.transport.opened)


async def test_going_on_asks_for_the_rest_of_the_same_object() -> None:
    reading = Reading(
        Script(CONTENT[:100], broken()),
        Script(CONTENT[100:700], broken(), start=100),
        Script(CONTENT[700:], start=700),
    )

    assert await reading.read() == CONTENT
    assert reading.transport.asked == [
        (0, None, ""),
        (100, len(CONTENT) - 100, '"e"'),
        (700, len(CONTENT) - 700, '"e"'),
    ]


async def test_a_body_slower_than_a_kilobyte_a_second_is_given_up() -> None:
    # One byte a second: each wait is short, the sum is what counts.
    byte_a_second: list[Step] = [1.0, b"x"] * 200
    scripts = [Script(*byte_a_second, start=None) for _ in range(4)]
    reading = Reading(*scripts)

    with pytest.raises(StoreError, match=r"too slowly \(given up after 4 attempts\)"):
        await reading.read()


async def test_a_slow_reader_is_not_a_slow_endpoint() -> None:
    reading = Reading(Script(*[CONTENT[at : at + 1024] for at in range(0, len(CONTENT), 1024)]))

    async def work() -> bytes:
        reader = S3Reader(reading.requests, reading.transport, "key", offset=0, length=None)
        got = b""
        try:
            await reader.start()
            async for chunk in reader:
                got += chunk
                reading.clock.advance(1000.0)
        finally:
            reader.close()
        return got

    assert await reading.clock.run(work()) == CONTENT


async def test_breaks_far_apart_do_not_add_up() -> None:
    step = FORGIVEN_BYTES
    total = 8 * step
    reading = Reading(
        *[Script(bytes(step), broken(), start=number * step, total=total) for number in range(8)],
        max_attempts=2,
    )
    assert len(await reading.read()) == total


async def test_an_object_of_unknown_length_is_read_to_its_end() -> None:
    reading = Reading(Script(CONTENT, total=-1, length=-1))
    assert await reading.read() == CONTENT


async def test_a_range_that_goes_on_behind_the_object() -> None:
    reading = Reading(Script(CONTENT[10:], start=10))
    with pytest.raises(StoreError, match="the object has 102400"):
        await reading.read(10, len(CONTENT))


async def test_a_whole_object_for_a_range_is_cut_on_both_sides() -> None:
    reading = Reading(
        Script(CONTENT[:5], CONTENT[5:3000], CONTENT[3000:], start=-1, total=-1, length=len(CONTENT))
    )
    assert await reading.read(1000, 500) == CONTENT[1000:1500]
