"""Writing a manifest while its entries come: the object whose appearance is the commit of a snapshot."""

from __future__ import annotations

from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Self, cast

from asyncbackup.flow.cleanup import run_shielded
from asyncbackup.format.envelope import UNKNOWN_SIZE, Sealer
from asyncbackup.format.keys import snapshot_key
from asyncbackup.format.manifest import Deleted, ManifestHeader, ManifestTrailer, ManifestWriter
from asyncbackup.store.checksums import composite_checksum, single_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.model import Entry, Pack
    from asyncbackup.repository.open import Repository
    from asyncbackup.store.base import PartReceipt, UploadId

PART_BYTES = 8 * 1024 * 1024
"""What is larger goes up in parts of this size, all equal but the last."""

_ENTRIES_WORTH_A_HOP = 64


class ManifestReceipt(NamedTuple):
    """What became durable: the stored size in bytes, and S3's checksum (base64 SHA-256 or a composite)."""

    size: int
    checksum: str


class ManifestUpload:
    """One manifest on its way up. Use it in ``async with``; only :meth:`commit` makes it appear.

    Leaving the block without a commit, by whatever way, leaves nothing at the
    destination; an abort that the process does not live to send is made up for
    by the next run, which reaps unfinished uploads. Memory: three parts at most.

    Without ``sealed`` the section's setting says whether the manifest is sealed. A revision of one
    that was sealed has to stay so, whatever the section has become meanwhile.
    """

    def __init__(
        self,
        repository: Repository,
        header: ManifestHeader,
        *,
        part_bytes: int = PART_BYTES,
        sealed: bool | None = None,
    ) -> None:
        self.key = snapshot_key(repository.section, header.snapshot, header.revision)
        self._repository = repository
        self._store = repository.store
        self._writer = ManifestWriter(header)
        self._part_bytes = part_bytes
        self._seals = repository.seals if sealed is None else sealed
        self._sealer: Sealer | None = None
        self._upload: UploadId | None = None
        self._parts: list[PartReceipt] = []
        self._pending = bytearray()
        """Compressed and not yet sent; sealed as well once an upload was begun."""
        self._sent_bytes = 0
        self._finished = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished and self._upload is not None:
            await run_shielded(
                self._store.abort_upload(self.key, self._upload), what=f"aborting the upload of {self.key}"
            )
        self._finished = True

    async def add(self, items: Sequence[TreeItem]) -> None:
        """Append entries and deleted paths, in the order of (folder, name) over all calls.

        Raises ``FormatError`` for what no reader would accept, and
        ``StoreError``; either way the manifest can no longer be committed.
        """
        if len(items) >= _ENTRIES_WORTH_A_HOP:
            await self._repository.threads.run(self._encode, items)
        else:
            self._encode(items)
        await self._send_full_parts()

    async def add_packs(self, packs: Sequence[Pack]) -> None:
        """Append packs, in the order of (run, key) over all calls, behind all items. Raises as ``add``."""
        self._take(self._writer.add_packs(packs))
        await self._send_full_parts()

    async def commit(self, trailer: ManifestTrailer) -> ManifestReceipt:
        """End the manifest and make it appear. Returns once it is durable.

        The counts of ``trailer`` are filled in. Raises ``StoreError``, then
        nothing appeared (after a lost connection, or when cancelled, it may have).
        """
        await self._repository.threads.run(self._finish, trailer)
        await self._send_full_parts()
        body, digest = await self._repository.threads.run(self._last_body)
        if self._upload is None:
            await self._store.put(self.key, body, sha256=digest, if_absent=True)
            checksum = single_checksum(digest)
        else:
            await self._send_part(body, digest)
            await self._store.complete_upload(self.key, self._upload, self._parts)
            checksum = composite_checksum(part.sha256 for part in self._parts)
        self._finished = True
        return ManifestReceipt(self._sent_bytes + (0 if self._upload else len(body)), checksum)

    def _encode(self, items: Sequence[TreeItem]) -> None:
        """On a thread where it is worth it; calls never overlap."""
        for deleted, group in groupby(items, key=_is_deleted):
            if deleted:
                self._take(self._writer.add_deleted(item.path for item in group))
            else:
                self._take(self._writer.add(cast("Iterable[Entry]", group)))

    def _finish(self, trailer: ManifestTrailer) -> None:
        self._take(self._writer.finish(trailer))
        if self._sealer is not None:
            self._pending += self._sealer.finalize()

    def _take(self, compressed: bytes) -> None:
        self._pending += compressed if self._sealer is None else self._sealer.update(compressed)

    async def _send_full_parts(self) -> None:
        if self._upload is None and len(self._pending) > self._part_bytes:
            self._upload = await self._store.create_upload(self.key, metadata={})
            if self._seals:
                await self._repository.threads.run(self._begin_sealed_stream)
        # One byte more than a part: the last part is never empty.
        while self._upload is not None and len(self._pending) > self._part_bytes:
            body, digest = await self._repository.threads.run(self._cut_part)
            await self._send_part(body, digest)

    def _begin_sealed_stream(self) -> None:
        sealer = self._sealer_of(UNKNOWN_SIZE)
        plaintext, self._pending = self._pending, bytearray(sealer.start())
        self._pending += sealer.update(plaintext)
        self._sealer = sealer

    def _cut_part(self) -> tuple[bytes, bytes]:
        body = bytes(self._pending[: self._part_bytes])
        del self._pending[: self._part_bytes]
        return body, sha256(body).digest()

    def _last_body(self) -> tuple[bytes, bytes]:
        body = bytes(self._pending)
        self._pending.clear()
        if self._upload is None and self._seals:
            sealer = self._sealer_of(len(body))
            body = bytes(sealer.start()) + bytes(sealer.update(body)) + bytes(sealer.finalize())
        return body, sha256(body).digest()

    def _sealer_of(self, size: int) -> Sealer:
        repository = self._repository
        assert repository.key is not None
        return Sealer(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=self.key,
            size=size,
        )

    async def _send_part(self, body: bytes, digest: bytes) -> None:
        assert self._upload is not None
        receipt = await self._store.upload_part(
            self.key, self._upload, len(self._parts) + 1, body, sha256=digest
        )
        self._parts.append(receipt)
        self._sent_bytes += len(body)


def _is_deleted(item: TreeItem) -> bool:
    return isinstance(item, Deleted)
