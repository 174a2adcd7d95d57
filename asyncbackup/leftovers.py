"""What an interrupted run left behind: multipart uploads to go on with, and those to abort."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import AccessDeniedError, ObjectMissingError, StoreError, UnsupportedError
from asyncbackup.format.keys import data_prefix, run_prefix, snapshots_prefix
from asyncbackup.store.base import UploadId

if TYPE_CHECKING:
    from collections.abc import Set

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.repository.open import Repository
    from asyncbackup.resume import ResumableUpload

log = logging.getLogger(__name__)


async def take_up_uploads(repository: Repository, catalog: Catalog) -> dict[bytes, ResumableUpload]:
    """The uploads that can be gone on with, by path; all others of the section are aborted.

    An upload is gone on with if the endpoint still holds parts that the journal
    has, or if its object is there already: then only the answer to its
    completion was lost. What the journal knows is dealt with also where
    unfinished uploads may not be listed.
    """
    kept: dict[bytes, ResumableUpload] = {}
    for upload in await catalog.uploads.all():
        confirmed = await _confirm(repository, upload) if upload.path not in kept else None
        if confirmed is not None:
            kept[confirmed.path] = confirmed
        else:
            await _abort(repository, catalog, upload)
    await _abort_unknown(repository, {upload.upload_id for upload in kept.values()})
    return kept


async def abort_untold(repository: Repository) -> None:
    """Abort what this run began without being told, once nothing of its own is under way any more.

    A warning where that fails: the snapshot is there all the same.
    """
    try:
        await _abort_unknown(repository, set())
    except StoreError as error:
        log.warning("an unfinished upload may be left: %s", error)


async def _abort_unknown(repository: Repository, known: Set[str]) -> None:
    """Abort all unfinished uploads of the section but the known ones."""
    for prefix in (data_prefix(repository.section), snapshots_prefix(repository.section)):
        try:
            async for page in repository.store.list_uploads(prefix):
                for found in page:
                    if found.upload_id not in known:
                        log.info("aborting the unfinished upload of %s", found.key)
                        await repository.store.abort_upload(found.key, found.upload_id)
        except (AccessDeniedError, UnsupportedError) as error:
            log.warning("unfinished uploads cannot be looked for: %s", error)
            break


async def abort_unused(repository: Repository, catalog: Catalog) -> None:
    """Abort what the journal still holds once all is saved: uploads of files that changed, shrank
    or vanished since."""
    for upload in await catalog.uploads.all():
        await _abort(repository, catalog, upload)


async def _abort(repository: Repository, catalog: Catalog, upload: ResumableUpload) -> None:
    """Abort an upload of the journal; where that fails it stays there, and is tried again."""
    key = _object_key(repository, upload)
    log.info("aborting the upload of %s, which nobody goes on with", key)
    try:
        await repository.store.abort_upload(key, UploadId(upload.upload_id))
    except StoreError as error:
        log.warning("could not abort the multipart upload of %s: %s", key, error)
    else:
        await catalog.uploads.ended(upload.upload_id)


async def _confirm(repository: Repository, upload: ResumableUpload) -> ResumableUpload | None:
    """The upload with the parts that both sides have, ``None`` where there is nothing to go on with."""
    if not upload.parts:  # as with every sealed upload
        return None
    key = _object_key(repository, upload)
    try:
        held = {p.number: p for p in await repository.store.list_parts(key, UploadId(upload.upload_id))}
    except ObjectMissingError:
        return upload if await _was_completed(repository, upload) else None
    except StoreError as error:
        log.info("the parts of %s cannot be listed (%s): it is uploaded anew", key, error.reason)
        return None
    parts = tuple(
        part for part in upload.parts
        if part.number in held and held[part.number].size == part.size and held[part.number].etag == part.etag
    )  # fmt: skip
    return msgspec.structs.replace(upload, parts=parts) if parts else None


async def _was_completed(repository: Repository, upload: ResumableUpload) -> bool:
    """Whether all parts were sent and the object is there."""
    if sum(part.size for part in upload.parts) != upload.size:
        return False
    try:
        info = await repository.store.head(_object_key(repository, upload))
    except StoreError:
        return False
    return info.size == upload.size


def _object_key(repository: Repository, upload: ResumableUpload) -> str:
    return run_prefix(repository.section, upload.run) + upload.key
