"""What an object with a hidden name says of its entry: it stands at the beginning of what is sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import zstandard

from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import CHUNK_SIZE
from asyncbackup.format.escape import escape_path
from asyncbackup.format.frame_reader import MAX_WINDOW_BYTES
from asyncbackup.format.keys import plain_key
from asyncbackup.format.metadata import describe_object, path_in_metadata
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener
from asyncbackup.model import ZSTD, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncbackup.format.metadata import ObjectDescription
    from asyncbackup.repository.open import Repository

FIRST_READ_BYTES = 4 * CHUNK_SIZE
"""Usual heads have some hundred bytes, and compress to no more than that."""
MAX_HEAD_BYTES = 2 * 1024 * 1024
"""More than a manifest has room for."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# 512 compressed bytes expand to 16 MiB at the most.
_STEP_BYTES = 512
_LENGTH_BYTES = 4

_decoder = msgspec.json.Decoder(dict[str, str])


class HiddenHead(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata that a hidden object begins with; its content begins ``skip`` bytes into what is
    opened and, by ``compression``, expanded. ``content_size`` is ``None`` where only expanding would tell."""

    metadata: dict[str, str]
    compression: str
    skip: int
    content_size: int | None


async def read_hidden_head(repository: Repository, key: str, stored_size: int) -> HiddenHead:
    """Read and open the beginning of the object at ``key``, in one or two ranged requests.

    Raises ``AuthenticationError`` for an object that is not authentic,
    ``FormatError`` for one that has no head, and ``StoreError``.
    """
    assert repository.key is not None, "the caller has seen to it"
    if stored_size < HEAD_SIZE:
        raise FormatError(f"{stored_size} bytes are too few for a sealed object")
    stored = await _read(repository, key, 0, min(stored_size, HEAD_SIZE + FIRST_READ_BYTES))
    opener = RangeOpener(
        repository.key,
        repository=repository.repository_id,
        section=repository.section,
        object_key=key,
        head=stored[:HEAD_SIZE],
        stored_size=stored_size,
    )
    for wanted in (FIRST_READ_BYTES - CHUNK_SIZE, MAX_HEAD_BYTES + FIRST_READ_BYTES):
        size = min(wanted, opener.size)
        offset, length = opener.stored_range(0, size)
        if offset + length > len(stored):
            stored = await _read(repository, key, 0, offset + length)
        opened = await repository.threads.run(opener.open, 0, size, stored[offset : offset + length])
        compressed = opened.startswith(_ZSTD_MAGIC)
        head = _head_in(_expanded(opened) if compressed else iter((opened,)))
        if head is not None:
            skip = _LENGTH_BYTES + len(head)
            return HiddenHead(
                metadata=_decode(head),
                compression=ZSTD if compressed else "",
                skip=skip,
                content_size=None if compressed else opener.size - skip,
            )
        if size == opener.size:
            break
    raise FormatError("what is sealed in it does not begin with the head of a hidden object")


def describe_hidden(head: HiddenHead, key: str) -> ObjectDescription:
    """The entry that a head describes, without its extent. Raises ``FormatError``, naming the key."""
    metadata = dict(head.metadata)
    path = path_in_metadata(metadata, key)
    # What was done to the content is known by now, and its size announced or counted.
    metadata.pop("asyncbackup-encoding", None)
    announced = metadata.get("asyncbackup-size")
    mode = metadata.get("mode", "")
    kind = Kind.FOLDER if mode.removeprefix("0").startswith("4") else Kind.FILE
    size = 0
    if kind is Kind.FILE and not mode.startswith("12") and "asyncbackup-hardlink" not in metadata:
        size = _content_size(head, announced, key)
        metadata["asyncbackup-size"] = str(size)
    return describe_object(metadata, key=plain_key(escape_path(path), kind), stored_size=size)


def _content_size(head: HiddenHead, announced: str | None, key: str) -> int:
    if announced is None:
        if head.content_size is None:
            raise FormatError(f"{key!r}: it does not say how large its content is before compression")
        return head.content_size
    if not announced.isascii() or not announced.isdigit() or len(announced) > 19:
        raise FormatError(f"{key!r}: {announced!r} is not a size")
    if head.content_size not in (None, int(announced)):
        raise FormatError(f"{key!r}: it holds {head.content_size} bytes, its head says {announced}")
    return int(announced)


async def _read(repository: Repository, key: str, offset: int, length: int) -> bytes:
    async with repository.store.open(key, offset=offset, length=length) as source:
        return b"".join([chunk async for chunk in source])


def _head_in(pieces: Iterator[bytes]) -> bytes | None:
    """The head at the beginning of ``pieces``, of which no more are taken than it needs; ``None`` where
    they end before it does."""
    begin = b""
    for piece in pieces:
        begin += piece
        if len(begin) < _LENGTH_BYTES:
            continue
        length = int.from_bytes(begin[:_LENGTH_BYTES])
        if length > MAX_HEAD_BYTES:
            raise FormatError(f"its head is said to have {length} bytes, more than {MAX_HEAD_BYTES}")
        if len(begin) >= _LENGTH_BYTES + length:
            return begin[_LENGTH_BYTES : _LENGTH_BYTES + length]
    return None


def _expanded(data: bytes) -> Iterator[bytes]:
    """What the zstd frame that ``data`` begins with expands to, as far as it is there."""
    stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
    for start in range(0, len(data), _STEP_BYTES):
        if stream.eof:
            return
        try:
            yield stream.decompress(data[start : start + _STEP_BYTES])
        except zstandard.ZstdError as error:
            raise FormatError(f"its zstd frames are damaged ({error})") from None


def _decode(head: bytes) -> dict[str, str]:
    try:
        return _decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"its head is no object of names and values ({error})") from None
