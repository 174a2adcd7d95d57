"""Bodies: cut, measured and sent again without being copied."""

from __future__ import annotations

import array

import pytest

from asyncbackup.store.body import PIECE_BYTES, BodyStream, body_size, buffers_of, pieces_of


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (b"", b""),
        ([], b""),
        ([b"", bytearray()], b""),
        (b"abc", b"abc"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"xabcx")[1:4], b"abc"),
        ([b"a", bytearray(b"b"), memoryview(b"c")], b"abc"),
        ((b"a", b"bc"), b"abc"),
    ],
)
async def test_bodies(body: bytes, whole: bytes) -> None:
    assert body_size(body) == len(whole)
    assert b"".join(buffers_of(body)) == whole
    assert b"".join(pieces_of(body, 2)) == whole
    assert all(0 < len(piece) <= 2 for piece in pieces_of(body, 2))

    moved: list[int] = []
    stream = BodyStream(body, sha256=b"", progress=lambda: moved.append(1))
    assert len(stream) == len(whole)
    for _ in range(2):  # A retry sends it again from the start.
        assert stream.seek(0) == 0
        assert b"".join([piece async for piece in stream]) == whole
    assert stream.read() == whole
    assert len(moved) == 2 * len(buffers_of(body))


def test_views_of_wider_items_count_bytes() -> None:
    view = memoryview(array.array("I", [1, 2, 3]))
    assert body_size(view) == view.nbytes
    assert b"".join(pieces_of(view)) == view.tobytes()


def test_pieces_are_views() -> None:
    body = bytearray(3 * PIECE_BYTES + 1)
    pieces = list(pieces_of([body]))
    body[0] = 7
    assert pieces[0][0] == 7
    assert [len(piece) for piece in pieces] == [PIECE_BYTES] * 3 + [1]


def test_a_body_cannot_be_read_in_part() -> None:
    stream = BodyStream(b"abc", sha256=b"", progress=lambda: None)
    with pytest.raises(ValueError, match="whole"):
        stream.read(1)
    with pytest.raises(ValueError, match="rewound"):
        stream.seek(1)
