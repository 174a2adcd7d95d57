"""Opening the repository at a destination: its store, its descriptor, its key."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import (
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
from asyncbackup.repository.secrets import Secret, read_secret
from asyncbackup.store.base import Store
from asyncbackup.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from asyncbackup.config import SectionSettings, Settings

THREADS_LIMIT = 4


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """One section of an open repository.

    ``key`` is ``None`` for a section that is not encrypted. ``descriptor_bytes``
    is the descriptor as it lies at the destination, for the caller to keep:
    given to the next :func:`open_repository`, it saves that a request.
    ``threads`` is where compressing, sealing, hashing and opening run.
    """

    store: Store
    descriptor: Descriptor
    descriptor_bytes: bytes
    section: str
    key: RepositoryKey | None
    threads: ThreadGate

    @property
    def repository_id(self) -> str:
        return self.descriptor.repository


@asynccontextmanager
async def open_repository(
    settings: Settings,
    section: SectionSettings,
    *,
    cached_descriptor: bytes | None = None,
    expected_repository: str | None = None,
    on_retry: Callable[[str], None] | None = None,
) -> AsyncIterator[Repository]:
    """The repository at the section's destination, its key unlocked if the section is encrypted.

    With a ``cached_descriptor`` nothing is sent, unless it turns out to be
    outdated: the pass phrase may have been changed on another machine.
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
        storage_class=section.storage_class,
        on_retry=on_retry,
    ) as store:
        with_threads = ThreadGate("repository", min(THREADS_LIMIT, os.cpu_count() or 1))
        try:
            yield await _open(store, section, with_threads, cached_descriptor, expected_repository)
        finally:
            with_threads.close()


async def _open(
    store: Store, section: SectionSettings, threads: ThreadGate, cached: bytes | None, expected: str | None
) -> Repository:
    secret = None
    if section.encryption.enabled:
        secret = await read_secret(section.encryption, section=section.name, threads=threads)
    if cached is not None:
        try:
            return await _unlocked(store, section, threads, cached, expected, secret)
        except (FormatError, KeyUnlockError) as error:
            data = await fetch_descriptor(store)
            if data == cached:
                raise error from None
    else:
        data = await fetch_descriptor(store)
    return await _unlocked(store, section, threads, data, expected, secret)


async def _unlocked(
    store: Store,
    section: SectionSettings,
    threads: ThreadGate,
    data: bytes,
    expected: str | None,
    secret: Secret | None,
) -> Repository:
    descriptor = read_descriptor(data)
    if expected is not None and descriptor.repository != expected:
        raise CatalogError(
            f"{section.destination} holds repository {descriptor.repository}, the database of section "
            f"{section.name!r} belongs to {expected}; correct the destination, or move the database away and "
            "rebuild it with 'asyncbackup syncdb_remote'"
        )
    key = None
    if secret is not None:
        if not descriptor.slots:
            raise KeyUnlockError(
                f"section {section.name!r} is to be encrypted, but {DESCRIPTOR_KEY} at {section.destination} "
                "has no key slot; 'asyncbackup initdb' adds one"
            )
        key = await unlock_descriptor(descriptor, secret, threads)
    return Repository(
        store=store,
        descriptor=descriptor,
        descriptor_bytes=data,
        section=section.name,
        key=key,
        threads=threads,
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
