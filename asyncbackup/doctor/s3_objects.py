"""Writing and reading whole objects: what can be relied on, and what an endpoint checks by itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.doctor.s3_scope import checksum
from asyncbackup.errors import (
    ObjectExistsError,
    ObjectMissingError,
    ObjectRefusedError,
    StoreError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from asyncbackup.doctor.s3_scope import Scope

METADATA = {"mtime": "1732305000.123456789", "mode": "100644", "asyncbackup-owner": "j%C3%B6rg"}
METADATA_BYTES = 1700
"""What asyncbackup uses of S3's 2 KB."""


async def read_after_write(scope: Scope) -> list[Finding]:
    """Does a read see the write that has just returned, also one that replaces another?"""
    key = scope.key("object")
    for body in (os.urandom(1000), os.urandom(1500)):
        await scope.put(key, body)
        try:
            same = await scope.get(key) == body
        except ObjectMissingError:
            same = False
        if not same or "object" not in await scope.listed("object"):
            advice = "a backup there could not be trusted; ask the provider, or choose another endpoint"
            return [
                problem("read-after-write", "what was just written is not what is read or listed", advice)
            ]
    return [ok("read-after-write", "a read and a listing see what was just written")]


async def conditional_writes(scope: Scope) -> list[Finding]:
    """Is If-None-Match honoured, ignored or refused?"""
    key = scope.key("conditional")
    await scope.put(key, b"first")
    try:
        await scope.put(key, b"second", IfNoneMatch="*")
    except ObjectExistsError:
        if await scope.get(key) == b"first":
            return [ok("conditional-writes", "If-None-Match is honoured: an object is not written over")]
        return [note("conditional-writes", "If-None-Match answers 412 and writes all the same", _NO_MATTER)]
    except StoreError as error:
        return [note("conditional-writes", f"If-None-Match is refused ({error.code})", _NO_MATTER)]
    return [note("conditional-writes", "If-None-Match is ignored: the object was written over", _NO_MATTER)]


_NO_MATTER = "backups do not rely on it; two machines that run initdb at once may disturb each other"


async def checksums(scope: Scope) -> list[Finding]:
    """What becomes of a wrong checksum, and of a right one?"""
    key = scope.key("checksum")
    await scope.put(key, b"content")
    answer = await scope.probe.call("head_object", key, ChecksumMode="ENABLED")
    kept = answer.text("ChecksumSHA256") == checksum(b"content")
    wrong = scope.key("checksum-wrong")
    try:
        await scope.put(wrong, b"content", ChecksumSHA256=checksum(b"other"))
    except StoreError as error:
        if error.code == "Timeout":
            return [note("checksums", "a body that is not what its checksum says gets no answer at all")]
        if kept:
            return [ok("checksums", "SHA-256 is verified, kept and returned: 'verify' downloads nothing")]
        return [
            note("checksums", "SHA-256 is verified and not returned", "'verify' has to read, which it does")
        ]
    answer = await scope.probe.call("head_object", wrong, ChecksumMode="ENABLED")
    if answer.text("ChecksumSHA256") == checksum(b"other"):
        return [
            note(
                "checksums",
                "a wrong SHA-256 is accepted and returned: it says what was sent, not what is stored",
                "run 'verify --read-data' now and then",
            )
        ]
    if kept:
        return [
            note("checksums", "a wrong SHA-256 is accepted, and the right one returned", _READ_NOW_AND_THEN)
        ]
    return [note("checksums", "checksums are ignored", "'verify' has to read, which it does")]


_READ_NOW_AND_THEN = "bytes may change on the way unnoticed; run 'verify --read-data' now and then"


async def user_metadata(scope: Scope) -> list[Finding]:
    """Are names and values of metadata kept as they are, and how many bytes of them?"""
    return [
        await _usual_metadata(scope),
        await _much_metadata(scope),
        await _odd_metadata(scope, "metadata-underscore", "under_score", "1", "a name with '_'"),
        await _odd_metadata(scope, "metadata-non-ascii", "city", "Zürich", "a value that is not ASCII"),
    ]


async def _usual_metadata(scope: Scope) -> Finding:
    key = scope.key("metadata")
    await scope.put(key, b"x", Metadata=METADATA)
    kept = await _metadata(scope, key)
    if all(kept.get(name) == value for name, value in METADATA.items()):
        return ok("metadata", "user metadata are kept as they are")
    lost = ", ".join(name for name, value in METADATA.items() if kept.get(name) != value)
    advice = "asyncbackup restores from its manifests; other tools will not see times and modes"
    return note("metadata", f"user metadata are lost or changed: {lost}", advice)


