"""Reading one manifest object as it arrives: decrypted, decoded, checked, never whole in memory."""

from __future__ import annotations

from contextlib import aclosing
from hashlib import sha256
from typing import TYPE_CHECKING, Self, cast

from asyncbackup.errors import AuthenticationError, FormatError, KeyUnlockError, ObjectMissingError
from asyncbackup.format.envelope import MAGIC, Opener
from asyncbackup.format.keys import snapshot_key
from asyncbackup.model import Pack
from asyncbackup.repository.manifest_parser import ManifestParser, ParserLostError, ThreadParser, items_from
from asyncbackup.repository.snapshots import newest_revision
from asyncbackup.repository.vouched import vouched_digest
from asyncbackup.store.checksums import single_checksum

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType

    from asyncbackup.format.manifest import Item, ManifestHeader, ManifestTrailer, TreeItem
    from asyncbackup.repository.open import Repository

WINDOW_BYTES = 1024 * 1024


class ManifestStream:
    """One manifest, open for one pass. Use it in ``async with``; :attr:`header` is there from then on.

    An open object holds one of the store's requests. With ``in_windows`` the
    manifest is read by ranges of 1 MiB, so that any number of streams can be
    read side by side whatever the concurrency.

    Without a ``revision`` it is the first one that is read, or the newest where a prune has
    replaced that. ``on_packs`` is given the packs, which stand at the manifest's end.

    Entering raises ``ObjectMissingError`` for a snapshot that does not exist,
    ``FormatError`` for a damaged one, or one that stands at another's key,
    ``AuthenticationError`` for one that was tampered with, or that is not
    encrypted though the section is and that no encrypted one vouches for, and
    ``KeyUnlockError`` for an encrypted one of a section without a secret.
    """

    def __init__(
        self,
        repository: Repository,
        run: str,
        *,
        revision: int | None = None,
        in_windows: bool = False,
        on_packs: Callable[[list[Pack]], Awaitable[None]] | None = None,
    ) -> None:
        self.key = snapshot_key(repository.section, run, revision or 0)
        self.trailer: ManifestTrailer | None = None
        """Set once all items were taken."""
        self.sealed = False
        """Whether the object is sealed; known once the stream was entered."""
        self._repository = repository
        self._run = run
        self._revision = revision
        self._in_windows = in_windows
        self._on_packs = on_packs
        self._parser: ManifestParser | None = None
        self._batches = self._read()
        self._first: list[Item] | None = None

    @property
    def header(self) -> ManifestHeader:
        header = None if self._parser is None else self._parser.header
        if header is None:
            raise RuntimeError("a manifest's header is known once it was opened")
        return header

    async def __aenter__(self) -> Self:
        try:
            # The first items, or a clean end without any, come after the header.
            try:
                self._first = await anext(self._batches, None)
            except ObjectMissingError:
                if self._revision is not None or not await self._find_revision():
                    raise
                self._first = await anext(self._batches, None)
            self._check_header()
        except BaseException:
            await self._batches.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._batches.aclose()

    async def items(self) -> AsyncGenerator[list[TreeItem], None]:
        """The entries and deleted paths in their order, in batches of a few thousand at most. Once only.

        That they were all is known when the iteration has ended without an error.
        """
        first, self._first = self._first, None
        if first and (items := await self._without_packs(first)):
            yield items
        async with aclosing(self._batches) as batches:
            async for batch in batches:
                if items := await self._without_packs(batch):
                    yield items

    async def _without_packs(self, batch: list[Item]) -> list[TreeItem]:
        if not isinstance(batch[-1], Pack):
            # Packs stand behind everything else.
            return cast("list[TreeItem]", batch)
        packs = [item for item in batch if isinstance(item, Pack)]
        if self._on_packs is not None:
            await self._on_packs(packs)
        return [item for item in batch if not isinstance(item, Pack)]

    async def _find_revision(self) -> bool:
        """Turn to the newest revision of a manifest whose first one is gone; whether there is any."""
        repository = self._repository
        newest = await newest_revision(repository, self._run)
        if not newest:
            return False
        self._revision = newest
        self.key = snapshot_key(repository.section, self._run, newest)
        self._batches = self._read()
        return True

    async def _read(self) -> AsyncGenerator[list[Item], None]:
        parsing, given = self._repository.parsing, 0
        parser = None if parsing is None else parsing.parser(self.key, alone=not self._in_windows)
        if parser is not None:
            self._parser = parser
            try:
                async with aclosing(parser.items(self._plaintext())) as batches:
                    async for items in batches:
                        given += len(items)
                        yield items
                self.trailer = parser.trailer
                return
            except ParserLostError:
                pass  # What it has not given is read here.
        self._parser = here = ThreadParser(self.key, self._repository.threads)
        async with aclosing(items_from(here, self._plaintext(), skip=given)) as batches:
            async for items in batches:
                if given:
                    self._check_header()  # of what may be another object by now
                yield items
        self.trailer = here.trailer

    async def _plaintext(self) -> AsyncGenerator[bytes, None]:
        run_in_thread = self._repository.threads.run
        async with aclosing(self._chunks()) as chunks:
            head = b""
            while len(head) < len(MAGIC) and (chunk := await anext(chunks, None)) is not None:
                head += chunk
            decoder = await self._decoder(head)
            yield await run_in_thread(decoder.feed, head)
            async for chunk in chunks:
                yield await run_in_thread(decoder.feed, chunk)
        yield decoder.finish()

    async def _decoder(self, head: bytes) -> _Decoder:
        """How the object that begins with ``head`` is read; whether it may be believed at all."""
        repository = self._repository
        self.sealed = head.startswith(MAGIC)
        if not self.sealed:
            if not repository.seals:
                return _Decoder(self.key)
            return _Decoder(self.key, digest=await vouched_digest(repository, self._run, self.key))
        if repository.key is None:
            section = repository.section
            raise KeyUnlockError(
                f"{self.key} is encrypted, but section {section!r} names no secret; "
                f"name the pass phrase of this destination in sections.{section}.encryption"
            )
        opener = Opener(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=self.key,
        )
        return _Decoder(self.key, opener=opener)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        store = self._repository.store
        if not self._in_windows:
            async with store.open(self.key) as source:
                async for chunk in source:
                    yield chunk
            return
        size = (await store.head(self.key)).size
        for offset in range(0, size, WINDOW_BYTES):
            length = min(WINDOW_BYTES, size - offset)
            async with store.open(self.key, offset=offset, length=length) as source:
                window = b"".join([chunk async for chunk in source])
            yield window

    def _check_header(self) -> None:
        header, repository = self.header, self._repository
        for what, found, wanted in (
            ("snapshot", header.snapshot, self._run),
            ("section", header.section, repository.section),
            ("repository", header.repository, repository.repository_id),
            ("revision", header.revision, self._revision or 0),
        ):
            if found != wanted:
                raise FormatError(
                    f"{self.key}: it is a manifest of {what} {found!r} and stands in the place of one of "
                    f"{wanted!r}; somebody moved or replaced it"
                )


class _Decoder:
    """The plaintext of a manifest: opened where it is sealed, compared with ``digest`` where one is given."""

    __slots__ = ("_digest", "_key", "_opener", "_sha256")

    def __init__(self, key: str, *, opener: Opener | None = None, digest: str = "") -> None:
        self._key = key
        self._opener = opener
        self._digest = digest
        self._sha256 = sha256()

    def feed(self, data: bytes) -> bytes:
        """The plaintext that ``data`` adds. Of a sealed manifest it is authentic, of a vouched one that
        is known at its end."""
        if self._opener is not None:
            return self._opener.feed(data)
        if self._digest:
            self._sha256.update(data)
        return data

    def finish(self) -> bytes:
        """Check that nothing is missing at the end; the last plaintext."""
        if self._opener is not None:
            return self._opener.finish()
        if self._digest and single_checksum(self._sha256.digest()) != self._digest:
            raise AuthenticationError(
                f"{self._key} is not encrypted, and not what an encrypted snapshot vouches for: it "
                "was changed or replaced since; put a good copy back"
            )
        return b""
