"""Names of objects: which an endpoint keeps apart, and what it lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.errors import ObjectMissingError, StoreError
from asyncbackup.format.keys import MAX_KEY_BYTES, MAX_SEGMENT_BYTES

if TYPE_CHECKING:
    from asyncbackup.doctor.s3_scope import Scope

NFC, NFD = "k/caf\u00e9", "k/cafe\u0301"


async def ordinary_keys(scope: Scope) -> list[Finding]:
    """Names that asyncbackup writes as they are."""
    found = [
        await _kept(scope, "key-spaces", "k/a b + & (c), d", "spaces and punctuation"),
        await _kept(scope, "key-unicode", NFC, "letters that are not ASCII"),
        await _kept(scope, "key-percent", "k/100% sure", "'%'"),
        await _kept(scope, "key-escapes", "k/%2F%41", "what looks like an escape ('%41')"),
        await _kept(scope, "key-dots", "k/..hidden.", "dots at the beginning and the end"),
        await _kept(
            scope, "key-segment", "k/" + "s" * MAX_SEGMENT_BYTES, f"{MAX_SEGMENT_BYTES} bytes between slashes"
        ),
    ]
    full = MAX_KEY_BYTES - len(scope.probe.location.full(scope.traces.prefix).encode())
    found.append(await _kept(scope, "key-length", _long(full), f"{MAX_KEY_BYTES} bytes"))
    return found


def _long(size: int) -> str:
    """A name of exactly ``size`` bytes out of segments of 200."""
    text = "k/" + "/".join(["n" * 200] * 8)
    text = text[:size]
    return text[:-1] + "n" if text.endswith("/") else text


async def _kept(scope: Scope, check: str, name: str, what: str) -> Finding:
    advice = "files with such names are named as failed; all others are saved"
    key = scope.key(name)
    try:
        await scope.put(key, name.encode())
        if await scope.get(key) != name.encode():
            return note(check, f"a key with {what} gives other bytes than were written", advice)
        listed = await scope.listed(name)
    except StoreError as error:
        return note(check, f"a key with {what} is refused ({error.code})", advice)
    if name not in listed:
        return note(
            check, f"a key with {what} is listed under another name", "rebuilding from objects suffers"
        )
    return ok(check, f"keys with {what} are kept")


async def kept_apart(scope: Scope) -> list[Finding]:
    """Pairs of names that some endpoints take for one."""
    return [
        await _pair(scope, "key-backslash", "b/x\\y", "b/x/y", "'\\' and '/'", escaped=True),
        await _pair(scope, "key-double-slash", "s//x", "s/x", "'//' and '/'", escaped=True),
        await _pair(scope, "key-normal-form", NFC, NFD, "NFC and NFD forms of a letter", escaped=True),
        await _pair(scope, "key-case", "c/Name", "c/name", "upper and lower case", escaped=False),
    ]


async def _pair(scope: Scope, check: str, first: str, second: str, what: str, *, escaped: bool) -> Finding:
    """``escaped``: asyncbackup never writes the one of the two that is out of the ordinary."""
    harmless = "asyncbackup writes only one of them"
    advice = "" if escaped else "of two files whose names differ in that alone, only one would be kept"
    try:
        for name in (first, second):
            await scope.put(scope.key(name), name.encode())
        apart = await scope.get(scope.key(first)) == first.encode()
    except ObjectMissingError:
        apart = False
    except StoreError as error:
        return note(
            check, f"a key with {what} is refused ({error.code}); {harmless}" if escaped else str(error)
        )
    if apart:
        return ok(check, f"{what} in keys are kept apart")
    if escaped:
        return note(check, f"{what} in keys are taken for one; {harmless}")
    return problem(check, f"{what} in keys are taken for one", advice)


async def folders(scope: Scope) -> list[Finding]:
    """Objects whose keys end in a slash, and objects below others."""
    return [await _folder_objects(scope), await _below_objects(scope)]


async def _folder_objects(scope: Scope) -> Finding:
    advice = "folders' times and modes are in the manifests alone; 'restore' brings them back"
    folder, below = scope.key("d/"), scope.key("d/file")
    try:
        await scope.put(folder, b"", Metadata={"mode": "40755"})
        await scope.put(below, b"file")
        listed = await scope.listed("d/")
        answer = await scope.probe.call("head_object", folder)
        whole = await scope.get(below) == b"file"
    except StoreError as error:
        return note("folder-objects", f"keys that end in '/' are not kept ({error.code})", advice)
    if not whole or "d/file" not in listed:
        return note("folder-objects", "a key that ends in '/' hides what lies below", advice)
    if "d/" not in listed:
        return note("folder-objects", "keys that end in '/' are not listed", advice)
    if dict(answer.fields.get("Metadata", {})).get("mode") != "40755":
        return note("folder-objects", "keys that end in '/' are kept, without their metadata", advice)
    return ok("folder-objects", "keys that end in '/' are objects, and listed")


async def _below_objects(scope: Scope) -> Finding:
    above, below = scope.key("p"), scope.key("p/q")
    try:
        await scope.put(above, b"above")
        await scope.put(below, b"below")
        both = await scope.get(above) == b"above" and await scope.get(below) == b"below"
    except StoreError:
        both = False
    if both:
        return ok("key-below-key", "'p' and 'p/q' can both be objects")
    return note("key-below-key", "'p' and 'p/q' cannot both be objects; asyncbackup never needs that")


async def listings(scope: Scope) -> list[Finding]:
    """Order and pages of a listing."""
    names = ["l/ab", "l/a/b", "l/a-b", "l/B", "l/\u00e9"]
    for name in names:
        await scope.put(scope.key(name), b"x")
    listed = await scope.listed("l/")
    if sorted(listed) != sorted(names):
        advice = "prune and rebuilding rely on listings; ask the provider"
        return [problem("listing", "a listing does not show what was written", advice)]
    in_order = listed == sorted(names, key=str.encode)
    found = [
        ok("listing-order", "listings come in the order of bytes")
        if in_order
        else note("listing-order", "listings do not come in the order of bytes; nothing relies on it")
    ]
    found.append(await _pages(scope, names))
    return found


async def _pages(scope: Scope, names: list[str]) -> Finding:
    prefix = scope.probe.location.full(scope.traces.prefix + "l/")
    seen: list[str] = []
    token: dict[str, str] = {}
    for _ in names:
        answer = await scope.probe.call("list_objects_v2", Prefix=prefix, MaxKeys=2, **token)
        page = [str(item["Key"]) for item in answer.items("Contents")]
        seen += page
        if len(page) > 2:
            return note("listing-pages", "listings are not paged; a large one comes in one answer")
        if not answer.fields.get("IsTruncated"):
            break
        token = {"ContinuationToken": answer.text("NextContinuationToken")}
    if len(seen) == len(set(seen)) == len(names):
        return ok("listing-pages", "listings go on page by page")
    advice = "prune and rebuilding rely on listings; ask the provider"
    return problem("listing-pages", "the pages of a listing do not add up to the whole", advice)