async def _much_metadata(scope: Scope) -> Finding:
    key = scope.key("metadata-large")
    name = "filler"
    value = "x" * (METADATA_BYTES - len(name))
    advice = "files with long paths or many extended attributes have less metadata on their keys"
    try:
        await scope.put(key, b"x", Metadata={name: value})
    except StoreError as error:
        return note("metadata-size", f"{METADATA_BYTES} bytes of metadata are refused ({error.code})", advice)
    if (await _metadata(scope, key)).get(name) != value:
        return note("metadata-size", f"of {METADATA_BYTES} bytes of metadata some are lost", advice)
    return ok("metadata-size", f"{METADATA_BYTES} bytes of metadata are kept")


async def _odd_metadata(scope: Scope, check: str, name: str, value: str, what: str) -> Finding:
    key = scope.key(check)
    try:
        await scope.put(key, b"x", Metadata={name: value})
        kept = await _metadata(scope, key)
    except (StoreError, UnicodeError) as error:
        code = error.code if isinstance(error, StoreError) else "cannot be sent"
        return note(check, f"{what} in metadata is refused ({code}); asyncbackup uses none")
    if kept.get(name) == value:
        return ok(check, f"{what} in metadata is kept")
    became = next(iter(kept.items()), None)
    how = f"becomes {became[0]}: {became[1]!a}" if became else "is lost"
    return note(check, f"{what} in metadata {how}; asyncbackup uses none")


async def _metadata(scope: Scope, key: str) -> dict[str, str]:
    answer = await scope.probe.call("head_object", key)
    return {str(name): str(value) for name, value in dict(answer.fields.get("Metadata", {})).items()}


async def copies(scope: Scope) -> list[Finding]:
    """Does CopyObject copy, and does it replace metadata?"""
    source, key = scope.key("copy-source"), scope.key("copy")
    await scope.put(source, b"content", Metadata={"mtime": "1", "old": "1"})
    location = scope.probe.location
    advice = "further names of a linked file become references, which only asyncbackup follows"
    try:
        await scope.probe.call(
            "copy_object",
            key,
            CopySource={"Bucket": location.bucket, "Key": location.full(source)},
            Metadata={"mtime": "2"},
            MetadataDirective="REPLACE",
        )
        body = await scope.get(key)
    except (UnsupportedError, ObjectMissingError, ObjectRefusedError) as error:
        return [note("copy", f"CopyObject does not work ({error.code})", advice)]
    if body != b"content":
        return [note("copy", "CopyObject makes an object of other bytes", advice)]
    kept = await _metadata(scope, key)
    if kept.get("mtime") != "2":
        return [note("copy", "CopyObject does not replace metadata", "other tools see those of the source")]
    if "old" in kept:
        return [note("copy", "CopyObject merges the metadata of both", "that does no harm to a restore")]
    return [ok("copy", "CopyObject copies, and replaces metadata")]


async def ranges(scope: Scope) -> list[Finding]:
    """Are ranges answered with what they ask for?"""
    key = scope.key("range")
    body = bytes(range(256)) * 4
    await scope.put(key, body)
    found: list[Finding] = []
    for check, asked, expected, what in (
        ("range-middle", "bytes=100-199", body[100:200], "a range from the middle"),
        ("range-suffix", "bytes=-50", body[-50:], "a suffix range"),
    ):
        used = check == "range-middle"
        try:
            answer, got = await scope.probe.read(key, Range=asked)
        except StoreError as error:
            text = f"{what} is refused ({error.code})"
            found.append(note(check, text, "" if used else "asyncbackup asks for none"))
            continue
        if got == expected and answer.status == 206:
            found.append(ok(check, f"{what} is answered with 206 and the right bytes"))
        elif got == expected:
            found.append(
                note(check, f"{what} is answered with {answer.status} and the right bytes; understood")
            )
        elif got == body:
            advice = "works, but a single file of a pack costs a download of the whole pack" if used else ""
            found.append(note(check, f"{what} is answered with the whole object", advice))
        else:
            advice = "restoring from packs and resuming downloads will fail; ask the provider"
            found.append(
                problem(check, f"{what} is answered with wrong bytes", advice)
                if used
                else note(check, f"{what} is answered with wrong bytes; asyncbackup asks for none")
            )
    return found
