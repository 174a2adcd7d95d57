"""Opening the repository at a destination: its store, its descriptor, its key."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from asyncbackup.errors import (
    AccessDeniedError,
    CatalogError,
    FormatError,
    KeyUnlockError,
    ObjectMissingError,
    RepositoryMissingError,
)
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.descriptor import MAX_DESCRIPTOR_BYTES, Descriptor, decode_descriptor
from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.format.keyslots import RepositoryKey, unlock
from asyncbackup.repository.manifest_parser import Parsing
from asyncbackup.repository.secrets import Secret, names_secret, read_secret
from asyncbackup.store.base import Store
from asyncbackup.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from asyncbackup.config import SectionSettings, Settings

log = logging.getLogger(__name__)

THREADS_LIMIT = 4


class Vouched:
    """What the newest sealed manifest of a section vouches for, once it was asked for.

    ``run`` is that manifest's snapshot, ``""`` where there is none, ``digests``
    its ``plain`` list. Filled by :mod:`asyncbackup.repository.vouched`.
    """

    __slots__ = ("digests", "lock", "run")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.run = ""
        self.digests: dict[str, str] | None = None


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """One section of an open repository.

    ``seals`` says whether the section is encrypted: what is written is then
    sealed. ``key`` opens what was sealed; a section that is not encrypted has
    it if it names a secret, for the time when it was, and else ``None``.
    ``descriptor_bytes`` is the descriptor as it lies at the destination, for
    the caller to keep and to give to the next :func:`open_repository`.
    ``threads`` is where compressing, sealing, hashing and opening run; manifests are parsed by
    ``parsing``, where it is given.
    """

    store: Store
    descriptor: Descriptor
    descriptor_bytes: bytes
    section: str
    key: RepositoryKey | None
    seals: bool
    threads: ThreadGate
    vouched: Vouched
    parsing: Parsing | None = None

    @property
    def repository_id(self) -> str:
        return self.descriptor.repository


@asynccontextmanager
async def open_repository(
    settings: Settings,
    section: SectionSettings,
    *,
    cached_descriptor: bytes | None = None,
    read_anew: bool = False,
    expected_repository: str | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> AsyncIterator[Repository]:
    """The repository at the section's destination, its key unlocked if the section names a secret.

    With a ``cached_descriptor`` nothing is sent where no secret is named, unless
    it turns out to be damaged. Where one is, the descriptor is read anew, so
    that a secret that was removed opens nothing any more on any machine, and so
    it is with ``read_anew``; the cached one then serves only if the credentials
    may not read.
    ``expected_repository`` is the id that the caller's database belongs to.

    Raises ``RepositoryMissingError`` for a destination without a descriptor,
    ``FormatError`` for one that is damaged or of a later version,
    ``KeyUnlockError`` for a wrong secret, ``ConfigError``, ``StoreError``, and
    ``CatalogError`` where the repository is another than expected.
    """
    async with open_store(
        section.destination,
        s3=settings.s3,
        concurrency=settings.concurrency,
        adaptive=settings.adaptive,
        storage_class=section.storage_class,
        on_retry=on_retry,
    ) as store:
        threads = ThreadGate("repository", min(THREADS_LIMIT, os.cpu_count() or 1))
        try:
            secret = None
            if section.encryption.enabled or names_secret(section.encryption):
                secret = await read_secret(section.encryption, section=section.name, threads=threads)
            async with _unlocking(cached_descriptor, secret, threads) as unlocking:
                opening = _Opening(store, section, threads, secret, unlocking, expected_repository)
                repository = await opening.open(cached_descriptor, read_anew=read_anew)
            yield repository
        finally:
            threads.close()


class _Unlocking(NamedTuple):
    """The key that is being derived for a descriptor, before it is known whether that is today's."""

    data: bytes
    key: asyncio.Future[RepositoryKey]


