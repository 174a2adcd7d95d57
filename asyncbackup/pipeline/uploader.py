"""The uploader: payloads in, receipts out. As many tasks as requests may ever be allowed at once; a task
takes a payload only when the store's load has a place for its request.

A body's bytes go back to the budget as soon as its request has ended. What was
begun in several parts is written to the journal, so that a later run can go on
with it or abort it; a sealed or compressed upload cannot be gone on with and is
aborted when the run ends without completing it.

A part of a changed file that is what it was in the object of the last version
is taken over from there by the store. Its body is held until that is done: where
it cannot be done, the part is sent like any other.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import ObjectMissingError, ObjectRefusedError, StoreError, UnsupportedError
from asyncbackup.flow.channel import EndOfChannel
from asyncbackup.flow.cleanup import run_shielded
from asyncbackup.flow.stopwatch import Stopwatch
from asyncbackup.format.keys import is_long_key, long_path_key
from asyncbackup.format.metadata import long_path_fits, object_metadata
from asyncbackup.model import EMPTY_SHA256, Entry, Extent, Failure, Pack, RunCounters, UploadReceipt
from asyncbackup.pipeline.payload import (
    AbandonUpload,
    CopyPayload,
    LargeUpload,
    PackPayload,
    PartPayload,
    Payload,
    UploadEnd,
    WholePayload,
)
from asyncbackup.pipeline.results import PackStored
from asyncbackup.resume import PartHashes, PartRecord, ResumableUpload, UploadJournal
from asyncbackup.store.checksums import composite_checksum, single_checksum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.flow.budget import ByteBudget
    from asyncbackup.flow.channel import Receiver, Sender
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.pipeline.results import Outcome
    from asyncbackup.pipeline.transfer_settings import TransferSettings
    from asyncbackup.store.base import PartReceipt, Store, UploadId

log = logging.getLogger(__name__)

MAX_COPY_BYTES = 5 * 1024**3
"""CopyObject's limit."""
CONTENT_REFUSED = "another file has the same content, and that could not be stored; run again"


