"""What an interrupted run left behind: multipart uploads to go on with, and those to abort."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import AccessDeniedError, ObjectMissingError, StoreError, UnsupportedError
from asyncbackup.format.keys import data_prefix, run_prefix, snapshots_prefix
from asyncbackup.store.base import UploadId

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.repository.open import Repository
    from asyncbackup.resume import ResumableUpload

log = logging.getLogger(__name__)


async def take_up_uploads(repository: Repository, catalog: Catalog) -> dict[bytes, ResumableUpload]:
    """The uploads that can be gone on with, by path; all others of the section are aborted.

    An upload is gone on with if the endpoint still knows it and holds every
    part that the journal has, or if its object is there already: then only
    the answer to its completion was lost.
    """
    journal = {upload.upload_id: upload for upload in await catalog.uploads.all()}
    kept: dict[bytes, ResumableUpload] = {}
    listed: set[str] = set()
    for prefix in (data_prefix(repository.section), snapshots_prefix(repository.section)):
        try:
            async for page in repository.store.list_uploads(prefix):
                for found in page:
                    listed.add(found.upload_id)
                    upload = journal.get(found.upload_id)
                    if upload is not None and upload.path not in kept and repository.key is None:
                        confirmed = await _confirm_parts(repository, found.key, upload)
                        if confirmed is not None:
                            kept[confirmed.path] = confirmed
                            continue
                    log.info("aborting the unfinished upload of %s", found.key)
                    await repository.store.abort_upload(found.key, found.upload_id)
        except (AccessDeniedError, UnsupportedError) as error:
            log.warning("unfinished uploads cannot be looked for: %s", error)
            break
    for upload in journal.values():
        unknown = upload.upload_id not in listed and upload.path not in kept
        if unknown and await _was_completed(repository, upload):
            kept[upload.path] = upload
        if upload.path not in kept or kept[upload.path].upload_id != upload.upload_id:
            await catalog.uploads.ended(upload.upload_id)
    return kept


async def abort_unused(repository: Repository, catalog: Catalog) -> None:
    """Abort what the journal still holds once all is saved: uploads of files that changed, shrank
    or vanished since."""
    for upload in await catalog.uploads.all():
        key = run_prefix(repository.section, upload.run) + upload.key
        log.info("aborting the upload of %s, which nobody goes on with", key)
        try:
            await repository.store.abort_upload(key, UploadId(upload.upload_id))
        except StoreError as error:
            log.warning("could not abort the multipart upload of %s: %s", key, error)
            continue
        await catalog.uploads.ended(upload.upload_id)


async def _confirm_parts(repository: Repository, key: str, upload: ResumableUpload) -> ResumableUpload | None:
    try:
        held = {p.number: p for p in await repository.store.list_parts(key, UploadId(upload.upload_id))}
    except ObjectMissingError:
        return None
    except StoreError as error:
        log.info("the parts of %s cannot be listed (%s): it is uploaded anew", key, error.reason)
        return None
    parts = tuple(
        part for part in upload.parts
        if part.number in held and held[part.number].size == part.size and held[part.number].etag == part.etag
    )  # fmt: skip
    # Without a part there is nothing to go on with; a sealed upload never has one in the journal.
    return msgspec.structs.replace(upload, parts=parts) if parts else None


async def _was_completed(repository: Repository, upload: ResumableUpload) -> bool:
    """Whether all parts were sent and the object is there."""
    if sum(part.size for part in upload.parts) != upload.size:
        return False
    try:
        info = await repository.store.head(run_prefix(repository.section, upload.run) + upload.key)
    except StoreError:
        return False
    return info.size == upload.size
