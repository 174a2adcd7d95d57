"""Where contents lie, and what is said of those that are not what was saved."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any

import pytest
import zstandard

from asyncbackup.format.envelope import Opener, Sealer, sealed_size
from asyncbackup.format.expand import MAX_FRAME_BYTES, PIECE_BYTES
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.model import Entry, Extent
from asyncbackup.restore.content import Checker, Content, Opening, content_of
from asyncbackup.restore.outcome import ContentError
from tests.unit.format.test_expand import bomb
from tests.unit.restore.backup import file_entry

RUN = "20260921T141320Z-da77"
KEY = f"home/data/{RUN}/files/f"
PACK = f"home/data/{RUN}/packs/000001.tar"
PLACE = {"repository": "8f14e45fceea167a5a36dedd4bea2543", "section": "home", "object_key": KEY}
SECRET = RepositoryKey(b"k" * 32)


def entry_with(size: int, *, key: str = "files/f", **extent: Any) -> Entry:
    return file_entry("f", size=size, extent=Extent(run=RUN, key=key, **extent))


def test_the_key_is_that_of_the_run_that_uploaded_it() -> None:
    assert content_of(entry_with(7, length=7), "home", can_open=False) == Content(KEY, 0, 7, 7)
    sealed = entry_with(7, length=sealed_size(7), encrypted=True)
    assert content_of(sealed, "home", can_open=True) == Content(KEY, 0, sealed_size(7), 7, encrypted=True)


@pytest.mark.parametrize(
    ("extent", "content"),
    [
        ({"length": 3, "compression": "zstd"}, Content(KEY, 0, 3, 7, compressed=True)),
        (
            {"length": 200, "compression": "zstd", "encrypted": True, "skip": 30},
            Content(KEY, 0, 200, 7, encrypted=True, compressed=True, skip=30),
        ),
        (
            {"length": sealed_size(37), "encrypted": True, "skip": 30},
            Content(KEY, 0, sealed_size(37), 7, encrypted=True, skip=30),
        ),
        (
            {"key": "packs/000001.tar", "offset": 512, "length": 7},
            Content(PACK, 512, 7, 7, in_pack=True),
        ),
        (
            {"key": "packs/000001.tar", "offset": 512, "length": 7, "encrypted": True},
            Content(PACK, 512, 7, 7, encrypted=True, in_pack=True),
        ),
        (
            {"key": "packs/000001.tar.zst", "offset": 9, "length": 70, "compression": "zstd", "skip": 512},
            Content(PACK + ".zst", 9, 70, 7, compressed=True, in_pack=True, skip=512),
        ),
    ],
)
def test_every_kind_of_extent(extent: dict[str, Any], content: Content) -> None:
    assert content_of(entry_with(7, **extent), "home", can_open=True) == content


IN_PACK: dict[str, Any] = {"key": "packs/000001.tar", "offset": 512}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (file_entry("f", size=1), "does not say where"),
        (entry_with(7, length=8), "said to hold 8 bytes from 0, not 7"),
        (entry_with(7, length=7, offset=-1), "said to hold 7 bytes from -1"),
        (entry_with(7, length=7, encrypted=True), "is encrypted, and the section is not"),
        (entry_with(7, length=8, **IN_PACK), "said to hold 8 bytes from 512, not 7"),
        (entry_with(7, length=7, skip=1), "begin within itself"),
        (entry_with(7, length=7, skip=1, **IN_PACK), "begin within itself"),
        (entry_with(7, length=9, skip=-1, compression="zstd"), "said to hold 9 bytes"),
        (entry_with(7, length=-9, compression="zstd"), "said to hold -9 bytes"),
        (
            entry_with(7, length=9, skip=MAX_FRAME_BYTES - 6, compression="zstd", **IN_PACK),
            "said to expand to more than 16777216 bytes",
        ),
    ],
)
def test_contradictions_are_found_before_anything_is_downloaded(entry: Entry, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        content_of(entry, "home", can_open=False)


@pytest.mark.parametrize(
    ("extent", "reason"),
    [
        ({"length": sealed_size(7), "skip": 1}, "said to hold 95 bytes from 0, not 96"),
        ({"length": sealed_size(7), "offset": 1}, "said to hold 95 bytes from 1"),
        ({"length": 100, "offset": 1, "compression": "zstd"}, "said to hold 100 bytes from 1"),
    ],
)
def test_contradictions_of_sealed_objects(extent: dict[str, Any], reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        content_of(entry_with(7, encrypted=True, **extent), "home", can_open=True)


def test_sizes_that_nothing_can_be_sealed_in() -> None:
    entry = entry_with(2**60, length=7, encrypted=True)
    with pytest.raises(ContentError, match="cannot be sealed"):
        content_of(entry, "home", can_open=True)


def checker_of(
    content: bytes,
    *,
    sha256: bytes | None = None,
    compressed: bool = False,
    skip: int = 0,
    opening: Opening | None = None,
) -> Checker:
    digest = hashlib.sha256(content).digest() if sha256 is None else sha256
    return Checker(Content(KEY, 0, 0, len(content), compressed=compressed, skip=skip), digest, opening)


def read(checker: Checker, *stored: bytes) -> bytes:
    pieces = [piece for chunk in stored for piece in checker.feed(chunk)]
    return b"".join([*pieces, *checker.finish()])


def test_the_right_content_passes_however_it_is_cut() -> None:
    assert read(checker_of(b"abcdef"), b"ab", b"", b"cdef") == b"abcdef"


@pytest.mark.parametrize(
    ("received", "reason", "damaged"),
    [
        (b"abcdeF", "differs from the snapshot's", True),
        (b"abcde", "holds 5 bytes of content, not 6", True),
        (b"abcdefg", "holds more than 6 bytes", False),
    ],
)
def test_every_other_content_is_refused(received: bytes, reason: str, damaged: bool) -> None:
    with pytest.raises(ContentError, match=reason) as caught:
        read(checker_of(b"abcdef"), received)
    assert KEY in caught.value.reason
    assert caught.value.damaged is damaged


def test_without_a_digest_the_size_still_counts() -> None:
    assert read(checker_of(b"abcdef", sha256=b""), b"ABCDEF") == b"ABCDEF"


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("skip", [0, 1, 200_000])
@pytest.mark.parametrize("step", [100, 50_000, 10_000_000])
def test_opened_expanded_and_skipped(sealed: bool, compressed: bool, skip: int, step: int) -> None:
    random = Random(skip)
    content = random.randbytes(70_000) + bytes(300_000)
    stored = random.randbytes(skip) + content
    if compressed:
        compressor = zstandard.ZstdCompressor()
        # What follows the content is not its business.
        stored += b"more"
        stored = compressor.compress(stored[:123_456]) + compressor.compress(stored[123_456:])
    opening = None
    if sealed:
        sealer = Sealer(SECRET, size=len(stored), **PLACE)
        stored = sealer.start() + bytes(sealer.update(stored)) + sealer.finalize()
        opening = Opener(SECRET, **PLACE)
    checker = checker_of(content, compressed=compressed, skip=skip, opening=opening)
    assert read(checker, *(stored[i : i + step] for i in range(0, len(stored), step))) == content


def test_content_that_begins_beyond_the_end() -> None:
    stored = zstandard.ZstdCompressor().compress(b"short")
    with pytest.raises(ContentError, match="holds 0 bytes of content, not 3") as caught:
        read(checker_of(b"abc", compressed=True, skip=10), stored)
    assert caught.value.damaged


def test_frames_that_are_damaged_name_the_object() -> None:
    with pytest.raises(ContentError, match="cannot be expanded") as caught:
        read(checker_of(b"abc", compressed=True), b"no frame, whatever the manifest says")
    assert KEY in caught.value.reason
    assert caught.value.damaged


def test_of_a_bomb_no_more_than_the_content_is_expanded() -> None:
    content = bytes(10 * PIECE_BYTES)
    checker = checker_of(content, compressed=True)
    pieces = [len(piece) for piece in checker.feed(bomb(1000))]
    assert sum(pieces) == len(content)
    assert max(pieces) <= PIECE_BYTES
    assert list(checker.feed(bomb(1000))) == []
    assert list(checker.finish()) == []
