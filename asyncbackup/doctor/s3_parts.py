"""Multipart uploads: the rules of an endpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.errors import ObjectMissingError, StoreError

if TYPE_CHECKING:
    from asyncbackup.doctor.s3_scope import Scope

PART_BYTES = 5 * 1024**2
SMALL_BYTES = 1024


async def multipart(scope: Scope) -> list[Finding]:
    """Does an upload in parts give what was sent?"""
    key = scope.upload_key("multipart")
    parts = [os.urandom(PART_BYTES), os.urandom(SMALL_BYTES)]
    advice = "files over part_size cannot be saved there; ask the provider"
    try:
        upload_id = await scope.begin_upload(key)
        sent = [
            await scope.send_part(key, upload_id, number, body) for number, body in enumerate(parts, start=1)
        ]
        known = await _known_uploads(scope, key)
        await scope.complete(key, upload_id, sent)
        whole = await scope.get(key) == b"".join(parts)
    except StoreError as error:
        return [problem("multipart", f"an upload in parts fails: {error}", advice)]
    if not whole:
        return [problem("multipart", "an object in parts is not what was sent", advice)]
    found = [ok("multipart", "an upload in parts gives what was sent")]
    if known:
        found.append(ok("multipart-listing", "unfinished uploads are listed"))
    else:
        found.append(
            note(
                "multipart-listing",
                "unfinished uploads are not listed",
                "those that the database does not know stay; see whether the provider forgets them",
            )
        )
    return found


async def _known_uploads(scope: Scope, key: str) -> bool:
    full = scope.probe.location.full(key)
    try:
        answer = await scope.probe.call("list_multipart_uploads", Prefix=full)
    except StoreError:
        return False
    return any(item.get("Key") == full for item in answer.items("Uploads"))


async def small_parts(scope: Scope) -> list[Finding]:
    """Are parts below 5 MiB accepted?"""
    refused = await _refusal(scope, "multipart-small", order=(1, 2))
    if refused:
        return [ok("multipart-small-parts", f"parts below 5 MiB are refused ({refused}), as at AWS")]
    return [ok("multipart-small-parts", "parts below 5 MiB are accepted; asyncbackup sends none")]


async def part_order(scope: Scope) -> list[Finding]:
    """Is a wrong order of parts refused?"""
    refused = await _refusal(scope, "multipart-order", order=(2, 1))
    if refused:
        return [ok("multipart-order", f"parts in a wrong order are refused ({refused})")]
    return [note("multipart-order", "parts in a wrong order are accepted; asyncbackup sends them in order")]


async def _refusal(scope: Scope, name: str, *, order: tuple[int, int]) -> str:
    """The code with which two small parts in this order are refused, ``""`` where they make an object."""
    key = scope.upload_key(name)
    upload_id = await scope.begin_upload(key)
    sent = [await scope.send_part(key, upload_id, number, os.urandom(SMALL_BYTES)) for number in (1, 2)]
    try:
        await scope.complete(key, upload_id, [sent[number - 1] for number in order])
    except StoreError as error:
        return error.code
    return ""


async def aborts(scope: Scope) -> list[Finding]:
    """Is an aborted upload gone?"""
    key = scope.upload_key("multipart-abort")
    upload_id = await scope.begin_upload(key)
    await scope.send_part(key, upload_id, 1, b"x" * SMALL_BYTES)
    advice = "let a lifecycle rule forget unfinished uploads"
    try:
        await scope.probe.call("abort_multipart_upload", key, UploadId=upload_id)
    except StoreError as error:
        return [note("multipart-abort", f"an upload cannot be aborted ({error.code})", advice)]
    scope.traces.forget_upload(upload_id)
    try:
        await scope.probe.call("list_parts", key, UploadId=upload_id)
    except ObjectMissingError:
        return [ok("multipart-abort", "an aborted upload is gone")]
    except StoreError as error:
        return [note("multipart-abort", f"what became of an aborted upload is not known ({error.code})")]
    return [note("multipart-abort", "an aborted upload is still there", advice)]


async def part_copies(scope: Scope) -> list[Finding]:
    """Can a part be made from a range of another object?"""
    source, key = scope.key("part-copy-source"), scope.upload_key("part-copy")
    body = os.urandom(4096)
    await scope.put(source, body)
    upload_id = await scope.begin_upload(key)
    location = scope.probe.location
    advice = "large files that change in places are sent whole"
    try:
        answer = await scope.probe.call(
            "upload_part_copy",
            key,
            UploadId=upload_id,
            PartNumber=1,
            CopySource={"Bucket": location.bucket, "Key": location.full(source)},
            CopySourceRange="bytes=1000-1999",
        )
        etag = str(dict(answer.fields.get("CopyPartResult", {})).get("ETag", ""))
        if not etag:
            return [note("part-copy", "UploadPartCopy makes an empty part", advice)]
        await scope.complete(key, upload_id, [{"PartNumber": 1, "ETag": etag}])
        copied = await scope.get(key)
    except StoreError as error:
        return [note("part-copy", f"UploadPartCopy does not work ({error.code})", advice)]
    if copied == body[1000:2000]:
        return [ok("part-copy", "UploadPartCopy takes ranges: of large changed files only changes are sent")]
    return [note("part-copy", "UploadPartCopy makes a part of other bytes than asked for", advice)]