class Uploader:
    """Sends payloads. ``run`` is called by ``concurrency`` tasks at once. ``sending`` runs while any of
    them has a payload."""

    def __init__(
        self,
        settings: TransferSettings,
        store: Store,
        budget: ByteBudget,
        journal: UploadJournal,
        counters: RunCounters,
        stop: StopRequest,
    ) -> None:
        self._settings = settings
        self._store = store
        self._budget = budget
        self._journal = journal
        self._counters = counters
        self._stop = stop
        self._open: set[LargeUpload] = set()
        self._refused: set[bytes] = set()
        self.sending = Stopwatch()
        self._taken = 0
        self._copies = store.capabilities.server_side_copy and not settings.sealed
        self._copies_parts = store.capabilities.part_copy

    async def run(self, payloads: Receiver[Payload], outcomes: Sender[Outcome]) -> None:
        """Work until the payloads end. Once a stop is requested, requests under way are finished
        and no further ones begun. Raises ``StoreError`` for everything that is not confined to
        one object."""
        callers = self._store.load.callers
        with payloads, outcomes:
            while True:
                await callers.acquire()
                try:
                    payload = await payloads.receive()
                    self._count(1)
                    try:
                        await self._take(payload, outcomes)
                    finally:
                        self._count(-1)
                        # While this task waits for the next one it must not hold on to this one's body.
                        del payload
                except EndOfChannel:
                    return
                finally:
                    callers.release()

    def _count(self, change: int) -> None:
        self._taken += change
        self.sending.set(self._taken > 0)

    async def _take(self, payload: Payload, outcomes: Sender[Outcome]) -> None:
        match payload:
            case WholePayload() | PartPayload() | PackPayload() if self._stop.requested:
                self._budget.release(payload.leased)
            case CopyPayload() if self._stop.requested:
                pass
            case WholePayload():
                await self._send_whole(payload, outcomes)
            case PackPayload():
                await self._send_pack(payload, outcomes)
            case PartPayload():
                payload.upload.in_flight += 1
                await self._send_part(payload, outcomes)
            case UploadEnd():
                payload.upload.end = payload
                await self._settle(payload.upload, outcomes)
            case AbandonUpload():
                self._budget.release(payload.leased)
                payload.upload.abandoned = True
                await self._settle(payload.upload, outcomes)
            case CopyPayload():
                await outcomes.send(await self._copy(payload))

    async def aclose(self) -> None:
        """Abort what can never be gone on with. Call it after the last task has ended, however it ended."""
        for upload in list(self._open):
            if not upload.goes_on and upload.upload_id is not None:
                what = f"aborting the upload of {upload.key!r}"
                await run_shielded(self._abort(upload), what=what)

    async def _send_whole(self, payload: WholePayload, outcomes: Sender[Outcome]) -> None:
        key = self._settings.object_key(payload.key)
        try:
            await self._store.put(key, payload.body, sha256=payload.body_sha256, metadata=payload.metadata)
            await self._put_long_path(payload.entry, payload.key)
        except ObjectRefusedError as error:
            await outcomes.send(_refused(payload.entry, error))
            if payload.underway is not None:
                await outcomes.send_all(payload.underway.fail(CONTENT_REFUSED))
            return
        finally:
            self._budget.release(payload.leased)
        size = len(payload.body)
        self._counters.bytes_uploaded += size
        extent = Extent(
            run=self._settings.run,
            key=payload.key,
            length=size,
            # What was sent along, not what was returned: an echo proves nothing.
            checksum=single_checksum(payload.body_sha256) if payload.encrypted or payload.compression else "",
            encrypted=payload.encrypted,
            compression=payload.compression,
            skip=payload.skip,
        )
        if payload.stands_for is not None:
            extent = payload.stands_for
        await outcomes.send(
            UploadReceipt(
                entry=msgspec.structs.replace(payload.entry, extent=extent),
                pending=payload.pending,
                bytes_read=payload.bytes_read,
                bytes_uploaded=size,
            )
        )
        if payload.underway is not None:
            payload.underway.extents = (extent,)
            await outcomes.send_all(payload.underway.store())

    async def _send_pack(self, payload: PackPayload, outcomes: Sender[Outcome]) -> None:
        underway, settings = payload.underway, self._settings
        try:
            await self._store.put(settings.object_key(underway.key), payload.body, sha256=payload.body_sha256)
        except ObjectRefusedError as error:
            await outcomes.send_all(underway.fail(f"the endpoint refuses its pack: {error.reason}"))
            return
        finally:
            self._budget.release(payload.leased)
        self._counters.bytes_uploaded += payload.size
        pack = Pack(
            run=settings.run,
            key=underway.key,
            size=payload.size,
            checksum=single_checksum(payload.body_sha256),
            encrypted=payload.encrypted,
            compression=underway.compression,
        )
        await outcomes.send(PackStored(pack=pack, receipts=underway.store()))

    async def _put_long_path(self, entry: Entry, key: str, *, run: str | None = None) -> None:
        """A path too long for key and metadata gets an object of its own beside."""
        if is_long_key(key) and not long_path_fits(entry):
            path_key = self._settings.object_key(long_path_key(entry.path), run=run)
            await self._store.put(path_key, entry.path, sha256=hashlib.sha256(entry.path).digest())

    async def _send_part(self, part: PartPayload, outcomes: Sender[Outcome]) -> None:
        upload = part.upload
        try:
            if not upload.abandoned and (upload_id := await self._begin(upload)) is not None:
                receipt = await self._take_over(part, upload_id)
                if receipt is None:
                    receipt = await self._store.upload_part(
                        self._settings.object_key(upload.key, run=upload.run),
                        upload_id,
                        part.number,
                        part.body,
                        sha256=part.sha256,
                    )
                    upload.bytes_sent += len(part.body)
                    self._counters.bytes_uploaded += len(part.body)
                if upload.goes_on:
                    await self._journal.part_sent(
                        upload_id,
                        PartRecord(
                            number=receipt.number, size=receipt.size, etag=receipt.etag, sha256=part.sha256
                        ),
                    )
                upload.parts[part.number] = msgspec.structs.replace(receipt, sha256=part.sha256)
        except ObjectRefusedError as error:
            await self._refuse(upload, error, outcomes)
        finally:
            self._budget.release(part.leased)
            upload.in_flight -= 1
        await self._settle(upload, outcomes)

    async def _take_over(self, part: PartPayload, upload_id: UploadId) -> PartReceipt | None:
        """The part, copied from the object of the file's last version; ``None`` where it has to be sent."""
        upload = part.upload
        earlier = upload.earlier_parts
        if earlier is None or not self._copies_parts or not earlier.has(part.number, part.sha256):
            return None
        key = self._settings.object_key(upload.key, run=upload.run)
        source = self._settings.object_key(earlier.key, run=earlier.run)
        offset = (part.number - 1) * earlier.part_size
        try:
            receipt = await self._store.copy_part(
                source, key, upload_id, part.number, offset=offset, length=len(part.body)
            )
        except ObjectMissingError as error:
            self._send_all(upload, f"{source!r}, which has them, is gone ({error.reason})")
            return None
        except StoreError as error:
            # Whatever is wrong with copying: if the destination is in trouble, sending will tell.
            if self._copies_parts:
                log.info(
                    "from here on, parts of files that did not change are sent all the same, since they "
                    "cannot be copied from %r: %s",
                    source,
                    error.reason,
                )
            self._copies_parts = False
            return None
        if receipt.sha256 not in (b"", part.sha256):
            self._send_all(
                upload, f"{source!r} no longer has them as they were stored; verify finds out more"
            )
            return None
        return receipt

    @staticmethod
    def _send_all(upload: LargeUpload, reason: str) -> None:
        if upload.earlier_parts is not None:
            log.warning("the parts of %r that did not change are sent all the same: %s", upload.key, reason)
        upload.earlier_parts = None

    async def _refuse(
        self, upload: LargeUpload, error: ObjectRefusedError, outcomes: Sender[Outcome]
    ) -> None:
        """Give an upload up, and say so once: several of its parts may be refused, and its file be
        read more than once."""
        upload.abandoned = True
        path = upload.entry.path
        if path not in self._refused:
            self._refused.add(path)
            await outcomes.send(_refused(upload.entry, error))

    async def _begin(self, upload: LargeUpload) -> UploadId | None:
        """The upload's id; the first part creates it, and the journal knows it before a part is sent.

        ``None`` where it was refused to another part meanwhile.
        """
        async with upload.creating:
            if upload.abandoned:
                return None
            if upload.earlier is not None and self._copies_parts:
                upload.earlier_parts = await self._journal.parts_of(upload.earlier.run, upload.earlier.key)
            upload.earlier = None  # asked once
            if upload.upload_id is None:
                settings = self._settings
                metadata = (
                    {}
                    if upload.head
                    else object_metadata(
                        upload.entry, upload.key, sealed=upload.sealed, compression=upload.compression
                    )
                )
                key = settings.object_key(upload.key)
                upload.upload_id = await self._store.create_upload(key, metadata=metadata)
                self._open.add(upload)
                await self._journal.begun(_journal_entry(settings, upload, upload.upload_id))
            return upload.upload_id

    async def _settle(self, upload: LargeUpload, outcomes: Sender[Outcome]) -> None:
        """Complete or give up an upload whose last request has ended."""
        if upload.in_flight:
            return
        if upload.abandoned:
            if upload.underway is not None:
                await outcomes.send_all(upload.underway.fail(CONTENT_REFUSED))
            await self._abort(upload)
            return
        end = upload.end
        if end is None or len(upload.parts) < end.part_count:
            return
        upload.end = None  # settled once, by the task that comes first
        upload_id = await self._begin(upload)
        assert upload_id is not None, "it is not abandoned"
        parts = [upload.parts[number] for number in sorted(upload.parts)]
        key = self._settings.object_key(upload.key, run=upload.run)
        try:
            await self._store.complete_upload(key, upload_id, parts)
            await self._put_long_path(end.entry, upload.key, run=upload.run)
        except ObjectRefusedError as error:
            await self._refuse(upload, error, outcomes)
            if upload.underway is not None:
                await outcomes.send_all(upload.underway.fail(CONTENT_REFUSED))
            await self._abort(upload)
            return
        except ObjectMissingError as error:
            if upload.resumed is None:
                raise
            # The endpoint forgot what an earlier run had begun.
            await self._forget(upload, upload_id)
            if upload.underway is not None:
                await outcomes.send_all(upload.underway.fail(CONTENT_REFUSED))
            reason = f"the upload that an earlier run began is gone ({error.reason}); run again"
            await outcomes.send(Failure(path=upload.entry.path, reason=reason))
            return
        extent = Extent(
            run=upload.run,
            key=upload.key,
            length=upload.stored_size or sum(part.size for part in parts),
            checksum=composite_checksum(part.sha256 for part in parts),
            part_size=upload.part_size,
            encrypted=upload.sealed,
            compression=upload.compression,
            skip=len(upload.head),
        )
        await outcomes.send(
            UploadReceipt(
                entry=msgspec.structs.replace(end.entry, extent=extent),
                pending=upload.pending,
                bytes_read=end.bytes_read,
                bytes_uploaded=upload.bytes_sent,
            )
        )
        if upload.underway is not None:
            upload.underway.extents = (extent,)
            await outcomes.send_all(upload.underway.store())
        self._open.discard(upload)
        await self._journal.ended(upload_id, made=self._part_hashes(upload, parts))

    def _part_hashes(self, upload: LargeUpload, parts: Sequence[PartReceipt]) -> PartHashes | None:
        """What to remember of an object, if a later version of its file may take parts over from it."""
        if not upload.goes_on or upload.stored_size < self._settings.delta_from_bytes:
            return None
        hashes = b"".join(part.sha256 for part in parts)
        return PartHashes(run=upload.run, key=upload.key, part_size=upload.part_size, hashes=hashes)

    async def _abort(self, upload: LargeUpload) -> None:
        upload_id, upload.upload_id = upload.upload_id, None
        if upload_id is None:
            self._open.discard(upload)
            return
        key = self._settings.object_key(upload.key, run=upload.run)
        try:
            await self._store.abort_upload(key, upload_id)
        except StoreError as error:
            # The journal still has it, so it is tried again at the end of the run and by the next one.
            log.warning("could not abort the multipart upload of %s: %s", key, error)
            return
        await self._forget(upload, upload_id)

    async def _forget(self, upload: LargeUpload, upload_id: UploadId) -> None:
        self._open.discard(upload)
        await self._journal.ended(upload_id)

    async def _copy(self, payload: CopyPayload) -> Outcome:
        """A further name of stored content: a copy inside the store, else an object that names the first."""
        settings, source, entry = self._settings, payload.source, payload.entry
        key = settings.object_key(payload.key)
        if self._copies and _copyable(source):
            metadata = object_metadata(entry, payload.key, compression=source.compression)
            source_key = settings.object_key(source.key, run=source.run)
            try:
                await self._store.copy(source_key, key, metadata=metadata)
                await self._put_long_path(entry, payload.key)
            except UnsupportedError as error:
                self._copies = False
                log.info(
                    "the endpoint copies no objects (%s): further names of a file become references",
                    error.reason,
                )
            except ObjectRefusedError as error:
                return _refused(entry, error)
            else:
                # A copy is a single object, however the source was uploaded.
                extent = Extent(
                    run=settings.run,
                    key=payload.key,
                    length=source.length,
                    checksum=source.checksum if source.compression else "",
                    compression=source.compression,
                )
                return UploadReceipt(
                    entry=msgspec.structs.replace(entry, extent=extent), pending=payload.pending
                )
        metadata = object_metadata(entry, payload.key, first_path=payload.first_path)
        try:
            await self._store.put(key, b"", sha256=EMPTY_SHA256, metadata=metadata)
            await self._put_long_path(entry, payload.key)
        except ObjectRefusedError as error:
            return _refused(entry, error)
        return UploadReceipt(entry=msgspec.structs.replace(entry, extent=source), pending=payload.pending)


def _copyable(source: Extent) -> bool:
    """Whether a copy of the object would be one of the content, with a checksum that is known: of
    parts that were compressed, no one knows that of them all together."""
    whole = not (source.encrypted or source.in_pack or (source.compression and source.part_size))
    return whole and source.length <= MAX_COPY_BYTES


def _refused(entry: Entry, error: ObjectRefusedError) -> Failure:
    return Failure(
        path=entry.path, reason=f"the endpoint refuses its object: {error.reason}", kind=entry.kind
    )


def _journal_entry(settings: TransferSettings, upload: LargeUpload, upload_id: UploadId) -> ResumableUpload:
    entry = upload.entry
    return ResumableUpload(
        path=entry.path,
        run=settings.run,
        key=upload.key,
        upload_id=upload_id,
        part_size=upload.part_size,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.ctime_ns,
    )
