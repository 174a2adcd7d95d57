"""The reader of a compressed section: what it sends on to be compressed, and one file at a time."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from asyncbackup.model import Extent
from asyncbackup.pipeline import attributes
from asyncbackup.pipeline.compression import BLOCK_BYTES
from asyncbackup.pipeline.payload import LargeUpload, PartPayload, UploadEnd
from asyncbackup.resume import PartRecord, ResumableUpload
from tests.unit.pipeline.readings import MIB, Reading, see, transfer_settings, upload

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.model import Entry
    from asyncbackup.pipeline.transfer_settings import TransferSettings

PART = 5 * MIB
WORDS = b"the same words again and again\n" * (12 * MIB // 31)
EARLIER = "20260101T000000Z-0000"


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


def settings(root: Path, *, limit: int = 40 * MIB) -> TransferSettings:
    return msgspec.structs.replace(
        transfer_settings(root, part_size_bytes=PART, memory_limit_bytes=limit), zstd_level=3
    )


def parts(reading: Reading) -> list[PartPayload]:
    return [payload for payload in reading.payloads if isinstance(payload, PartPayload)]


async def test_blocks_of_a_file_that_shrinks(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(WORDS)
    reading = await Reading(settings(tmp_path)).read(upload(see(tmp_path, b"words")))
    found = parts(reading)
    assert {len(part.body) for part in found[:-1]} == {BLOCK_BYTES}
    assert b"".join(bytes(part.body) for part in found) == WORDS
    assert {part.sha256 for part in found} == {b""}, "what is stored of them is not known yet"
    [large] = {part.upload for part in found}
    assert (large.compression, large.stored_size, large.goes_on) == ("zstd", 0, False)
    assert large.part_size == PART
    end = reading.payloads[-1]
    assert isinstance(end, UploadEnd)
    assert end.entry.sha256 == hashlib.sha256(WORDS).digest()


@pytest.mark.parametrize("level", [0, 3])
async def test_parts_of_a_file_that_does_not(tmp_path: Path, level: int) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(12 * MIB))
    with_level = msgspec.structs.replace(settings(tmp_path), zstd_level=level)
    found = parts(await Reading(with_level).read(upload(see(tmp_path, b"noise"))))
    assert [len(part.body) for part in found] == [PART, PART, 2 * MIB]
    assert found[0].upload.compression == ""
    assert found[0].upload.goes_on


async def test_the_middle_and_the_end_count_as_well(tmp_path: Path) -> None:
    noise = os.urandom(4 * MIB)
    (tmp_path / "file").write_bytes(noise + WORDS[: 4 * MIB] + noise)
    found = parts(await Reading(settings(tmp_path)).read(upload(see(tmp_path, b"file"))))
    assert found[0].upload.compression == "zstd", "a third shrinks to nothing"


async def test_one_file_at_a_time_is_read_to_be_compressed(tmp_path: Path) -> None:
    changes = []
    for number in range(4):
        (tmp_path / f"f{number}").write_bytes(WORDS)
        changes.append([upload(see(tmp_path, b"f%d" % number))])
    reading = Reading(settings(tmp_path))
    await reading.run(changes, tasks=4)
    order: list[LargeUpload] = []
    for payload in reading.payloads:
        assert isinstance(payload, PartPayload | UploadEnd)
        if not order or order[-1] is not payload.upload:
            order.append(payload.upload)
    assert len(order) == 4, "each began when the one before had ended"


async def test_an_upload_that_is_gone_on_with_stays_plain(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(WORDS)
    seen = see(tmp_path, b"words")
    begun = ResumableUpload(
        path=b"words",
        run=EARLIER,
        key="files/words",
        upload_id="u",
        part_size=PART,
        size=seen.size,
        mtime_ns=seen.mtime_ns,
        ctime_ns=seen.ctime_ns,
        parts=(PartRecord(number=1, size=PART, etag="e", sha256=hashlib.sha256(WORDS[:PART]).digest()),),
    )
    with_it = msgspec.structs.replace(settings(tmp_path), resumable={b"words": begun})
    found = parts(await Reading(with_it).read(upload(seen)))
    assert [part.number for part in found] == [2, 3]
    assert found[0].upload.compression == ""
    assert found[0].upload.run == EARLIER


async def test_small_files_are_compressed_in_the_hop_that_reads_them(tmp_path: Path) -> None:
    noise = os.urandom(100_000)
    (tmp_path / "words").write_bytes(WORDS[:100_000])
    (tmp_path / "noise").write_bytes(noise)
    reading = Reading(settings(tmp_path))
    await reading.read(upload(see(tmp_path, b"words")), upload(see(tmp_path, b"noise")))
    words = reading.wholes[b"words"]
    assert words.compression == "zstd"
    assert zstandard.ZstdDecompressor().decompress(words.body) == WORDS[:100_000]
    assert words.body_sha256 == hashlib.sha256(words.body).digest()
    assert words.entry.sha256 == hashlib.sha256(WORDS[:100_000]).digest()
    assert (words.leased, words.bytes_read) == (len(words.body), 100_000)
    assert reading.wholes[b"noise"].compression == ""
    assert reading.wholes[b"noise"].body == noise
    assert reading.budget.in_use_bytes == 0


# Parts of an earlier object


def known(reading: Reading, **changes: object) -> Entry:
    """The entry of the one upload, as the catalog would have it."""
    end = reading.payloads[-1]
    assert isinstance(end, UploadEnd)
    extent = Extent(run=EARLIER, key="files/noise", length=end.entry.size, part_size=6 * MIB)
    return msgspec.structs.replace(end.entry, extent=msgspec.structs.replace(extent, **changes))


@pytest.mark.parametrize(
    ("changes", "part_size"),
    [
        ({}, 6 * MIB),
        ({"part_size": 0}, PART),
        ({"encrypted": True}, PART),
        ({"compression": "zstd"}, PART),
        ({"key": "packs/000001.tar"}, PART),
        ({"part_size": 2 * MIB}, PART),
        ({"part_size": 41 * MIB}, PART),
    ],
    ids=["plain parts", "one PUT", "sealed", "compressed", "in a pack", "small parts", "no room"],
)
async def test_only_plain_parts_can_be_taken_over(
    tmp_path: Path, changes: dict[str, object], part_size: int
) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(12 * MIB))
    seen = see(tmp_path, b"noise")
    with_delta = msgspec.structs.replace(
        transfer_settings(tmp_path, part_size_bytes=PART, memory_limit_bytes=40 * MIB),
        delta_from_bytes=12 * MIB,
    )
    before = known(await Reading(with_delta).read(upload(seen)), **changes)
    reading = await Reading(with_delta).read(upload(seen, known=before))
    found = parts(reading)[0].upload
    assert found.part_size == part_size
    assert found.earlier == (before.extent if part_size == 6 * MIB else None)


async def test_smaller_files_have_no_parts_to_take_over(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(12 * MIB))
    seen = see(tmp_path, b"noise")
    with_delta = msgspec.structs.replace(transfer_settings(tmp_path), delta_from_bytes=12 * MIB + 1)
    before = known(await Reading(with_delta).read(upload(seen)))
    found = parts(await Reading(with_delta).read(upload(seen, known=before)))[0].upload
    assert (found.part_size, found.earlier) == (PART, None)
