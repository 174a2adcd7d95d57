"""The encryptor: sealed bodies that open again, parts in their order and of one size, bytes conserved."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.errors import AuthenticationError
from asyncbackup.flow.buffers import SpareBuffers
from asyncbackup.flow.channel import Receiver, Sender, open_channel
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.envelope import CHUNK_SIZE, HEADER_SIZE, MAGIC, Opener, sealed_size
from asyncbackup.format.keyslots import new_master_key
from asyncbackup.model import Entry, Extent, Kind, Pending
from asyncbackup.pipeline.encryptor import BATCH_PAYLOADS, HERE_BYTES, Encryptor
from asyncbackup.pipeline.parts import SEALED_CHUNK_BYTES
from asyncbackup.pipeline.payload import (
    AbandonUpload,
    CopyPayload,
    LargeUpload,
    PackPayload,
    PartPayload,
    Payload,
    UploadEnd,
    WholePayload,
)
from asyncbackup.pipeline.underway import PackUnderway
from tests.unit.flow.turns import settle
from tests.unit.pipeline.readings import RUN, transfer_settings

KEY = new_master_key()
SETTINGS = transfer_settings(b"/", key=KEY)
CHUNKS = 3
READ, PART = CHUNKS * CHUNK_SIZE, CHUNKS * SEALED_CHUNK_BYTES
"""What is read at once and what it becomes; real parts are 100 times as large."""


def opened(key: str, body: bytes) -> bytes:
    opener = Opener(
        KEY, repository=SETTINGS.repository, section=SETTINGS.section, object_key=SETTINGS.object_key(key)
    )
    return opener.feed(body) + opener.finish()


def entry(path: bytes, size: int) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=0o100644, size=size)


def whole(path: bytes, body: bytes, *, encrypted: bool = True) -> WholePayload:
    return WholePayload(
        entry=entry(path, len(body)),
        pending=Pending.NEW,
        key="files/" + path.decode(),
        metadata={},
        body=body,
        body_sha256=b"",
        encrypted=encrypted,
        leased=len(body),
        bytes_read=len(body),
    )


def large(path: bytes, size: int) -> LargeUpload:
    return LargeUpload(
        entry=entry(path, size),
        pending=Pending.NEW,
        run=RUN,
        key="files/" + path.decode(),
        part_size=PART,
        stored_size=sealed_size(size),
        sealed=True,
        resumed=None,
    )


def read_parts(upload: LargeUpload, content: bytes) -> list[Payload]:
    """As the reader sends them."""
    blocks = [content[begin : begin + READ] for begin in range(0, len(content), READ)]
    found: list[Payload] = [
        PartPayload(upload=upload, number=number, body=bytearray(block), sha256=b"", leased=len(block))
        for number, block in enumerate(blocks, start=1)
    ]
    found.append(
        UploadEnd(upload=upload, entry=upload.entry, part_count=len(blocks), bytes_read=len(content))
    )
    return found


class Sealing:
    """Some encryptor tasks and what came out of them."""

    def __init__(self, *, capacity: int = 4, threads: int = 2) -> None:
        self.gate = ThreadGate("seal", threads)
        self.buffers = SpareBuffers(keep=4)
        self.encryptor = Encryptor(SETTINGS, KEY, self.gate, self.buffers)
        self.into: Sender[Payload]
        self.into, self._received = open_channel("payloads", capacity)
        self._sealed_in: Sender[Payload]
        self.out: Receiver[Payload]
        self._sealed_in, self.out = open_channel("sealed", capacity)

    @asynccontextmanager
    async def running(self, *, tasks: int = 2) -> AsyncIterator[None]:
        try:
            async with asyncio.TaskGroup() as group:
                with self._received, self._sealed_in:
                    for _ in range(tasks):
                        work = self.encryptor.run(self._received.clone(), self._sealed_in.clone())
                        group.create_task(work)
                yield
        finally:
            self.gate.close()

    async def seal(self, payloads: Sequence[Payload], *, tasks: int = 2) -> list[Payload]:
        async def send() -> None:
            with self.into:
                await self.into.send_all(payloads)

        async with self.running(tasks=tasks), asyncio.TaskGroup() as group:
            group.create_task(send())
            return [payload async for payload in self.out]


def parts_of(sealed: Sequence[Payload], upload: LargeUpload) -> list[PartPayload]:
    return [p for p in sealed if isinstance(p, PartPayload) and p.upload is upload]


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 100_000])
async def test_a_sealed_body_opens_again_and_only_at_its_key(size: int) -> None:
    content = os.urandom(size)
    (sealed,) = await Sealing().seal([whole(b"d/f", content)])
    assert isinstance(sealed, WholePayload)
    body = bytes(sealed.body)
    assert len(body) == sealed_size(size)
    assert body[: len(MAGIC)] == MAGIC
    assert int.from_bytes(body[8:HEADER_SIZE], "big") == size
    assert opened("files/d/f", body) == content
    assert sealed.body_sha256 == hashlib.sha256(body).digest()
    assert (sealed.leased, sealed.bytes_read, sealed.entry.size) == (size, size, size)
    with pytest.raises(AuthenticationError):
        opened("files/d/g", body)


async def test_the_same_content_is_never_sealed_the_same() -> None:
    first, second = await Sealing().seal([whole(b"f", b"same"), whole(b"f", b"same")])
    assert isinstance(first, WholePayload)
    assert isinstance(second, WholePayload)
    assert bytes(first.body)[HEADER_SIZE:] != bytes(second.body)[HEADER_SIZE:]


async def test_what_has_nothing_to_seal_passes_as_it_is() -> None:
    folder = msgspec.structs.replace(whole(b"d", b"", encrypted=False), key="files/d/")
    copy = CopyPayload(
        entry=entry(b"g", 7),
        pending=Pending.NEW,
        key="files/g",
        source=Extent(run=RUN, key="files/f", length=7),
        first_path=b"f",
    )
    sealed = await Sealing().seal([folder, copy])
    assert sealed[0] is folder
    assert sealed[1] is copy


@pytest.mark.parametrize(("size", "hops"), [(1, 0), (HERE_BYTES // BATCH_PAYLOADS, 0), (HERE_BYTES, 1)])
async def test_small_bodies_are_sealed_at_once_and_larger_ones_together_in_a_thread(
    size: int, hops: int
) -> None:
    sealing = Sealing(capacity=BATCH_PAYLOADS)
    await sealing.into.send_all([whole(b"%d" % number, bytes(size)) for number in range(BATCH_PAYLOADS)])
    sealing.into.close()
    sealed = await sealing.seal([], tasks=1)
    assert len(sealed) == BATCH_PAYLOADS
    assert sealing.gate.hops == hops


@pytest.mark.parametrize(
    "size", [1, READ - 1, READ, READ + 1, 4 * READ, 4 * READ + 5, 5 * READ - 73, 5 * READ - 72]
)
@pytest.mark.parametrize("tasks", [1, 2])
async def test_parts_are_of_one_size_and_make_one_message(size: int, tasks: int) -> None:
    content = os.urandom(size)
    upload = large(b"d/large", size)
    payloads = read_parts(upload, content)
    sealed = await Sealing().seal(payloads, tasks=tasks)
    parts = parts_of(sealed, upload)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1)), "in their order"
    assert {len(part.body) for part in parts[:-1]} <= {PART}
    assert 0 < len(parts[-1].body) <= PART
    for part in parts:
        assert part.sha256 == hashlib.sha256(part.body).digest()
    body = b"".join(bytes(part.body) for part in parts)
    assert len(body) == upload.stored_size == sealed_size(size)
    assert opened("files/d/large", body) == content
    end = sealed[-1]
    assert isinstance(end, UploadEnd)
    assert end.part_count == len(parts)
    assert sum(part.leased for part in parts) == size, (
        "what was leased for reading is given back by the parts"
    )


async def test_every_full_read_gives_a_part_at_once() -> None:
    """A part that waited for the next read would keep its bytes leased, and the next read waits for
    them: with a small budget neither would ever go on."""
    upload = large(b"f", 3 * READ)
    payloads = read_parts(upload, bytes(3 * READ))
    sealing = Sealing()
    async with sealing.running():
        for number, payload in enumerate(payloads[:3], start=1):
            await sealing.into.send(payload)
            part = await sealing.out.receive()
            assert isinstance(part, PartPayload)
            assert (part.number, len(part.body), part.leased) == (number, PART, READ)
        with sealing.into:
            await sealing.into.send(payloads[3])
        rest = [payload async for payload in sealing.out]
    assert [type(payload) for payload in rest] == [PartPayload, UploadEnd]


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 1, 3, 2)], ids=["a part", "the end"])
async def test_what_comes_out_of_order_is_not_sealed(order: tuple[int, ...]) -> None:
    content = os.urandom(3 * READ)
    payloads = read_parts(large(b"f", len(content)), content)
    with pytest.raises(ExceptionGroup) as caught:
        await Sealing(capacity=9).seal([payloads[index] for index in order])
    assert caught.group_contains(RuntimeError, match="came out of order|came before its parts")


async def test_uploads_side_by_side_do_not_mix() -> None:
    contents = [os.urandom(size) for size in (3 * READ + 1, 2 * READ, 5 * READ - 7)]
    uploads = [large(b"f%d" % number, len(content)) for number, content in enumerate(contents)]
    streams = [read_parts(upload, content) for upload, content in zip(uploads, contents, strict=True)]
    rounds = itertools.zip_longest(*streams)
    mixed = [payload for payloads in rounds for payload in payloads if payload is not None]
    mixed.insert(3, whole(b"small", b"content"))
    sealed = await Sealing().seal(mixed)
    for upload, content in zip(uploads, contents, strict=True):
        parts = parts_of(sealed, upload)
        assert [part.number for part in parts] == list(range(1, len(parts) + 1))
        assert opened(upload.key, b"".join(bytes(part.body) for part in parts)) == content
    assert sum(isinstance(payload, WholePayload) for payload in sealed) == 1


async def test_an_abandoned_upload_gives_back_what_its_message_still_held() -> None:
    upload = large(b"f", 2 * READ + 100)
    payloads = read_parts(upload, bytes(2 * READ + 100))
    sealed = await Sealing().seal([*payloads[:-1], AbandonUpload(upload=upload)])
    parts = parts_of(sealed, upload)
    abandon = sealed[-1]
    assert isinstance(abandon, AbandonUpload)
    assert len(parts) == 2
    assert abandon.leased == 100
    assert sum(part.leased for part in parts) + abandon.leased == 2 * READ + 100


async def test_an_upload_abandoned_before_its_first_part() -> None:
    upload = large(b"f", READ)
    (abandon,) = await Sealing().seal([AbandonUpload(upload=upload)])
    assert isinstance(abandon, AbandonUpload)
    assert abandon.leased == 0


async def test_a_file_read_again_is_sealed_anew() -> None:
    """The same path, another upload: nothing of the first attempt gets into the second."""
    content = os.urandom(2 * READ)
    first, second = large(b"f", 2 * READ), large(b"f", 2 * READ)
    sealed = await Sealing().seal(
        [read_parts(first, bytes(2 * READ))[0], AbandonUpload(upload=first), *read_parts(second, content)]
    )
    assert opened("files/f", b"".join(bytes(part.body) for part in parts_of(sealed, second))) == content


async def test_nothing_is_kept_of_uploads_that_ended() -> None:
    sealing = Sealing()
    one, two = large(b"a", READ), large(b"b", READ)
    begun = read_parts(two, bytes(READ))[0]
    await sealing.seal([*read_parts(one, bytes(READ)), begun, AbandonUpload(upload=two)])
    assert sealing.encryptor._messages == {}


async def test_cancelled_it_leaves_its_channels_open() -> None:
    sealing = Sealing(capacity=1)

    async def seal() -> None:
        async with sealing.running():
            await sealing.into.send_all([whole(b"%d" % number, b"x") for number in range(10)])

    task = asyncio.create_task(seal())
    await settle()
    assert not task.done(), "nobody takes what is sealed"
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    while len(sealing.out):
        await sealing.out.receive()
    waiting = asyncio.create_task(sealing.out.receive())
    await settle()
    assert not waiting.done(), "the uploader would take it for the end"
    waiting.cancel()


@given(
    sizes=st.lists(st.integers(1, 3 * READ), min_size=1, max_size=3),
    order=st.randoms(use_true_random=False),
    tasks=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_whatever_the_order_among_uploads_each_is_whole(
    sizes: list[int], order: random.Random, tasks: int
) -> None:
    contents = [os.urandom(size) for size in sizes]
    uploads = [large(b"f%d" % number, len(content)) for number, content in enumerate(contents)]
    streams = [read_parts(upload, content) for upload, content in zip(uploads, contents, strict=True)]
    mixed: list[Payload] = []
    while any(streams):
        stream = order.choice([stream for stream in streams if stream])
        mixed.append(stream.pop(0))
    sealed = asyncio.run(_seal(mixed, tasks))
    for upload, content in zip(uploads, contents, strict=True):
        parts = parts_of(sealed, upload)
        assert opened(upload.key, b"".join(bytes(part.body) for part in parts)) == content
        assert sum(part.leased for part in parts) == len(content)


async def _seal(payloads: list[Payload], tasks: int) -> list[Payload]:
    return await Sealing().seal(payloads, tasks=tasks)


async def test_packs_are_sealed_into_the_same_memory() -> None:
    # One thread: a second might begin before the first has let go of what it made.
    sealing = Sealing(threads=1)
    bodies = [(b"first", b"piece" * 10_000), (b"another" * 8_000,), (b"third",)]
    async with sealing.running(tasks=1):
        with sealing.into:
            for number, body in enumerate(bodies):
                pack = PackPayload(
                    underway=PackUnderway(f"packs/{number:06d}.tar", ""),
                    body=body,
                    size=sum(map(len, body)),
                    body_sha256=b"",
                    encrypted=True,
                    leased=0,
                )
                await sealing.into.send(pack)
                sealed = await sealing.out.receive()
                assert isinstance(sealed, PackPayload)
                assert isinstance(sealed.body, memoryview)
                assert opened(pack.underway.key, bytes(sealed.body)) == b"".join(body)
                assert sealed.body_sha256 == hashlib.sha256(sealed.body).digest()
                del sealed
    assert sealing.encryptor.sealed_packs.made == 1


async def test_parts_are_sealed_into_memory_that_is_used_again_and_their_plaintext_is_let_go() -> None:
    content = os.urandom(6 * READ)
    upload = large(b"f", len(content))
    sealing = Sealing(threads=1)
    plain, stored = SpareBuffers(keep=1), bytearray()
    async with sealing.running(tasks=1):
        with sealing.into:
            for number in range(1, 7):
                block = plain.take(READ)
                block[:] = content[(number - 1) * READ : number * READ]
                await sealing.into.send(
                    PartPayload(upload=upload, number=number, body=block, sha256=b"", leased=READ)
                )
                del block
                part = await sealing.out.receive()
                assert isinstance(part, PartPayload)
                stored += part.body
                del part
                # The thread lets go of a call only after its result is there.
                await sealing.gate.run(int)
            await sealing.into.send(UploadEnd(upload=upload, entry=upload.entry, part_count=6, bytes_read=0))
        async for payload in sealing.out:
            if isinstance(payload, PartPayload):
                stored += payload.body
    assert opened("files/f", bytes(stored)) == content
    assert plain.made == 1
    assert sealing.buffers.made == 1


async def test_bodies_are_sealed_a_few_to_a_hop_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncbackup.pipeline.encryptor.HOP_BYTES", 250)
    monkeypatch.setattr("asyncbackup.pipeline.encryptor.HERE_BYTES", 50)
    sealing = Sealing(capacity=BATCH_PAYLOADS)
    await sealing.into.send_all([whole(b"%d" % number, bytes(100)) for number in range(5)])
    sealing.into.close()
    sealed = await sealing.seal([], tasks=1)
    assert [payload.entry.path for payload in sealed if isinstance(payload, WholePayload)] == [
        b"%d" % number for number in range(5)
    ]
    assert sealing.gate.hops == 3
