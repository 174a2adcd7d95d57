"""Whether a manifest that is not sealed may be believed: what the newest sealed one says of it.

See docs/format.md, "Encryption: Snapshots from before encryption".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.errors import AuthenticationError, FormatError
from asyncbackup.format.envelope import MAGIC, Opener
from asyncbackup.format.manifest import ManifestHeader, ManifestReader
from asyncbackup.repository.snapshots import SnapshotInfo, list_manifests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.repository.open import Repository


async def vouched_digest(repository: Repository, run: str, key: str) -> str:
    """The base64 SHA-256 that the object ``key``, the plain manifest of ``run``, has to have.

    The first call lists the manifests and reads the header of the newest
    sealed one; later calls send nothing. Raises ``AuthenticationError``,
    which names ``key``, where no sealed manifest vouches for it.
    """
    vouched = repository.vouched
    async with vouched.lock:
        if vouched.digests is None:
            newest = await newest_sealed(repository, await list_manifests(repository))
            vouched.run = "" if newest is None else newest.snapshot
            vouched.digests = {} if newest is None else plain_of(newest)
    digest = vouched.digests.get(run)
    if digest is None:
        by = f"the newest encrypted one, {vouched.run}, does not" if vouched.run else "there is no other one"
        raise AuthenticationError(
            f"{key} is not encrypted, but section {repository.section!r} is, and no encrypted snapshot "
            f"vouches for it ({by}): somebody put it there, or deleted others. If it is older than "
            "encryption, disable that in the configuration to read it"
        )
    return digest


async def newest_sealed(repository: Repository, manifests: Sequence[SnapshotInfo]) -> ManifestHeader | None:
    """The header of the newest of ``manifests`` (oldest first) that is sealed, ``None`` if none is.

    One request for each plain one above it. Raises ``AuthenticationError`` if it is not authentic.
    """
    for info in reversed(manifests):
        if await is_sealed(repository, info):
            return await _sealed_header(repository, info)
    return None


async def is_sealed(repository: Repository, info: SnapshotInfo) -> bool:
    """Whether the object begins as a sealed one does; one request for eight bytes."""
    if info.size < len(MAGIC):
        return False
    async with repository.store.open(info.key, offset=0, length=len(MAGIC)) as source:
        return b"".join([chunk async for chunk in source]) == MAGIC


def plain_of(header: ManifestHeader) -> dict[str, str]:
    """The plain manifests that a header vouches for: run → base64 SHA-256."""
    return header.plain if isinstance(header.plain, dict) else {}


async def _sealed_header(repository: Repository, info: SnapshotInfo) -> ManifestHeader:
    assert repository.key is not None, "a section that is encrypted has a key"
    opener = Opener(
        repository.key,
        repository=repository.repository_id,
        section=repository.section,
        object_key=info.key,
    )
    reader = ManifestReader(name=info.key)
    run_in_thread = repository.threads.run
    async with repository.store.open(info.key) as source:
        async for chunk in source:
            await run_in_thread(_feed, reader, opener.feed(chunk))
            if reader.header is not None:
                break
        else:
            await run_in_thread(_feed, reader, opener.finish())
    header = reader.header
    if header is None:
        raise FormatError(f"{info.key}: it ends before its first line; put a good copy back")
    return header


def _feed(reader: ManifestReader, data: bytes) -> None:
    for _ in reader.batches(data):
        if reader.header is not None:
            return
