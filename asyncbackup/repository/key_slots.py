"""The key slots of a repository: which secrets open it, and changing them.

Every change replaces the descriptor and nothing else. The cached descriptor
of a database is never used: what is changed is what lies at the destination.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import msgspec

from asyncbackup.errors import ConfigError, KeyUnlockError
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.descriptor import MAX_LABEL_CHARACTERS, MAX_SLOTS, Descriptor, KeySlot
from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.format.keyslots import DEFAULT_COST, key_file_slot, open_slot, open_slots, passphrase_slot
from asyncbackup.repository.open import fetch_descriptor, read_descriptor, unlock_descriptor
from asyncbackup.repository.secrets import Secret, names_secret, read_secret
from asyncbackup.repository.slot_writer import replace_descriptor
from asyncbackup.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.format.descriptor import KdfBounds
    from asyncbackup.format.keyslots import RepositoryKey
    from asyncbackup.store.base import Store


class SlotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One key slot. ``configured`` says that the section's secret opens it."""

    id: str
    kind: str
    label: str
    created_ns: int
    configured: bool


class SlotChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a change did, by the ids of slots, and the slots there are now."""

    added: str = ""
    removed: tuple[str, ...] = ()
    slots: tuple[SlotInfo, ...]


class KeySlots:
    """The key slots of the repository at one section's destination; see :meth:`open`."""

    def __init__(
        self,
        store: Store,
        section: SectionSettings,
        secret: Secret | None,
        threads: ThreadGate,
        cost: KdfBounds,
    ) -> None:
        self._store = store
        self._section = section
        self._secret = secret
        self._threads = threads
        self._cost = cost

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        section: SectionSettings,
        *,
        cost: KdfBounds = DEFAULT_COST,
        on_retry: Callable[[str], None] | None = None,
    ) -> AsyncIterator[Self]:
        """The slots, with the section's secret read, but not yet tried. ``cost`` is that of new slots.

        Everything raises ``RepositoryMissingError``, ``FormatError`` for a
        damaged descriptor, ``ConfigError`` and ``StoreError``.
        """
        threads = ThreadGate("key slots", 1)
        try:
            secret = None
            if names_secret(section.encryption):
                secret = await read_secret(section.encryption, section=section.name, threads=threads)
            async with open_store(
                section.destination,
                s3=settings.s3,
                concurrency=settings.concurrency,
                storage_class="STANDARD",
                on_retry=on_retry,
            ) as store:
                yield cls(store, section, secret, threads, cost)
        finally:
            threads.close()

    @property
    def origin(self) -> str:
        """The setting that the section's secret comes from, ``""`` where it names none."""
        return "" if self._secret is None else self._secret.origin

    async def list(self) -> tuple[SlotInfo, ...]:
        """Every slot. Without a secret, or with one that opens none, none is ``configured``."""
        descriptor = await self._read()
        return _infos(descriptor, await self._opened(descriptor))

    async def add(self, new: Secret, *, label: str = "") -> SlotChange:
        """A further slot, for ``new``, which is durable when this returns.

        Raises ``KeyUnlockError`` if the section's secret opens no slot, and
        ``ConfigError`` for a secret that opens one already, where there are
        32 slots, and for a label that cannot be.
        """
        descriptor, key, configured = await self._unlock()
        slot = await self._new_slot(descriptor, key, new, label)
        after = await self._write(_adding(slot))
        await self._check(after, slot, new, key)
        return SlotChange(added=slot.id, slots=_infos(after, configured))

    async def remove(self, name: str, *, even_configured: bool = False) -> SlotChange:
        """Remove the slot whose id is, or begins with, ``name``. Its secret opens the repository no more.

        Raises ``ConfigError`` for a name that fits no slot or several, for the
        last slot, and, unless ``even_configured``, where the section's secret
        would then open no slot; ``KeyUnlockError`` if it does not now.
        """
        descriptor, _, configured = await self._unlock()
        slot_id = _named(descriptor, name)
        if configured == {slot_id} and not even_configured:
            raise ConfigError(
                f"key slot {slot_id} is the one that section {self._section.name!r} uses; 'key rotate' "
                "replaces it, --force removes it nevertheless"
            )
        after = await self._write(_removing(frozenset({slot_id})))
        return SlotChange(removed=(slot_id,), slots=_infos(after, configured))

    async def rotate(self, new: Secret, *, label: str = "") -> SlotChange:
        """Put a slot for ``new`` in the place of those that the section's secret opens.

        The new slot is durable, and was tried, before the old ones are
        removed: whenever this ends, one of the two secrets opens the
        repository, or both do. Raises as :meth:`add` does.
        """
        descriptor, key, old = await self._unlock()
        slot = await self._new_slot(descriptor, key, new, label)
        after = await self._write(_adding(slot))
        await self._check(after, slot, new, key)
        after = await self._write(_removing(old))
        return SlotChange(
            added=slot.id, removed=tuple(sorted(old)), slots=_infos(after, frozenset({slot.id}))
        )

    async def _read(self) -> Descriptor:
        return read_descriptor(await fetch_descriptor(self._store))

    async def _opened(self, descriptor: Descriptor) -> frozenset[str]:
        """The slots that the section's secret opens."""
        secret = self._secret
        if secret is None:
            return frozenset()
        try:
            _, opened = await self._threads.run(
                open_slots, descriptor, passphrase=secret.passphrase, key_file=secret.key_file
            )
        except KeyUnlockError:
            return frozenset()
        return opened

    async def _unlock(self) -> tuple[Descriptor, RepositoryKey, frozenset[str]]:
        """The descriptor, the master key, and the slots that the section's secret opens."""
        section, secret = self._section.name, self._secret
        descriptor = await self._read()
        if secret is None:
            raise ConfigError(
                f"section {section!r} names no secret that opens the repository; set one in "
                f"sections.{section}.encryption"
            )
        if not descriptor.slots:
            raise KeyUnlockError(
                f"{DESCRIPTOR_KEY} at {self._section.destination} has no key slot, nothing is encrypted "
                f"there; 'asyncbackup key add {section}', without a new secret, adds the configuration's"
            )
        key = await unlock_descriptor(descriptor, secret, self._threads)
        return descriptor, key, await self._opened(descriptor)

    async def _new_slot(self, descriptor: Descriptor, key: RepositoryKey, new: Secret, label: str) -> KeySlot:
        check_label(label)
        if len(descriptor.slots) >= MAX_SLOTS:
            raise _too_many()
        for slot in descriptor.slots:
            opened = await self._threads.run(
                open_slot, descriptor.repository, slot, passphrase=new.passphrase, key_file=new.key_file
            )
            if opened is not None:
                raise ConfigError(f"{new.origin} opens key slot {slot.id} already; nothing was changed")
        return await make_slot(
            key, new, self._threads, repository=descriptor.repository, label=label, cost=self._cost
        )

    async def _write(self, change: Callable[[Descriptor], Descriptor]) -> Descriptor:
        return await replace_descriptor(self._store, change)

    async def _check(self, descriptor: Descriptor, slot: KeySlot, secret: Secret, key: RepositoryKey) -> None:
        """Try the new slot as it came back from the destination, before anything relies on it."""
        stored = next(found for found in descriptor.slots if found.id == slot.id)
        opened = await self._threads.run(
            open_slot, descriptor.repository, stored, passphrase=secret.passphrase, key_file=secret.key_file
        )
        if opened is None or opened.reveal() != key.reveal():
            raise KeyUnlockError(
                f"key slot {slot.id} was written, but does not open with {secret.origin}; the others are as "
                f"they were, and 'asyncbackup key remove {self._section.name} {slot.id}' removes this one"
            )


