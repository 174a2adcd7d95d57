"""Making a repository at a destination that has none: the descriptor, and how to do without asyncbackup."""

from __future__ import annotations

import time
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import (
    FormatError,
    ObjectExistsError,
    ObjectMissingError,
    RepositoryMissingError,
)
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.descriptor import Descriptor, encode_descriptor, new_repository_id
from asyncbackup.format.envelope import MAGIC
from asyncbackup.format.keys import DESCRIPTOR_KEY, README_KEY, run_of_snapshot_key, snapshots_prefix
from asyncbackup.format.keyslots import DEFAULT_COST, new_master_key
from asyncbackup.format.manifest import ManifestReader
from asyncbackup.format.readme import restore_readme, sections_of_readme
from asyncbackup.repository.key_slots import make_slot
from asyncbackup.repository.open import fetch_descriptor, read_descriptor, unlock_descriptor
from asyncbackup.repository.secrets import Secret, read_secret
from asyncbackup.repository.slot_writer import replace_descriptor
from asyncbackup.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.format.descriptor import KdfBounds, KeySlot
    from asyncbackup.store.base import Store


_README_LIMIT_BYTES = 1024 * 1024


class CreatedRepository(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`create_repository` found and did. ``descriptor`` is what now lies at the destination."""

    repository_id: str
    descriptor: bytes
    created: bool
    slot_added: bool
    readme_written: bool


async def create_repository(
    settings: Settings,
    section: SectionSettings,
    *,
    cost: KdfBounds = DEFAULT_COST,
    label: str = "",
    on_retry: Callable[[str], None] | None = None,
) -> CreatedRepository:
    """Make the section's destination a repository, or check that it is one already. Idempotent.

    A repository without a key slot gets one if the section is encrypted; for
    one that has slots, the secret is tried. A lost descriptor of a repository
    that is not encrypted is written again, with the id that its manifests name.
    ``cost`` and ``label`` are those of a new key slot.

    Raises ``KeyUnlockError`` for a wrong secret and ``RepositoryMissingError``
    where encrypted snapshots have lost their descriptor, whose key slots
    nothing can replace; further ``FormatError``, ``ConfigError``, ``StoreError``.
    """
    threads = ThreadGate("repository", 1)
    try:
        secret = None
        if section.encryption.enabled:
            secret = await read_secret(section.encryption, section=section.name, threads=threads)
        async with open_store(
            section.destination,
            s3=settings.s3,
            concurrency=settings.concurrency,
            storage_class="STANDARD",  # these two objects are small and wanted at once
            create=True,
            on_retry=on_retry,
        ) as store:
            return await _Creation(store, section, secret, threads, cost, label).run()
    finally:
        threads.close()


class _Creation:
    def __init__(
        self,
        store: Store,
        section: SectionSettings,
        secret: Secret | None,
        threads: ThreadGate,
        cost: KdfBounds,
        label: str,
    ) -> None:
        self._store = store
        self._section = section
        self._secret = secret
        self._threads = threads
        self._cost = cost
        self._label = label
        self._created_ns = time.time_ns()

    async def run(self) -> CreatedRepository:
        created = slot_added = False
        try:
            data = await fetch_descriptor(self._store)
        except RepositoryMissingError:
            data, created = await self._create()
        descriptor = read_descriptor(data)
        if self._secret is not None and not created:
            if descriptor.slots:
                await unlock_descriptor(descriptor, self._secret, self._threads)
            else:
                data = await self._add_slot(descriptor, self._secret)
                slot_added = True
        return CreatedRepository(
            repository_id=descriptor.repository,
            descriptor=data,
            created=created,
            slot_added=slot_added,
            readme_written=await self._write_readme(
                encrypted=self._secret is not None, replace_plain=slot_added
            ),
        )

    async def _create(self) -> tuple[bytes, bool]:
        """The descriptor's bytes, and whether it is ours: somebody else may have been quicker."""
        repository = await self._repository_of_snapshots() or new_repository_id()
        descriptor = Descriptor(repository=repository, created_ns=self._created_ns)
        if self._secret is not None:
            slot = await self._new_slot(repository, self._secret)
            descriptor = msgspec.structs.replace(descriptor, slots=(slot,))
        data = encode_descriptor(descriptor)
        with suppress(ObjectExistsError):
            await self._store.put(DESCRIPTOR_KEY, data, sha256=sha256(data).digest(), if_absent=True)
        # Read back: where the endpoint has no conditional writes, the last of two writers has won.
        found = await fetch_descriptor(self._store)
        return found, found == data

    async def _add_slot(self, descriptor: Descriptor, secret: Secret) -> bytes:
        """Give a repository that has no key slot its first one. The descriptor that then lies there."""
        await self._repository_of_snapshots()
        slot = await self._new_slot(descriptor.repository, secret)

        def add(found: Descriptor) -> Descriptor:
            # Somebody else's first slot wraps another master key: there must be one only.
            return found if found.slots else msgspec.structs.replace(found, slots=(slot,))

        found = await replace_descriptor(self._store, add)
        await unlock_descriptor(found, secret, self._threads)
        return encode_descriptor(found)

    async def _new_slot(self, repository: str, secret: Secret) -> KeySlot:
        return await make_slot(
            new_master_key(),
            secret,
            self._threads,
            repository=repository,
            label=self._label,
            cost=self._cost,
        )

    async def _repository_of_snapshots(self) -> str | None:
        """The repository that the section's snapshots belong to, ``None`` where there are none.

        Raises ``RepositoryMissingError`` if one of them is encrypted: a new
        master key would not open it, and would hide that the old one is lost.
        """
        repository = None
        async for page in self._store.list(snapshots_prefix(self._section.name)):
            for info in page:
                if run_of_snapshot_key(self._section.name, info.key) is not None:
                    repository = await self._repository_of_manifest(info.key)
        return repository

    async def _repository_of_manifest(self, key: str) -> str:
        reader = ManifestReader(name=key)
        head = b""
        async with self._store.open(key) as source:
            async for chunk in source:
                head = (head + chunk)[: len(MAGIC)]
                if head == MAGIC:
                    raise RepositoryMissingError(
                        f"{self._store.url} holds encrypted snapshots of section {self._section.name!r}, but "
                        f"no {DESCRIPTOR_KEY} with the key slots that open them; put a copy of it back"
                    )
                for _ in reader.batches(chunk):
                    pass
                if reader.header is not None:
                    return reader.header.repository
        raise FormatError(f"{key}: it ends before its first line; remove it, or put a good copy back")

    async def _write_readme(self, *, encrypted: bool, replace_plain: bool) -> bool:
        """RESTORE.md where it is missing; one that is there may have been written by hand.

        With ``replace_plain`` one that is as asyncbackup wrote it, and says that
        nothing is encrypted, is replaced: that is not true any more.
        """
        sections = [self._section.name]
        try:
            size = (await self._store.head(README_KEY)).size
        except ObjectMissingError:
            return await self._put_readme(sections, encrypted=encrypted, if_absent=True)
        if not replace_plain or size > _README_LIMIT_BYTES:
            return False
        found = await self._store.get(README_KEY, limit=_README_LIMIT_BYTES)
        known = sections_of_readme(found)
        if found != restore_readme(destination=self._store.url, sections=known, encrypted=False):
            return False
        sections = [*sections, *(name for name in known if name not in sections)]
        return await self._put_readme(sections, encrypted=True, if_absent=False)

    async def _put_readme(self, sections: list[str], *, encrypted: bool, if_absent: bool) -> bool:
        body = restore_readme(destination=self._store.url, sections=sections, encrypted=encrypted)
        try:
            await self._store.put(README_KEY, body, sha256=sha256(body).digest(), if_absent=if_absent)
        except ObjectExistsError:
            return False
        return True
