"""Reading every pack of a section for the members that it holds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.found_members import FoundMember
from asyncbackup.errors import AuthenticationError, FormatError, ObjectMissingError
from asyncbackup.format.envelope import MAGIC, SEALED_CHUNK_SIZE, Opener
from asyncbackup.format.escape import escape_path
from asyncbackup.format.keys import check_path, run_prefix
from asyncbackup.format.pack_reader import PackItem, PackLoss, PackMember, PackReader
from asyncbackup.model import ZSTD, Pack
from asyncbackup.rebuild.description import NOT_SEALED, locked
from asyncbackup.repository.parallel import in_parallel
from asyncbackup.store.checksums import single_checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncbackup.catalog.found_members import FoundMembers
    from asyncbackup.rebuild.summary import RebuildCounters
    from asyncbackup.repository.open import Repository

PACKS_AT_ONCE = 8
"""Each holds a frame of up to 16 MiB and a window of 8 MiB at the very worst, usually less than one."""


async def read_packs(
    repository: Repository,
    found: FoundMembers,
    *,
    concurrency: int,
    counters: RebuildCounters,
    go_on: Callable[[], None],
    give_up: Callable[[str, PackLoss, bool], None],
) -> None:
    """Put the entries of all packs that were listed into ``found``, and how the packs are stored.

    ``give_up`` is told the pack's key, what of it cannot be recovered, and whether that is lost.
    ``go_on`` is called between batches. Raises ``StoreError``, and
    ``KeyUnlockError`` for a sealed pack of a section that is not encrypted.
    """

    async def read(pack: Pack) -> None:
        go_on()
        counters.objects_asked += 1
        await _Reading(repository, found, pack, go_on, give_up).run()

    async for page in found.packs():
        await in_parallel(page, read, limit=min(concurrency, PACKS_AT_ONCE))


class _Reading:
    """One pass over one pack."""

    def __init__(
        self,
        repository: Repository,
        found: FoundMembers,
        listed: Pack,
        go_on: Callable[[], None],
        give_up: Callable[[str, PackLoss, bool], None],
    ) -> None:
        self._repository = repository
        self._found = found
        self._key = run_prefix(repository.section, listed.run) + listed.key
        self._pack = msgspec.structs.replace(
            listed,
            compression=ZSTD if listed.key.endswith(".zst") else "",
        )
        self._go_on = go_on
        self._give_up = give_up
        self._reader = PackReader(self._pack)
        self._opener: Opener | None = None
        self._digest = hashlib.sha256()

    async def run(self) -> None:
        try:
            await self._read()
        except AuthenticationError as error:
            # What was opened before is authentic.
            self._tell(PackLoss(None, f"{error}; whatever stood in the rest of the pack is lost"))
            await self._take([loss for loss in self._reader.finish() if loss.name is not None])
        except (FormatError, ObjectMissingError) as error:
            self._tell(PackLoss(None, str(error)))
            return
        await self._found.describe_pack(self._pack)

    async def _read(self) -> None:
        store, in_thread = self._repository.store, self._repository.threads.run
        info = await store.head(self._key)
        self._pack = msgspec.structs.replace(self._pack, size=info.size, checksum=info.checksum)
        begin: bytes | None = b""
        async with store.open(self._key) as source:
            async for chunk in source:
                if begin is not None:
                    begin += chunk
                    if len(begin) < len(MAGIC):
                        continue
                    chunk, begin = begin, None
                    self._begin(chunk)
                opened, damage = await in_thread(self._open, chunk)
                await self._take_all(self._reader.batches(opened))
                if damage is not None:
                    raise damage
                if self._reader.broken:
                    return
        if begin is not None:
            self._begin(begin)
        if self._opener is not None:
            await self._take_all(self._reader.batches(self._opener.finish()))
        await self._take(self._reader.finish())
        checksum = single_checksum(self._digest.digest())
        if not info.checksum:
            self._pack = msgspec.structs.replace(self._pack, checksum=checksum)
        elif "-" not in info.checksum and checksum != info.checksum:
            reason = "it is not what was uploaded; any of its members may be damaged"
            self._give_up(self._key, PackLoss(None, reason), False)

    def _open(self, chunk: bytes) -> tuple[bytes, AuthenticationError | None]:
        """What ``chunk`` adds to the pack before sealing, and what ends it after that."""
        self._digest.update(chunk)
        if self._opener is None:
            return chunk, None
        opened = []
        view = memoryview(chunk)
        # In steps, since a damaged one gives nothing.
        for start in range(0, len(chunk), SEALED_CHUNK_SIZE):
            try:
                opened.append(self._opener.feed(view[start : start + SEALED_CHUNK_SIZE]))
            except AuthenticationError as error:
                return b"".join(opened), error
        return b"".join(opened), None

    def _begin(self, data: bytes) -> None:
        """See from the first bytes whether the pack is sealed, and whether that is as it has to be."""
        repository = self._repository
        if not data.startswith(MAGIC):
            if repository.seals:
                raise FormatError(NOT_SEALED)
            return
        if repository.key is None:
            raise locked(repository, self._key)
        self._pack = msgspec.structs.replace(self._pack, encrypted=True)
        self._reader = PackReader(self._pack)
        self._opener = Opener(
            repository.key,
            repository=repository.repository_id,
            section=repository.section,
            object_key=self._key,
        )

    async def _take_all(self, batches: Iterator[list[PackItem]]) -> None:
        while (batch := await self._repository.threads.run(next, batches, None)) is not None:
            self._go_on()
            await self._take(batch)

    async def _take(self, items: Sequence[PackItem]) -> None:
        source = f"{self._pack.run}/{self._pack.key}"
        members: list[FoundMember] = []
        for item in items:
            if isinstance(item, PackMember):
                members.append(
                    FoundMember(
                        entry=item.entry,
                        run=item.run,
                        source=source,
                        first=item.link_to,
                        copy=item.copy,
                        reference=item.reference,
                    )
                )
            else:
                self._tell(item)
        if members:
            await self._found.add(members)

    def _tell(self, loss: PackLoss) -> None:
        if loss.name is not None and not _is_path(loss.name):
            loss = PackLoss(None, f"its member {escape_path(loss.name)!r}: {loss.reason}")
        self._give_up(self._key, loss, True)


def _is_path(name: bytes) -> bool:
    try:
        check_path(name)
    except FormatError:
        return False
    return True
