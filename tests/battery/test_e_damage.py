"""(e) Every byte of a sealed object counts: read by ranges, and in what is restored.

Read as a stream each byte is tried in tests/unit/format/test_envelope.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import AuthenticationError, FormatError
from asyncbackup.format.envelope import CHUNK_SIZE, SEALED_CHUNK_SIZE, UNKNOWN_SIZE, Sealer
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener
from tests.battery.sealed_scene import KINDS, SIZE
from tests.battery.selection import selected
from tests.unit.format.vectors import content

if TYPE_CHECKING:
    from tests.battery.score import Score
    from tests.battery.sealed_scene import Scenes

KEY = RepositoryKey(b"k" * 32)
PLACE = {"repository": "8f14e45fceea167a5a36dedd4bea2543", "section": "home", "object_key": "home/data/x"}
BOUNDARIES = (0, 8, 16, 40, HEAD_SIZE, HEAD_SIZE + SEALED_CHUNK_SIZE, HEAD_SIZE + 2 * SEALED_CHUNK_SIZE)
PLACES = sorted({boundary + off for boundary in BOUNDARIES for off in (-1, 0, 1) if boundary + off >= 0})
ADDED = (1, 15, 16, 17, SEALED_CHUNK_SIZE - 1, SEALED_CHUNK_SIZE, SEALED_CHUNK_SIZE + 1)


def sealed(plain: bytes, *, stream: bool) -> bytes:
    sealer = Sealer(KEY, size=UNKNOWN_SIZE if stream else len(plain), **PLACE)
    return sealer.start() + bytes(sealer.update(plain)) + sealer.finalize()


def range_opener(stored: bytes | bytearray) -> RangeOpener:
    return RangeOpener(KEY, head=bytes(stored[:HEAD_SIZE]), stored_size=len(stored), **PLACE)


def open_last_chunk(stored: bytes) -> bytes:
    """Of a stream the length is authentic once that was opened."""
    opener = range_opener(stored)
    last = opener.size // CHUNK_SIZE
    return opener.open_chunk(last, stored[HEAD_SIZE + last * SEALED_CHUNK_SIZE :])


@pytest.mark.parametrize("stream", [False, True])
def test_one_bit_of_any_byte_of_three_chunks_read_by_ranges(stream: bool) -> None:
    plain = content(SIZE)
    stored = bytearray(sealed(plain, stream=stream))
    for place in range(HEAD_SIZE):
        stored[place] ^= 1 << place % 8
        with pytest.raises(AuthenticationError):
            range_opener(stored)
        stored[place] ^= 1 << place % 8
    opener = range_opener(stored)
    for number in range(3):
        begin = HEAD_SIZE + number * SEALED_CHUNK_SIZE
        chunk = bytearray(stored[begin : begin + SEALED_CHUNK_SIZE])
        for place in range(len(chunk)):
            chunk[place] ^= 1 << place % 8
            with pytest.raises(AuthenticationError):
                opener.open_chunk(number, chunk)
            chunk[place] ^= 1 << place % 8
        assert opener.open_chunk(number, chunk) == plain[number * CHUNK_SIZE :][:CHUNK_SIZE]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [2 * CHUNK_SIZE, SIZE])
def test_cut_and_extended_around_every_boundary_read_by_ranges(stream: bool, size: int) -> None:
    stored = sealed(content(size), stream=stream)
    assert open_last_chunk(stored) == content(size)[2 * CHUNK_SIZE :]
    cut = [stored[:place] for place in (*PLACES, len(stored) - 1) if place >= HEAD_SIZE]
    extended = [stored + more[:added] for added in ADDED for more in (stored[HEAD_SIZE:] * 2, bytes(20_000))]
    for changed in (*cut, *extended):
        with pytest.raises((AuthenticationError, FormatError)):
            open_last_chunk(changed)


CUTS = [(kind, place) for kind in KINDS for place in (*PLACES, -1)]
EXTENSIONS = [(kind, added) for kind in KINDS for added in ADDED]
FLIPS = [(kind, place) for kind in KINDS for place in range(HEAD_SIZE)]


@pytest.mark.parametrize(("kind", "place"), selected(CUTS, 5, name="cuts"))
async def test_an_object_that_was_cut_gives_no_file(
    scenes: Scenes, score: Score, kind: str, place: int
) -> None:
    scene = await scenes.of(kind)
    stored = scene.stored()
    scene.change(stored, stored.read_bytes()[:place])
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize(("kind", "added"), selected(EXTENSIONS, 4, name="extensions"))
async def test_an_object_that_was_extended_gives_no_file(
    scenes: Scenes, score: Score, kind: str, added: int
) -> None:
    scene = await scenes.of(kind)
    stored = scene.stored()
    body = stored.read_bytes()
    scene.change(stored, body + (body[HEAD_SIZE:] * 2)[:added])
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize(("kind", "place"), selected(FLIPS, 5, name="flips"))
async def test_another_bit_of_the_head_gives_no_file(
    scenes: Scenes, score: Score, kind: str, place: int
) -> None:
    scene = await scenes.of(kind)
    stored = scene.stored()
    body = bytearray(stored.read_bytes())
    body[place] ^= 1 << place % 8
    scene.change(stored, bytes(body))
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize("kind", selected(KINDS, 2, name="bits"))
async def test_another_bit_around_the_edges_of_its_chunk_gives_no_file(
    scenes: Scenes, score: Score, kind: str
) -> None:
    scene = await scenes.of(kind)
    stored, number = scene.place()
    body = stored.read_bytes()
    begin = HEAD_SIZE + number * SEALED_CHUNK_SIZE
    end = min(begin + SEALED_CHUNK_SIZE, len(body))
    for place in (begin, begin + 1, (begin + end) // 2, end - 17, end - 16, end - 1):
        changed = bytearray(body)
        changed[place] ^= 1
        scene.change(stored, bytes(changed))
        score.archives += 1
        await scene.assert_refused()
