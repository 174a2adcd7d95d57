"""What a run writes into the header of its manifest about snapshots from before encryption.

See docs/format.md, "Encryption: Snapshots from before encryption". The
catalog remembers the list, so that the old manifests are read once: by the
first run after encryption was switched on.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.repository.parallel import in_parallel
from asyncbackup.repository.snapshots import SnapshotInfo, list_manifests
from asyncbackup.repository.vouched import is_sealed, newest_sealed, plain_of
from asyncbackup.store.checksums import single_checksum

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.repository.open import Repository

log = logging.getLogger(__name__)

VOUCHED = "vouched"
"""The catalog's copy of the list; empty where the section is not encrypted."""
SEALED = "sealed"
"""Whether the last snapshot of the catalog is sealed: ``1`` or ``0``."""
MANIFESTS_LIMIT = 10_000
"""What the header has room for: 80 bytes each, of a line that has a megabyte."""
_READERS = 8


async def plain_manifests(
    repository: Repository, catalog: Catalog, *, limit: int = MANIFESTS_LIMIT
) -> dict[str, str]:
    """What the next manifest has to vouch for: run → base64 SHA-256 of its plain manifest.

    To be called by every run, right before it writes its manifest: the catalog
    is changed here, so that a run killed after its manifest appeared makes no
    later one look anew and believe what was put there meanwhile.

    Sends nothing where there is nothing to vouch for, one listing where there
    is, and in the first run after encryption was switched on the GETs that
    reading those manifests takes. Of more than ``limit`` the newest count.
    Raises ``AuthenticationError`` if the newest sealed manifest is not
    authentic, ``StoreError`` and ``CatalogError``.
    """
    kept = await catalog.read_meta(VOUCHED)
    if not repository.seals:
        if kept:
            await catalog.write_meta(VOUCHED, b"")
        return {}
    if not kept:
        vouched = await _look(repository, catalog, limit)
    elif vouched := msgspec.json.decode(kept, type=dict[str, str]):
        there = {info.id for info in await list_manifests(repository)}
        vouched = {run: digest for run, digest in vouched.items() if run in there}
    encoded = msgspec.json.encode(vouched)
    if encoded != kept:
        await catalog.write_meta(VOUCHED, encoded)
    return vouched


async def may_have_base(repository: Repository, catalog: Catalog) -> bool:
    """Whether the next manifest may be a difference to the last ones of the catalog.

    Not where encryption was switched on or off since: a sealed manifest shall
    not rest on lines that anybody could have written, and a plain one shall
    not need the key.
    """
    return await catalog.read_meta(SEALED) == _flag(repository.seals)


async def note_written(repository: Repository, catalog: Catalog) -> None:
    """Remember how the manifest that now is the catalog's last one was written."""
    if not await may_have_base(repository, catalog):
        await catalog.write_meta(SEALED, _flag(repository.seals))


async def carried_over(repository: Repository) -> dict[str, str]:
    """What the newest sealed manifest vouches for, for one that is written without a catalog.

    Where there is no sealed one, that is nothing, whatever plain ones there are:
    the sealed ones may have been deleted.
    """
    if not repository.seals:
        return {}
    newest = await newest_sealed(repository, await list_manifests(repository))
    return {} if newest is None else plain_of(newest)


async def rebuilt_meta(repository: Repository, run: str) -> dict[str, bytes]:
    """What a catalog that is rebuilt from the destination, up to snapshot ``run``, has to remember.

    Nothing is sent for a section that names no secret: what it read was plain.
    """
    if repository.key is None:
        return {VOUCHED: b"", SEALED: _flag(False)}
    manifests = [info for info in await list_manifests(repository) if info.id <= run or repository.seals]
    newest = await newest_sealed(repository, manifests)
    vouched = {} if newest is None else plain_of(newest)
    sealed = newest is not None and newest.snapshot == run
    if newest is not None and newest.snapshot > run:
        sealed = any([await is_sealed(repository, info) for info in manifests if info.id == run])
    return {VOUCHED: msgspec.json.encode(vouched) if repository.seals else b"", SEALED: _flag(sealed)}


def _flag(sealed: bool) -> bytes:
    return b"1" if sealed else b"0"


async def _look(repository: Repository, catalog: Catalog, limit: int) -> dict[str, str]:
    """Encryption is new to this catalog: find the plain manifests, and read them."""
    manifests = await list_manifests(repository)
    sealed = await in_parallel(manifests, lambda info: is_sealed(repository, info), limit=_READERS)
    newest = await newest_sealed(
        repository, [info for info, is_one in zip(manifests, sealed, strict=True) if is_one]
    )
    vouched = {} if newest is None else plain_of(newest)
    # Where there are encrypted snapshots already, a plain one is believed only if it is vouched for, or
    # this catalog's own, of a time when encryption was switched off.
    own = {record.run for record in await catalog.runs.all() if record.committed}
    believed = [
        info
        for info, is_one in zip(manifests, sealed, strict=True)
        if not is_one and (newest is None or info.id in own or info.id in vouched)
    ]
    if len(believed) > limit:
        log.warning(
            "there are %d snapshots from before encryption; the newest %d can be read from now on, the older "
            "ones only with encryption disabled",
            len(believed),
            limit,
        )
        believed = believed[-limit:]

    async def digest(info: SnapshotInfo) -> str:
        return vouched.get(info.id) or await _digest(repository, info)

    digests = await in_parallel(believed, digest, limit=_READERS)
    return {info.id: digest for info, digest in zip(believed, digests, strict=True)}


async def _digest(repository: Repository, info: SnapshotInfo) -> str:
    digest = sha256()
    async with repository.store.open(info.key) as source:
        async for chunk in source:
            await repository.threads.run(digest.update, chunk)
    return single_checksum(digest.digest())
