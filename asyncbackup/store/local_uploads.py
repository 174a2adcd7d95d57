"""Multipart uploads to a folder: parts in ``.asyncbackup-uploads/ID/``, joined when complete. All blocking.

``.asyncbackup-uploads/ID.json`` is the upload: it is made before the folder of the parts and
removed after it, so a crash at any moment leaves either nothing or an upload that is listed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec

from asyncbackup.errors import ObjectMissingError, StoreError
from asyncbackup.store.base import Body, PartList, PartReceipt, PutResult, UploadId, UploadInfo
from asyncbackup.store.body import body_size, pieces_of
from asyncbackup.store.checksums import check_parts, composite_checksum
from asyncbackup.store.local_errors import translated
from asyncbackup.store.local_files import COPY_BYTES, Abandoned, LocalFiles, copy_file, write_buffers
from asyncbackup.store.local_keys import UPLOADS_FOLDER, is_temporary, path_of_key

TEMPORARY_UPLOAD = UploadId("temporary")
"""The id under which a dead process's temporary file is listed and aborted."""
_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"(\d{5})-([0-9a-f]*)")


class _Upload(msgspec.Struct, frozen=True):
    key: str
    metadata: dict[str, str]
    initiated_ns: int


class LocalUploads:
    """The unfinished uploads of one destination folder. Thread-safe."""

    def __init__(self, files: LocalFiles) -> None:
        self._files = files
        self._folders = files.folders

    def create(self, key: str, metadata: Mapping[str, str]) -> UploadId:
        """Begin an upload."""
        path_of_key("CreateMultipartUpload", key)
        upload_id = UploadId(secrets.token_hex(16))
        upload = _Upload(key, dict(metadata), time.time_ns())
        document = [memoryview(msgspec.json.encode(upload))]
        self._write("CreateMultipartUpload", key, _document(upload_id), lambda d: write_buffers(d, document))
        return upload_id

    def write_part(
        self,
        key: str,
        upload_id: UploadId,
        number: int,
        body: Body,
        sha256: bytes,
        abandoned: threading.Event,
    ) -> PartReceipt:
        """Keep one part, replacing an earlier one of its number."""
        pieces = list(pieces_of(body, COPY_BYTES))
        receipt = _receipt(number, body_size(body), sha256)
        self._keep_part(
            "UploadPart",
            key,
            upload_id,
            receipt,
            lambda part: write_buffers(part, pieces, abandoned),
            abandoned,
        )
        return receipt

    def copy_part(
        self,
        source: str,
        key: str,
        upload_id: UploadId,
        number: int,
        offset: int,
        length: int,
        abandoned: threading.Event,
    ) -> PartReceipt:
        """Keep a range of an object as one part."""
        descriptor, info = self._files.open("UploadPartCopy", source)
        try:
            if not 0 < length <= info.size - offset:
                reason = f"bytes up to {offset + length} of {source!r} were asked for, it has {info.size}"
                raise StoreError("UploadPartCopy", key, reason, code="InvalidRange")
            with translated("UploadPartCopy", source):
                sha256 = _digest(descriptor, offset, length, abandoned)
            receipt = _receipt(number, length, sha256)
            self._keep_part(
                "UploadPartCopy",
                key,
                upload_id,
                receipt,
                lambda part: copy_file(descriptor, part, length, offset=offset),
                abandoned,
            )
            return receipt
        finally:
            os.close(descriptor)

    def _keep_part(
        self,
        operation: str,
        key: str,
        upload_id: UploadId,
        receipt: PartReceipt,
        fill: Callable[[int], None],
        abandoned: threading.Event,
    ) -> None:
        self._read(key, upload_id, operation)
        folder, name = _folder(upload_id), receipt.etag.encode()
        try:
            self._write(operation, key, folder + b"/" + name, fill, abandoned)
        finally:
            # Aborted meanwhile: the part must not bring its folder back.
            if not self._exists(upload_id):
                self._remove(upload_id)
        for other, entry in self._parts(key, upload_id, operation):
            if other.number == receipt.number and entry != name:
                with suppress(FileNotFoundError):
                    self._folders.unlink(folder + b"/" + entry)

    def list_parts(self, key: str, upload_id: UploadId) -> PartList:
        """The parts that were kept, by number."""
        self._read(key, upload_id, "ListParts")
        parts = {receipt.number: receipt for receipt, _ in self._parts(key, upload_id, "ListParts")}
        return [parts[number] for number in sorted(parts)]

    def complete(self, key: str, upload_id: UploadId, parts: Sequence[PartReceipt]) -> PutResult:
        """Join the parts to the object."""
        check_parts(key, parts)
        checksum = composite_checksum(part.sha256 for part in parts)
        size = sum(part.size for part in parts)
        try:
            upload = self._read(key, upload_id, "CompleteMultipartUpload")
        except ObjectMissingError:
            made = self._files.head(key)
            if made.size != size or (made.checksum and made.checksum != checksum):
                raise
            return PutResult(etag=made.etag, checksum=made.checksum)
        folder = _folder(upload_id)

        def join(target: int) -> None:
            for part in parts:
                name = f"{part.number:05d}-{part.sha256.hex()}".encode()
                source = self._open_part(key, folder + b"/" + name, part)
                try:
                    copy_file(source, target, part.size)
                finally:
                    os.close(source)

        result = self._files.publish(
            "CompleteMultipartUpload", key, join, metadata=upload.metadata, checksum=checksum
        )
        self._remove(upload_id)
        return result

    def _open_part(self, key: str, path: bytes, part: PartReceipt) -> int:
        gone = f"part {part.number} is not there with its {part.size} bytes"
        try:
            source = self._folders.open_file(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise StoreError("CompleteMultipartUpload", key, gone, code="InvalidPart") from error
        if os.fstat(source).st_size != part.size:
            os.close(source)
            raise StoreError("CompleteMultipartUpload", key, gone, code="InvalidPart")
        return source

    def abort(self, key: str, upload_id: UploadId) -> None:
        """Give an upload up; an unknown one is gone already."""
        with translated("AbortMultipartUpload", key):
            if upload_id == TEMPORARY_UPLOAD:
                if not is_temporary(key.rpartition("/")[2].encode("utf-8", "surrogateescape")):
                    return  # Whatever this is, it is no temporary file.
                with suppress(FileNotFoundError):
                    self._folders.unlink(key.encode("utf-8", "surrogateescape"))
            elif _ID.fullmatch(upload_id):
                self._remove(upload_id)

    def list(self, prefix: str) -> Iterator[UploadInfo]:
        """The uploads of keys that start with ``prefix``."""
        with translated("ListMultipartUploads", prefix):
            try:
                with self._folders.opened(UPLOADS_FOLDER) as descriptor:
                    names = os.listdir(descriptor)
            except FileNotFoundError:
                return
        for name in names:
            upload_id, dot, _ = name.partition(".json")
            if not dot or not _ID.fullmatch(upload_id):
                continue
            with suppress(ObjectMissingError):
                upload = self._read("", UploadId(upload_id), "ListMultipartUploads")
                if upload.key.startswith(prefix):
                    yield UploadInfo(
                        key=upload.key, upload_id=UploadId(upload_id), initiated_ns=upload.initiated_ns
                    )

    def _exists(self, upload_id: UploadId) -> bool:
        try:
            os.close(self._folders.open_file(_document(upload_id), os.O_RDONLY))
        except FileNotFoundError:
            return False
        return True

    def _read(self, key: str, upload_id: UploadId, operation: str) -> _Upload:
        missing = ObjectMissingError(operation, key, f"there is no upload {upload_id!r}", code="NoSuchUpload")
        if not _ID.fullmatch(upload_id):
            raise missing
        with translated(operation, key):
            try:
                descriptor = self._folders.open_file(_document(upload_id), os.O_RDONLY)
            except FileNotFoundError:
                raise missing from None
            with open(descriptor, "rb") as document:
                try:
                    upload = msgspec.json.decode(document.read(), type=_Upload)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    reason = f"the upload {upload_id!r} is damaged: {error}"
                    raise StoreError(operation, key, reason, code="Damaged") from error
        if key and upload.key != key:
            raise missing
        return upload

    def _parts(self, key: str, upload_id: UploadId, operation: str) -> Iterator[tuple[PartReceipt, bytes]]:
        """``(receipt, name)`` of every part file, oldest first."""
        folder = _folder(upload_id)
        found: list[tuple[int, PartReceipt, bytes]] = []
        with translated(operation, key):
            try:
                with self._folders.opened(folder) as descriptor, os.scandir(descriptor) as entries:
                    for entry in entries:
                        if match := _PART.fullmatch(entry.name):
                            status = entry.stat(follow_symlinks=False)
                            receipt = PartReceipt(
                                number=int(match[1]),
                                size=status.st_size,
                                etag=entry.name,
                                sha256=bytes.fromhex(match[2]),
                            )
                            found.append((status.st_ctime_ns, receipt, os.fsencode(entry.name)))
            except FileNotFoundError:
                return
        for _, receipt, name in sorted(found, key=lambda item: item[0]):
            yield receipt, name

    def _write(
        self,
        operation: str,
        key: str,
        path: bytes,
        fill: Callable[[int], None],
        abandoned: threading.Event | None = None,
    ) -> None:
        self._files.publish_at(operation, key, path, fill, metadata={}, checksum="", abandoned=abandoned)

    def _remove(self, upload_id: UploadId) -> None:
        """Remove the parts, then the upload, then the folder of all uploads if it was the last."""
        folder = _folder(upload_id)
        with suppress(FileNotFoundError):
            with self._folders.opened(folder) as descriptor:
                for name in os.listdir(descriptor):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=descriptor)
            self._folders.remove_empty(folder)
        with suppress(FileNotFoundError):
            self._folders.unlink(_document(upload_id))
        self._folders.remove_empty(UPLOADS_FOLDER)


def _folder(upload_id: UploadId) -> bytes:
    return UPLOADS_FOLDER + b"/" + upload_id.encode()


def _document(upload_id: UploadId) -> bytes:
    return _folder(upload_id) + b".json"


def _receipt(number: int, size: int, sha256: bytes) -> PartReceipt:
    """A part's receipt; its ETag is the name of its file."""
    return PartReceipt(number=number, size=size, etag=f"{number:05d}-{sha256.hex()}", sha256=sha256)


def _digest(descriptor: int, offset: int, length: int, abandoned: threading.Event) -> bytes:
    """The SHA-256 of a range. Raises ``Abandoned`` between reads."""
    digest, end = hashlib.sha256(), offset + length
    while offset < end:
        if abandoned.is_set():
            raise Abandoned
        chunk = os.pread(descriptor, min(COPY_BYTES, end - offset), offset)
        if not chunk:
            raise StoreError("UploadPartCopy", "", f"the file ended {end - offset} bytes early", code="Short")
        digest.update(chunk)
        offset += len(chunk)
    return digest.digest()