@asynccontextmanager
async def _unlocking(
    cached: bytes | None, secret: Secret | None, threads: ThreadGate
) -> AsyncIterator[_Unlocking | None]:
    """Begin to derive the key of the cached descriptor: meanwhile the store is asked for it."""
    if cached is None or secret is None:
        yield None
        return
    try:
        descriptor = decode_descriptor(cached)
    except FormatError:
        yield None
        return
    if not descriptor.slots:
        yield None
        return
    key = asyncio.ensure_future(unlock_descriptor(descriptor, secret, threads))
    try:
        yield _Unlocking(cached, key)
    finally:
        if key.done() and not key.cancelled():
            key.exception()  # looked at: whoever needed the key has met it
        key.cancel()


class _Opening(NamedTuple):
    """What opening needs at each of its steps."""

    store: Store
    section: SectionSettings
    threads: ThreadGate
    secret: Secret | None
    unlocking: _Unlocking | None
    expected: str | None

    async def open(self, cached: bytes | None, *, read_anew: bool) -> Repository:
        if cached is not None and self.secret is None and not read_anew:
            try:
                return await self._unlocked(cached)
            except FormatError as error:
                data = await fetch_descriptor(self.store)
                if data == cached:
                    raise error from None
        else:
            try:
                data = await fetch_descriptor(self.store)
            except AccessDeniedError:
                if cached is None:
                    raise
                log.info("the credentials may not read: whether the descriptor was changed is not checked")
                data = cached
        return await self._unlocked(data)

    async def _unlocked(self, data: bytes) -> Repository:
        section, expected = self.section, self.expected
        descriptor = read_descriptor(data)
        if expected is not None and descriptor.repository != expected:
            raise CatalogError(
                f"{section.destination} holds repository {descriptor.repository}, the database of section "
                f"{section.name!r} belongs to {expected}; correct the destination, or move the database away "
                "and rebuild it with 'asyncbackup syncdb_remote'"
            )
        key = None
        if section.encryption.enabled and not descriptor.slots:
            raise KeyUnlockError(
                f"section {section.name!r} is to be encrypted, but {DESCRIPTOR_KEY} at {section.destination} "
                f"has no key slot; 'asyncbackup key add {section.name}' adds one"
            )
        if self.secret is not None and descriptor.slots:
            if self.unlocking is not None and self.unlocking.data == data:
                key = await self.unlocking.key
            else:
                key = await unlock_descriptor(descriptor, self.secret, self.threads)
        return Repository(
            store=self.store,
            descriptor=descriptor,
            descriptor_bytes=data,
            section=section.name,
            key=key,
            seals=section.encryption.enabled,
            threads=self.threads,
            vouched=Vouched(),
        )


async def fetch_descriptor(store: Store) -> bytes:
    """The descriptor's bytes, read from the destination. Raises ``RepositoryMissingError``."""
    try:
        return await store.get(DESCRIPTOR_KEY, limit=MAX_DESCRIPTOR_BYTES)
    except ObjectMissingError as error:
        raise RepositoryMissingError(
            f"{store.url} holds no {DESCRIPTOR_KEY}, so no repository; check the destination, or make a new "
            "repository with 'asyncbackup initdb'"
        ) from error


def read_descriptor(data: bytes) -> Descriptor:
    """The descriptor in ``data``. Raises ``FormatError`` that names the object and the way out."""
    try:
        return decode_descriptor(data)
    except FormatError as error:
        raise FormatError(f"{DESCRIPTOR_KEY}: {error}; if it is damaged, put a good copy back") from error


async def unlock_descriptor(descriptor: Descriptor, secret: Secret, threads: ThreadGate) -> RepositoryKey:
    """The master key. Deriving takes about 0.1 s a key slot, in a thread. Raises ``KeyUnlockError``."""
    try:
        return await threads.run(unlock, descriptor, passphrase=secret.passphrase, key_file=secret.key_file)
    except KeyUnlockError as error:
        raise KeyUnlockError(f"{secret.origin}: {error}; check that it is this repository's") from None
