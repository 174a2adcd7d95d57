"""Random access to a sealed object: which stored bytes hold a range, and opening them.

Each 16 KiB chunk of a Cobblestone-256 message is authenticated on its own, so
that one member of a large object is read without the rest (docs/format.md,
"Encryption", "Random access").
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from asyncbackup.errors import AuthenticationError
from asyncbackup.format.envelope import (
    CHUNK_SIZE,
    HEADER_SIZE,
    PREAMBLE_SIZE,
    SEALED_CHUNK_SIZE,
    UNKNOWN_SIZE,
    context,
    read_header,
    sealed_size,
    unsealed_size,
)

if TYPE_CHECKING:
    from asyncbackup.format.keyslots import RepositoryKey
    from asyncbackup.format.stretch import Stretch

HEAD_SIZE = HEADER_SIZE + PREAMBLE_SIZE
"""What a range opener needs of the object's beginning: header, salt, commitment."""

_INFO = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\x00"
_SALT_BYTES = 24
_KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = SEALED_CHUNK_SIZE - CHUNK_SIZE


class RangeOpener:
    """Opens any range of one sealed object, given its first 72 bytes and its stored size.

    ``size`` is the content's. It is authenticated by the header; of a stream
    (``UNKNOWN_SIZE``) it follows from ``stored_size`` and is authenticated
    only once the last chunk was opened. Raises
    :class:`~asyncbackup.errors.AuthenticationError` at once for another
    repository's, section's or key's object and for an impossible length.
    """

    def __init__(
        self,
        key: RepositoryKey,
        *,
        repository: str,
        section: str,
        object_key: str,
        head: bytes,
        stored_size: int,
    ) -> None:
        if len(head) != HEAD_SIZE:
            raise ValueError(f"the head has {HEAD_SIZE} bytes")
        self.object_key = object_key
        header, preamble = head[:HEADER_SIZE], head[HEADER_SIZE:]
        announced = read_header(header, object_key)
        salt, commitment = preamble[:_SALT_BYTES], preamble[_SALT_BYTES:]
        info = _INFO + salt + context(repository, section, object_key, header)
        derived = HKDFExpand(SHA512(), _KEY_BYTES + _NONCE_BYTES + len(commitment), info).derive(key.reveal())
        if not hmac.compare_digest(derived[_KEY_BYTES + _NONCE_BYTES :], commitment):
            raise self._damaged()
        self._aead = AESGCM(derived[:_KEY_BYTES])
        self._base_nonce = int.from_bytes(derived[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES])
        if announced != UNKNOWN_SIZE and stored_size != sealed_size(announced):
            raise AuthenticationError(
                f"{object_key!r} is not authentic: it has {stored_size} bytes, its header says "
                f"{sealed_size(announced)}"
            )
        self.size = unsealed_size(stored_size)
        self._stored_size = stored_size

    def stored_range(self, offset: int, length: int) -> tuple[int, int]:
        """``(offset, length)`` of the stored bytes that :meth:`open` needs for this range of the content."""
        self._check(offset, length)
        first = offset // CHUNK_SIZE
        last = max(first, (offset + length - 1) // CHUNK_SIZE)
        start = HEAD_SIZE + first * SEALED_CHUNK_SIZE
        stop = min(self._stored_size, HEAD_SIZE + (last + 1) * SEALED_CHUNK_SIZE)
        return start, stop - start

    def open(self, offset: int, length: int, stored: bytes | bytearray | memoryview) -> bytes:
        """The range of the content; ``stored`` is exactly what :meth:`stored_range` asked for."""
        start, count = self.stored_range(offset, length)
        if len(stored) != count:
            raise AuthenticationError(
                f"{self.object_key!r}: {count} bytes from {start} were asked for, {len(stored)} came"
            )
        view = memoryview(stored).cast("B")
        number = offset // CHUNK_SIZE
        pieces = []
        for place in range(0, count, SEALED_CHUNK_SIZE):
            pieces.append(self.open_chunk(number, view[place : place + SEALED_CHUNK_SIZE]))
            number += 1
        skip = offset % CHUNK_SIZE
        return b"".join(pieces)[skip : skip + length]

    def open_chunk(self, number: int, stored: bytes | bytearray | memoryview) -> bytes:
        """The content of one chunk, counted from 0. Raises ``AuthenticationError``."""
        nonce = (self._base_nonce ^ number).to_bytes(_NONCE_BYTES)
        try:
            return self._aead.decrypt(nonce, stored, None)
        except InvalidTag:
            raise self._damaged() from None

    def open_chunk_into(self, number: int, stored: memoryview, content: memoryview) -> None:
        """As :meth:`open_chunk`, into the beginning of ``content``. What is there is not to be read
        if this raises."""
        size = len(stored) - _TAG_BYTES
        if size < 0:
            raise self._damaged()
        nonce = (self._base_nonce ^ number).to_bytes(_NONCE_BYTES)
        try:
            self._aead.decrypt_into(nonce, stored, None, content[:size])
        except InvalidTag:
            raise self._damaged() from None

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes from {offset} are not within {self.size}")

    def _damaged(self) -> AuthenticationError:
        return AuthenticationError(
            f"{self.object_key!r} is not authentic: it was changed, cut off, or stands at another key"
        )


class SpanReader:
    """Reads contents out of a stretch of a sealed object that was fetched at once.

    ``stored`` is what ``stored_range(offset, length)`` of the opener asks for.
    Read in ascending order, each chunk is opened once, and a damaged one fails
    only what lies in it. What is opened takes memory for the longest read and
    is not allocated anew for each. Not thread-safe.
    """

    def __init__(self, opener: RangeOpener, offset: int, length: int, stored: Stretch) -> None:
        _, count = opener.stored_range(offset, length)
        if len(stored) != count:
            raise ValueError(f"{count} bytes belong to this range, not {len(stored)}")
        self._opener = opener
        self._first = offset // CHUNK_SIZE
        self._stored = stored
        self._opened = memoryview(bytearray())
        self._begin = self._end = 0
        """The numbers of the first chunk that is open, and of the one after the last."""

    def read(self, offset: int, length: int) -> memoryview:
        """``length`` bytes of the object's content from ``offset``, within the stretch. Valid until
        the next call.

        Raises :class:`~asyncbackup.errors.AuthenticationError`.
        """
        if not length:
            return memoryview(b"")
        first, end = offset // CHUNK_SIZE, (offset + length - 1) // CHUNK_SIZE + 1
        if first < self._begin or end > self._end:
            self._open(first, end)
        begin = offset - self._begin * CHUNK_SIZE
        return self._opened[begin : begin + length]

    def _open(self, first: int, end: int) -> None:
        """Have the chunks from ``first`` to before ``end`` open. Those that are stay so."""
        opened = self._opened
        if len(opened) < (end - first) * CHUNK_SIZE:
            opened = memoryview(bytearray((end - first) * CHUNK_SIZE))
        number = first
        if self._begin <= first < self._end:
            number = min(end, self._end)
            size = (number - first) * CHUNK_SIZE
            begin = (first - self._begin) * CHUNK_SIZE
            opened[:size] = self._opened[begin : begin + size]
        self._opened = opened
        # Until all are open none is: what was not authentic may lie in the buffer.
        self._begin = self._end = 0
        while number < end:
            place = (number - self._first) * SEALED_CHUNK_SIZE
            begin = (number - first) * CHUNK_SIZE
            stored = self._stored.view(place, place + SEALED_CHUNK_SIZE)
            self._opener.open_chunk_into(number, stored, opened[begin : begin + CHUNK_SIZE])
            number += 1
        self._begin, self._end = first, end


class RangeStream:
    """Opens a range of a sealed object as its stored bytes arrive: those of ``stored_range``.

    The content is what the :meth:`feed` calls return; every byte of it is
    authentic. :meth:`finish` tells whether it is all. Both raise
    :class:`~asyncbackup.errors.AuthenticationError`.
    """

    def __init__(self, opener: RangeOpener, offset: int, length: int) -> None:
        opener.stored_range(offset, length)
        self._opener = opener
        self._number, self._skip = divmod(offset, CHUNK_SIZE)
        self._left = length
        self._held = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """The content that ``data`` completes."""
        held = self._held
        held += data
        pieces: list[bytes] = []
        place = 0
        while len(held) - place >= SEALED_CHUNK_SIZE:
            pieces.append(self._open(bytes(held[place : place + SEALED_CHUNK_SIZE])))
            place += SEALED_CHUNK_SIZE
        del held[:place]
        return b"".join(pieces)

    def feed_view(self, data: bytes | bytearray | memoryview) -> bytes:
        """As :meth:`feed`: what opens either kind of object as it comes has both."""
        return self.feed(data)

    def finish(self) -> bytes:
        """The last of the content, where it lies in the object's last chunk."""
        rest = self._open(bytes(self._held)) if self._held else b""
        self._held.clear()
        if self._left:
            raise AuthenticationError(f"{self._opener.object_key!r}: the range ends {self._left} bytes early")
        return rest

    def _open(self, stored: bytes) -> bytes:
        content = self._opener.open_chunk(self._number, stored)[self._skip : self._skip + self._left]
        self._number += 1
        self._skip = 0
        self._left -= len(content)
        return content