async def make_slot(
    key: RepositoryKey,
    secret: Secret,
    threads: ThreadGate,
    *,
    repository: str,
    label: str = "",
    cost: KdfBounds = DEFAULT_COST,
) -> KeySlot:
    """A slot that opens with ``secret``, created now."""
    created_ns = time.time_ns()
    if secret.key_file is not None:
        return key_file_slot(key, secret.key_file, repository=repository, created_ns=created_ns, label=label)
    assert secret.passphrase is not None
    return await threads.run(
        passphrase_slot,
        key,
        secret.passphrase,
        repository=repository,
        created_ns=created_ns,
        label=label,
        cost=cost,
    )


def check_label(label: str) -> None:
    """Raises ``ConfigError`` for a label that no descriptor may hold."""
    if len(label) > MAX_LABEL_CHARACTERS or not label.isprintable():
        raise ConfigError(f"a label has at most {MAX_LABEL_CHARACTERS} printable characters")


def _adding(slot: KeySlot) -> Callable[[Descriptor], Descriptor]:
    def add(descriptor: Descriptor) -> Descriptor:
        if any(found.id == slot.id for found in descriptor.slots):
            return descriptor
        if len(descriptor.slots) >= MAX_SLOTS:
            raise _too_many()
        return msgspec.structs.replace(descriptor, slots=(*descriptor.slots, slot))

    return add


def _removing(slot_ids: frozenset[str]) -> Callable[[Descriptor], Descriptor]:
    def remove(descriptor: Descriptor) -> Descriptor:
        kept = tuple(slot for slot in descriptor.slots if slot.id not in slot_ids)
        if not kept:
            # Asked of what lies there now: somebody else may have removed the others meanwhile.
            raise ConfigError(
                "the last key slot is never removed, since nothing would open the repository any more"
            )
        return msgspec.structs.replace(descriptor, slots=kept)

    return remove


def _named(descriptor: Descriptor, name: str) -> str:
    fitting = [slot.id for slot in descriptor.slots if name and slot.id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            f"{name!r} fits {len(fitting)} key slots: {', '.join(fitting)}; give more of the id"
        )
    there = ", ".join(slot.id for slot in descriptor.slots)
    raise ConfigError(f"there is no key slot {name!r}; there are {there}")


def _infos(descriptor: Descriptor, configured: frozenset[str]) -> tuple[SlotInfo, ...]:
    return tuple(
        SlotInfo(
            id=slot.id,
            kind=slot.kind,
            label=slot.label,
            created_ns=slot.created_ns,
            configured=slot.id in configured,
        )
        for slot in descriptor.slots
    )


def _too_many() -> ConfigError:
    return ConfigError(f"there are {MAX_SLOTS} key slots, and no more can be; remove one first")
