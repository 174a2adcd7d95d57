"""Whole objects: what was put comes back, byte for byte and with its metadata."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import ObjectExistsError, ObjectMissingError, StoreError
from asyncbackup.store.base import OTHER_SIZE
from tests.contract.backends import Backend, digest, pattern

if TYPE_CHECKING:
    from asyncbackup.store.base import Body, Store

ODD_NAMES = [
    "a b",
    " leading and trailing ",
    "plus+sign",
    "per%25cent",
    "100%",
    "hash#sign",
    "question?mark",
    "amper&sand=equals",
    "quo'te\"s",
    "<angle>&amp;",
    "semi;colon,comma",
    "star*tilde~at@colon:dollar$",
    "(brackets)[square]{curly}",
    "trailing.dot.",
    "..leading-dots",
    ".hidden",
    "grüße-Ω-日本-🎒",
    "x" * 255,
]


@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024 + 1])
async def test_an_object_comes_back(store: Store, size: int) -> None:
    body = pattern(size)

    await store.put("docs/report.bin", body, sha256=digest(body), metadata={"mtime": "1.5"})

    assert await store.get("docs/report.bin", limit=size) == body
    info = await store.head("docs/report.bin")
    assert (info.key, info.size) == ("docs/report.bin", size)


@pytest.mark.parametrize("size", [0, 1, 9_500, 1024 * 1024])
async def test_a_small_object_is_fetched_whole(store: Store, size: int) -> None:
    body = pattern(size)
    await store.put("docs/report.bin", body, sha256=digest(body), metadata={"mtime": "1.5"})
    before = store.requests["GetObject"]

    assert b"".join(await store.fetch("docs/report.bin", size=size)) == body
    assert store.requests["GetObject"] - before == 1
    for other in (size + 1, size - 1):
        if other >= 0:
            with pytest.raises(StoreError, match=f"holds {size} bytes, not {other}") as caught:
                await store.fetch("docs/report.bin", size=other)
            assert caught.value.code == OTHER_SIZE
    with pytest.raises(ObjectMissingError):
        await store.fetch("docs/none", size=size)


@pytest.mark.parametrize(
    "body",
    [
        [b"one", b"", bytearray(b"two"), memoryview(b"three")],
        bytearray(b"onetwothree"),
        memoryview(b"-onetwothree-")[1:-1],
        [],
    ],
    ids=["several", "bytearray", "memoryview", "none"],
)
async def test_a_body_may_be_any_buffers(store: Store, body: Body) -> None:
    whole = b"onetwothree" if body else b""

    await store.put("buffers", body, sha256=digest(whole))

    assert await store.get("buffers", limit=100) == whole


async def test_metadata_comes_back(store: Store) -> None:
    metadata = {
        "mtime": "-1.500000000",
        "mode": "100644",
        "asyncbackup-owner": "gr%C3%BC%C3%9Fe",
        "asyncbackup-xattr": "A" * 1200,
    }

    await store.put("meta", b"x", sha256=digest(b"x"), metadata=metadata)

    assert (await store.head("meta")).metadata == metadata
    async with store.open("meta") as reader:
        assert reader.info.metadata == metadata


async def test_an_overwritten_object_has_the_new_metadata_alone(store: Store) -> None:
    await store.put("meta", b"x", sha256=digest(b"x"), metadata={"old": "1", "both": "1"})
    await store.put("meta", b"yz", sha256=digest(b"yz"), metadata={"both": "2"})

    assert (await store.head("meta")).metadata == {"both": "2"}
    assert await store.get("meta", limit=9) == b"yz"


async def test_checksums_come_back_where_they_are_kept(store: Store, backend: Backend) -> None:
    expected = base64.b64encode(digest(b"content")).decode()

    result = await store.put("sum", b"content", sha256=digest(b"content"))

    assert result.checksum in ("", expected)
    assert (await store.head("sum")).checksum == (expected if backend.keeps_checksums else "")
    assert store.capabilities.keeps_checksums == backend.keeps_checksums


async def test_a_body_that_is_not_what_was_said(store: Store, backend: Backend) -> None:
    if not backend.checks_digests:
        # Kept as it is: this is why an echoed checksum is never taken for a check.
        await store.put("wrong", b"body", sha256=digest(b"other"))
        assert await store.get("wrong", limit=9) == b"body"
        return
    with pytest.raises(StoreError, match="PutObject of 'wrong'"):
        await store.put("wrong", b"body", sha256=digest(b"other"))
    with pytest.raises(ObjectMissingError):
        await store.head("wrong")


async def test_a_folder_lies_beside_its_files(store: Store, backend: Backend) -> None:
    await store.put("asyncbackup.json", b"{}", sha256=digest(b"{}"))
    await store.put("docs/", b"", sha256=digest(b""), metadata={"mtime": "7.0"})
    await store.put("docs/report", b"r", sha256=digest(b"r"))
    await store.put("docs/sub/", b"", sha256=digest(b""))

    assert await store.get("docs/report", limit=9) == b"r"
    listed = [info.key async for page in store.list("docs/") for info in page]
    assert store.capabilities.keeps_folders == backend.keeps_folders
    if not backend.keeps_folders:
        assert listed == ["docs/report"]
        return
    assert sorted(listed) == ["docs/", "docs/report", "docs/sub/"]
    info = await store.head("docs/")
    assert info.size == 0
    assert info.metadata == ({"mtime": "7.0"} if backend.keeps_folder_metadata else {})
    assert await store.get("docs/", limit=0) == b""


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names(store: Store, name: str) -> None:
    body = name.encode()
    key = f"odd/{name}/{name}"

    await store.put(key, body, sha256=digest(body))

    assert await store.get(key, limit=999) == body
    assert (await store.head(key)).size == len(body)
    assert [info.key async for page in store.list("odd/") for info in page] == [key]
    await store.copy(key, f"odd/copy of {name}"[:200], metadata={})
    await store.delete([key, f"odd/copy of {name}"[:200]])
    assert [info.key async for page in store.list("odd/") for info in page] == []


async def test_names_that_look_alike_stay_apart(store: Store) -> None:
    names = ["e\u0301", "\u00e9", "E\u0301", "a+b", "a b", "a%20b", "a%2Bb"]
    for name in names:
        await store.put(f"alike/{name}", name.encode(), sha256=digest(name.encode()))

    for name in names:
        assert await store.get(f"alike/{name}", limit=99) == name.encode()
    listed = {info.key async for page in store.list("alike/") for info in page}
    assert listed == {f"alike/{name}" for name in names}


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, None), (1, None), (1000, 70_000), (99_999, 1), (99_999, None), (5, 0)]
)
async def test_ranges(store: Store, offset: int, length: int | None) -> None:
    body = pattern(100_000)
    await store.put("ranged", body, sha256=digest(body))

    async with store.open("ranged", offset=offset, length=length) as reader:
        assert reader.info.size == len(body)
        got = b"".join([chunk async for chunk in reader])

    assert got == (body[offset:] if length is None else body[offset : offset + length])


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, None), (77, None), (1000, 2_000_000), (2_999_999, None), (5, 0)]
)
@pytest.mark.parametrize("room", [1_000_000, 3_000_001])
async def test_reading_into_the_callers_memory(
    store: Store, offset: int, length: int | None, room: int
) -> None:
    body = pattern(3_000_000)
    await store.put("filled", body, sha256=digest(body))
    expected = body[offset:] if length is None else body[offset : offset + length]

    async with store.open("filled", offset=offset, length=length) as reader:
        got, buffer = bytearray(), memoryview(bytearray(room))
        while len(got) < len(expected):
            count = await reader.fill(buffer)
            assert count == min(room, len(expected) - len(got))
            got += buffer[:count]
        assert await reader.fill(buffer) == 0

    assert got == expected
    assert await store.get("filled", limit=len(body)) == body


@pytest.mark.parametrize(("offset", "length"), [(11, None), (11, 1), (0, 11), (5, 6)])
async def test_a_range_that_the_object_does_not_have(store: Store, offset: int, length: int | None) -> None:
    await store.put("short", b"0123456789", sha256=digest(b"0123456789"))

    async def read() -> bytes:
        async with store.open("short", offset=offset, length=length) as reader:
            return b"".join([chunk async for chunk in reader])

    with pytest.raises(StoreError, match="GetObject of 'short'"):
        await read()


async def test_reading_may_stop_in_the_middle(store: Store) -> None:
    body = pattern(3_000_000)
    await store.put("large", body, sha256=digest(body))

    for _ in range(6):  # More often than there are request slots.
        async with store.open("large") as reader:
            async for chunk in reader:
                assert chunk == body[: len(chunk)]
                break

    assert await store.get("large", limit=len(body)) == body


async def test_get_has_a_limit(store: Store) -> None:
    await store.put("ten", b"0123456789", sha256=digest(b"0123456789"))

    assert await store.get("ten", limit=10) == b"0123456789"
    with pytest.raises(StoreError, match="at most 9"):
        await store.get("ten", limit=9)


async def test_missing_objects(store: Store) -> None:
    with pytest.raises(ObjectMissingError, match="'not/there'"):
        await store.head("not/there")
    with pytest.raises(ObjectMissingError, match="'not/there'"):
        await store.get("not/there", limit=1)
    with pytest.raises(ObjectMissingError, match="'not/there'"):
        async with store.open("not/there", offset=1, length=1):
            pass
    with pytest.raises(ObjectMissingError):
        await store.copy("not/there", "copy", metadata={})
    await store.put("file", b"", sha256=digest(b""))
    with pytest.raises(ObjectMissingError):
        await store.head("file/below")


async def test_delete(store: Store) -> None:
    for key in ("a/1", "a/2", "a/3"):
        await store.put(key, b"x", sha256=digest(b"x"))

    await store.delete(["a/1", "a/3", "never/was"])
    await store.delete(["a/1"])
    await store.delete([])

    assert [info.key async for page in store.list("") for info in page] == ["a/2"]


async def test_copy_replaces_the_metadata(store: Store, backend: Backend) -> None:
    body = pattern(200_000)
    await store.put("source", body, sha256=digest(body), metadata={"old": "1", "mtime": "5.0"})

    await store.copy("source", "sub/target", metadata={"mtime": "6.0", "new": "2"})

    assert await store.get("sub/target", limit=len(body)) == body
    kept = {} if backend.copy_replaces_metadata else {"old": "1"}
    assert (await store.head("sub/target")).metadata == {"mtime": "6.0", "new": "2", **kept}
    assert (await store.head("source")).metadata == {"old": "1", "mtime": "5.0"}


async def test_if_absent(store: Store, backend: Backend) -> None:
    await store.put("once", b"first", sha256=digest(b"first"), if_absent=True)
    if backend.refuses_taken_keys:
        with pytest.raises(ObjectExistsError, match="'once'"):
            await store.put("once", b"other", sha256=digest(b"other"), if_absent=True)
        assert await store.get("once", limit=9) == b"first"
    else:
        await store.put("once", b"other", sha256=digest(b"other"), if_absent=True)
        assert await store.get("once", limit=9) == b"other"


async def test_requests_are_counted_by_operation(store: Store) -> None:
    before = store.requests.copy()
    await store.put("counted", b"x", sha256=digest(b"x"))
    await store.head("counted")
    await store.get("counted", limit=1)
    await store.delete(["counted"])

    counts = store.requests - before
    assert counts["PutObject"] == 1
    assert counts["HeadObject"] == 1
    assert counts["GetObject"] == 1
    assert counts["DeleteObjects"] + counts["DeleteObject"] == 1
    assert counts.total() == 4
