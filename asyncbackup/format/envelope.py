"""Sealed objects: a 16-byte header and a Cobblestone-256 message (docs/format.md, "Encryption").

Every file, pack and manifest of an encrypted repository is one sealed object.
The message's context binds repository, section, key and header, so no object
can stand in for another; the C2SP chunked encryption detects every change,
reordering and truncation.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from asyncbackup.errors import AuthenticationError, FormatError

if TYPE_CHECKING:
    from cryptography.cobblestone import Cobblestone256Decryptor

    from asyncbackup.format.keyslots import RepositoryKey

MAGIC = b"ASBKENC\x01"
"""The last byte is the envelope's version."""
HEADER_SIZE = 16
UNKNOWN_SIZE = 2**64 - 1
"""In the header of what is sealed as a stream: the length is the message's own."""

CHUNK_SIZE = 16 * 1024
TAG_SIZE = 16
SEALED_CHUNK_SIZE = CHUNK_SIZE + TAG_SIZE
PREAMBLE_SIZE = 24 + 32
"""Salt and key commitment, before the first chunk."""
MAX_SIZE = 2**52 - 1
"""The most that one message holds (2³⁸ chunks)."""

_CONTEXT_LABEL = b"asyncbackup object v1"


def sealed_size(size: int) -> int:
    """The stored size of a content of ``size`` bytes, header included."""
    if not 0 <= size <= MAX_SIZE:
        raise ValueError(f"{size} bytes cannot be sealed in one object")
    return HEADER_SIZE + PREAMBLE_SIZE + size + (size // CHUNK_SIZE + 1) * TAG_SIZE


def unsealed_size(stored: int) -> int:
    """The size of the content sealed in ``stored`` bytes.

    Raises :class:`FormatError` for a length that no sealed object has.
    """
    chunks, rest = divmod(stored - HEADER_SIZE - PREAMBLE_SIZE, SEALED_CHUNK_SIZE)
    if chunks < 0 or rest < TAG_SIZE:
        raise FormatError(f"no sealed object is {stored} bytes long: it was truncated or extended")
    return chunks * CHUNK_SIZE + rest - TAG_SIZE


def context(repository: str, section: str, object_key: str, header: bytes) -> bytes:
    """What a message is bound to. ``object_key`` is relative to the destination.

    Every field has its length before it, so no two lists of fields frame alike.
    """
    fields = (_CONTEXT_LABEL, repository.encode(), section.encode(), object_key.encode(), header)
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


class Sealer:
    """Seals one content of ``size`` bytes (or ``UNKNOWN_SIZE``) for one key.

    The object is ``start()``, then what the updates give, then ``finalize()``.
    Each sealer has a random salt, so two of them never share key and nonce,
    also for one key and content. Not thread-safe; updates release the GIL.
    """

    def __init__(
        self, key: RepositoryKey, *, repository: str, section: str, object_key: str, size: int
    ) -> None:
        if size != UNKNOWN_SIZE and not 0 <= size <= MAX_SIZE:
            raise ValueError(f"{size} bytes cannot be sealed in one object")
        # Imported here, as below: sizes are asked for where nothing is encrypted, too.
        from cryptography.cobblestone import Cobblestone256Encryptor

        self.header = MAGIC + struct.pack(">Q", size)
        self._size = size
        self._taken = 0
        self._encryptor = Cobblestone256Encryptor(
            key.reveal(), context(repository, section, object_key, self.header)
        )

    def start(self) -> bytes:
        """The 16-byte header, the object's first bytes."""
        return self.header

    def room_for(self, size: int) -> int:
        """How many bytes one update with ``size`` bytes can give at most."""
        return PREAMBLE_SIZE + (size // CHUNK_SIZE + 1) * SEALED_CHUNK_SIZE

    def update_into(self, data: bytes | bytearray | memoryview, buf: bytearray | memoryview) -> int:
        """Seal ``data`` into ``buf``; returns how many bytes it now holds.

        ``buf`` needs :meth:`room_for` bytes; a chunk not yet full stays inside.
        Raises ``ValueError`` for a smaller one and for more data than announced.
        """
        self._count(len(data))
        return self._encryptor.update_into(data, buf)

    def update(self, data: bytes | bytearray | memoryview) -> bytearray:
        """Like :meth:`update_into`, into a buffer of its own."""
        sealed = bytearray(self.room_for(len(data)))
        count = self.update_into(data, sealed)
        del sealed[count:]
        return sealed

    def finalize(self) -> bytes:
        """The object's last bytes. Raises ``ValueError`` if fewer bytes came than were announced."""
        if self._size not in (UNKNOWN_SIZE, self._taken):
            raise ValueError(f"{self._size} bytes were announced and {self._taken} sealed")
        return self._encryptor.finalize()

    def _count(self, count: int) -> None:
        self._taken += count
        if self._taken > self._size:
            raise ValueError(f"{self._size} bytes were announced and at least {self._taken} came")


class Opener:
    """Opens a sealed object as its bytes arrive.

    The content is what the :meth:`feed` calls return *and* what :meth:`finish`
    returns: the last, short chunk shows itself only at the end. Every byte
    given out is authentic, but only ``finish`` tells that they are all.
    Everything raises :class:`AuthenticationError`, which names the object.
    """

    def __init__(self, key: RepositoryKey, *, repository: str, section: str, object_key: str) -> None:
        self._key = key
        self._repository = repository
        self._section = section
        self._object_key = object_key
        self._header = b""
        self._size: int | None = None
        self._fed = 0
        self._decryptor: Cobblestone256Decryptor | None = None
        self._opened = memoryview(bytearray())

    @property
    def size(self) -> int | None:
        """The content's size from the header; ``None`` until it is authenticated, or for a stream."""
        return self._size if self._fed >= PREAMBLE_SIZE and self._size != UNKNOWN_SIZE else None

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """The content that ``data`` completes, a whole number of 16 KiB chunks."""
        decryptor, view = self._begun(data)
        if decryptor is None:
            return b""
        try:
            return decryptor.update(view)
        except _refusals():
            raise _damaged(self._object_key) from None

    def feed_view(self, data: bytes | bytearray | memoryview) -> memoryview:
        """As :meth:`feed`, always into the same memory: a view that is valid until the next call."""
        decryptor, view = self._begun(data)
        if decryptor is None:
            return self._opened[:0]
        room = len(view) + SEALED_CHUNK_SIZE
        if len(self._opened) < room:
            self._opened = memoryview(bytearray(room))
        try:
            return self._opened[: decryptor.update_into(view, self._opened)]
        except _refusals():
            raise _damaged(self._object_key) from None

    def _begun(
        self, data: bytes | bytearray | memoryview
    ) -> tuple[Cobblestone256Decryptor | None, memoryview]:
        """What opens the message, once the header has come, and what of it is in ``data``."""
        view = memoryview(data).cast("B")
        if self._decryptor is None:
            missing = HEADER_SIZE - len(self._header)
            self._header += bytes(view[:missing])
            view = view[missing:]
            if len(self._header) < HEADER_SIZE:
                return None, view
            self._size = read_header(self._header, self._object_key)
            bound = context(self._repository, self._section, self._object_key, self._header)
            from cryptography.cobblestone import Cobblestone256Decryptor

            self._decryptor = Cobblestone256Decryptor(self._key.reveal(), bound)
        self._fed += len(view)
        assert self._size is not None
        if self._size != UNKNOWN_SIZE and HEADER_SIZE + self._fed > sealed_size(self._size):
            raise _damaged(self._object_key, "it is longer than its header says")
        return self._decryptor, view

    def finish(self) -> bytes:
        """The last bytes of the content. Raises if the object was cut off or is not of the announced size."""
        if self._decryptor is None or self._size is None:
            raise _damaged(self._object_key, "it ends within its header")
        if self._size != UNKNOWN_SIZE and HEADER_SIZE + self._fed != sealed_size(self._size):
            raise _damaged(self._object_key, "it is shorter than its header says")
        try:
            return self._decryptor.finalize()
        except _refusals():
            raise _damaged(self._object_key) from None


def _refusals() -> tuple[type[Exception], ...]:
    """How a decryptor says that a message is not what was sealed. An ``except`` asks for it only when
    something was raised."""
    from cryptography.exceptions import AlreadyFinalized, InvalidTag

    return InvalidTag, AlreadyFinalized


def read_header(header: bytes, object_key: str) -> int:
    """The size in a sealed object's first 16 bytes, not yet authenticated."""
    if header[:7] != MAGIC[:7]:
        raise _damaged(object_key, "it is not a sealed object")
    if header[7] != MAGIC[7]:
        raise AuthenticationError(
            f"{object_key!r}: sealed in version {header[7]}, this asyncbackup opens version {MAGIC[7]}"
        )
    size: int = struct.unpack(">Q", header[8:HEADER_SIZE])[0]
    if size != UNKNOWN_SIZE and size > MAX_SIZE:
        raise _damaged(object_key, f"its header announces {size} bytes")
    return size


def _damaged(
    object_key: str, reason: str = "it was changed, cut off, or stands at another key"
) -> FormatError:
    return AuthenticationError(f"{object_key!r} is not authentic: {reason}")
