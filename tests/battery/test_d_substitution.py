"""(d) Sealed objects in each other's place, and with their chunks moved: the file does not appear."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.envelope import HEADER_SIZE, MAGIC, SEALED_CHUNK_SIZE
from asyncbackup.format.range_opener import HEAD_SIZE
from tests.battery.sealed_scene import KINDS, TWIN, chunks_of
from tests.battery.selection import selected

if TYPE_CHECKING:
    from tests.battery.score import Score
    from tests.battery.sealed_scene import Scenes

OWNERS = ("file", "run", "section", "host")
Chunks = list[bytes]
MOVES: dict[str, Callable[[Chunks, int], Chunks]] = {
    "dropped": lambda chunks, at: chunks[:at] + chunks[at + 1 :],
    "doubled": lambda chunks, at: [*chunks[: at + 1], *chunks[at:]],
    "exchanged": lambda chunks, at: [*chunks[: at - 1], chunks[at], chunks[at - 1], *chunks[at + 1 :]],
    "repeated": lambda chunks, at: [*chunks[:at], chunks[at - 1], *chunks[at + 1 :]],
    "cut before": lambda chunks, at: chunks[:at],
    "cut behind": lambda chunks, at: [*chunks[:at], chunks[at][:-1]],
    "begun late": lambda chunks, at: chunks[at:],
    "emptied": lambda chunks, at: [],
    "zeros": lambda chunks, at: [*chunks[:at], bytes(len(chunks[at])), *chunks[at + 1 :]],
}
WHOLE = [(kind, owner) for kind in KINDS for owner in OWNERS if (owner, "packed" in kind) != ("file", True)]
"""In packs both files share one object."""
MOVED = [(kind, move) for kind in KINDS for move in MOVES]


@pytest.mark.parametrize(("kind", "owner"), selected(WHOLE, 6, name="whole"))
async def test_another_object_in_its_place(scenes: Scenes, score: Score, kind: str, owner: str) -> None:
    scene = await scenes.of(kind)
    stored, other = scene.stored(), await scene.another(owner)
    assert stored != other
    body = other.read_bytes()
    scene.change(stored, body)
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize("kind", selected([kind for kind in KINDS if "mirror" in kind], 1, name="both"))
async def test_two_objects_exchanged(scenes: Scenes, score: Score, kind: str) -> None:
    scene = await scenes.of(kind)
    one, other = scene.stored(), scene.stored(TWIN)
    bodies = one.read_bytes(), other.read_bytes()
    if "hidden" not in kind:
        assert len(bodies[0]) == len(bodies[1])
    scene.change(other, bodies[0])
    scene.change(one, bodies[1])
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize(("kind", "move"), selected(MOVED, 8, name="moved"))
async def test_chunks_that_were_moved(scenes: Scenes, score: Score, kind: str, move: str) -> None:
    scene = await scenes.of(kind)
    stored, at = scene.place()
    body = stored.read_bytes()
    assert at > 0
    changed = body[:HEAD_SIZE] + b"".join(MOVES[move](chunks_of(body), at))
    assert changed != body
    scene.change(stored, changed)
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize(("kind", "owner"), selected(WHOLE, 4, name="replayed"))
async def test_a_chunk_replayed_from_another_object(
    scenes: Scenes, score: Score, kind: str, owner: str
) -> None:
    scene = await scenes.of(kind)
    stored, at = scene.place()
    other = await scene.another(owner)
    chunks, others = chunks_of(stored.read_bytes()), chunks_of(other.read_bytes())
    chunks[at] = others[at]
    scene.change(stored, stored.read_bytes()[:HEAD_SIZE] + b"".join(chunks))
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize("kind", selected(KINDS, 2, name="announced"))
async def test_another_size_is_announced(scenes: Scenes, score: Score, kind: str) -> None:
    """With a body that fits it: cut at a chunk, and the header says so."""
    scene = await scenes.of(kind)
    stored, at = scene.place()
    body = stored.read_bytes()
    whole = body[: HEAD_SIZE + at * SEALED_CHUNK_SIZE + 16]
    size = at * (SEALED_CHUNK_SIZE - 16)
    scene.change(stored, MAGIC + size.to_bytes(8) + whole[HEADER_SIZE:])
    score.archives += 1
    await scene.assert_refused()


@pytest.mark.parametrize("kind", selected(KINDS, 1, name="unsealed"))
async def test_plain_content_in_place_of_a_sealed_object(scenes: Scenes, score: Score, kind: str) -> None:
    scene = await scenes.of(kind)
    stored = scene.stored()
    length = stored.stat().st_size
    scene.change(stored, (scene.bench.tree / "victim").read_bytes()[:length].ljust(length, b"\0"))
    score.archives += 1
    await scene.assert_refused()
