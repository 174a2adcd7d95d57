"""Rebuilding from objects that are compressed, or whose names are hidden."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

import msgspec
import pytest
import zstandard

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.errors import KeyUnlockError
from asyncbackup.format.envelope import UNKNOWN_SIZE, Sealer
from asyncbackup.format.keys import run_prefix
from asyncbackup.format.metadata import encode_metadata
from asyncbackup.model import EMPTY_SHA256, Entry, Extent, Kind, RunId
from asyncbackup.rebuild.section import rebuild_section
from tests.pipeline.repository_fixtures import FIRST, SECOND, repository_at, settings_for
from tests.unit.catalog.entries import in_order

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.rebuild.summary import RebuildSummary
    from asyncbackup.repository.open import Repository

Case = tuple["Settings", "SectionSettings"]
MTIME_NS = 1_700_000_000_123_456_789
CONTENT = b"a content that shrinks " * 5000


def on_files(tmp_path: Path, *, encrypted: bool) -> Case:
    (tmp_path / "store").mkdir(exist_ok=True)
    return settings_for(tmp_path, f"file://{tmp_path}/store", encrypted=encrypted)


def file(path: bytes, content: bytes = b"", **fields: Any) -> Entry:
    values: dict[str, Any] = {
        "path": path,
        "kind": Kind.FILE,
        "mode": 0o100640,
        "size": len(content),
        "mtime_ns": MTIME_NS,
        "ctime_ns": MTIME_NS + 1,
        "uid": 1000,
        "gid": 100,
        "nlink": 1,
        "owner": "müller",
    }
    return Entry(**(values | fields))


def sealed(repository: Repository, key: str, content: bytes) -> bytes:
    assert repository.key is not None
    sealer = Sealer(
        repository.key,
        repository=repository.repository_id,
        section=repository.section,
        object_key=key,
        size=UNKNOWN_SIZE,
    )
    return sealer.start() + bytes(sealer.update(content)) + sealer.finalize()


async def put(repository: Repository, key: str, body: bytes, metadata: dict[str, str] | None = None) -> None:
    await repository.store.put(key, body, sha256=hashlib.sha256(body).digest(), metadata=metadata)


async def put_hidden(
    repository: Repository,
    name: str,
    entry: Entry,
    content: bytes = b"",
    *,
    run: RunId = FIRST,
    compressed: bool = False,
    first_path: bytes = b"",
    head: bytes | None = None,
) -> Extent:
    """An object with a hidden name; where its content lies."""
    key = f"hidden/{hashlib.sha256(name.encode()).hexdigest()}"
    if head is None:
        metadata = encode_metadata(
            entry,
            original_size=entry.size if entry.kind is Kind.FILE else None,
            long_path=True,
            first_path=first_path,
            compression="zstd" if compressed else "",
        )
        # Without the limit that metadata have.
        metadata |= {"asyncbackup-path": quote_from_bytes(entry.path), "asyncbackup-omitted": ""}
        head = msgspec.json.encode(metadata)
    plain = len(head).to_bytes(4) + head + content
    if compressed:
        plain = zstandard.ZstdCompressor().compress(plain)
    full_key = run_prefix("home", run) + key
    body = sealed(repository, full_key, plain)
    await put(repository, full_key, body)
    return Extent(
        run,
        key,
        len(body),
        encrypted=True,
        compression="zstd" if compressed else "",
        skip=4 + len(head),
    )


async def rebuilt(case: Case) -> tuple[RebuildSummary, dict[bytes, Entry]]:
    """The summary, and what the database says, without the checksums that only some endpoints keep."""
    settings, section = case
    summary = await rebuild_section(settings, section, from_objects=True)
    async with Catalog.open(
        settings.database_path("home"), section="home", destination=section.destination
    ) as catalog:
        found = {entry.path: entry async for page in in_order(catalog) for entry in page}
    for path, entry in found.items():
        if entry.extent is not None:
            extent = msgspec.structs.replace(entry.extent, checksum="")
            found[path] = msgspec.structs.replace(entry, extent=extent)
    return summary, found


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_a_compressed_object_tells_how_it_is_stored(tmp_path: Path, encrypted: bool) -> None:
    case = on_files(tmp_path, encrypted=encrypted)
    entry = file(b"a", CONTENT, sha256=hashlib.sha256(CONTENT).digest())
    async with repository_at(*case) as repository:
        key = run_prefix("home", FIRST) + "files/a"
        body = zstandard.ZstdCompressor().compress(CONTENT)
        body = sealed(repository, key, body) if encrypted else body
        metadata = encode_metadata(
            entry, original_size=entry.size if encrypted else None, long_path=False, compression="zstd"
        )
        await put(repository, key, body, metadata)
    _, found = await rebuilt(case)
    extent = Extent(FIRST, "files/a", len(body), encrypted=encrypted, compression="zstd")
    wanted = msgspec.structs.replace(entry, sha256=b"" if encrypted else entry.sha256, extent=extent)
    assert found[b"a"] == wanted


async def test_the_checksum_of_compressed_bytes_is_no_digest_of_the_content(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=False)
    entry = file(b"a", CONTENT)
    async with repository_at(*case) as repository:
        metadata = encode_metadata(entry, original_size=None, long_path=False, compression="zstd")
        body = zstandard.ZstdCompressor().compress(CONTENT)
        await put(repository, run_prefix("home", FIRST) + "files/a", body, metadata)
    _, found = await rebuilt(case)
    assert found[b"a"].sha256 == b""


async def test_hidden_objects_say_themselves_what_they_are(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=True)
    long = b"/".join([b"n" * 200] * 10)
    folder = file(b"d", kind=Kind.FOLDER, mode=0o040750, nlink=0)
    link = file(b"l", kind=Kind.SYMLINK, mode=0o120777, size=4, target=b"d/\xffx")
    wide = file(b"wide", b"w", xattrs=((b"user.big", os.urandom(50_000)),))
    async with repository_at(*case) as repository:
        wanted = {}
        for entry, content, compressed in (
            (file(b"d/a", b"content"), b"content", False),
            (file(b"d/\xff\n", b""), b"", False),
            (file(b"packed down", CONTENT), CONTENT, True),
            (file(long, b"long"), b"long", False),
            (folder, b"", False),
            (link, b"", True),
        ):
            name = entry.path.hex()
            extent = await put_hidden(repository, name, entry, content, compressed=compressed)
            wanted[entry.path] = msgspec.structs.replace(entry, extent=extent)
        # A head beyond what is read at first.
        metadata = encode_metadata(wide, original_size=1, long_path=True) | {
            "asyncbackup-xattr": "user.big:" + "AbCd" * 20_000,
            "asyncbackup-omitted": "",
        }
        await put_hidden(repository, "wide", wide, b"w", head=msgspec.json.encode(metadata))
    summary, found = await rebuilt(case)
    assert summary.unrecovered == ()
    assert found[b"wide"].xattrs[0][0] == b"user.big"
    assert len(found.pop(b"wide").xattrs[0][1]) == 60_000
    assert {path: found[path] for path in wanted} == wanted


async def test_of_hidden_versions_the_newest_counts_and_names_share(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=True)
    async with repository_at(*case) as repository:
        early = await put_hidden(repository, "a1", file(b"a", b"early"), b"early")
        late = await put_hidden(repository, "a2", file(b"a", b"later."), b"later.", run=SECOND)
        name = file(b"b", b"early")
        await put_hidden(repository, "b1", name, first_path=b"a")
    _, found = await rebuilt(case)
    assert (found[b"a"].extent, found[b"b"].extent) == (late, early)
    assert found[b"b"].size == 5


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "no object of names"),
        (b"[]", "no object of names"),
        (b"{" * 5000, "no object of names"),
        (b'{"mode":"100644"}', "of which path"),
        (b'{"mode":"100644","asyncbackup-path":"../up"}', "not a path"),
        (b'{"mode":"100644","asyncbackup-path":"a","asyncbackup-size":"8"}', "its head says 8"),
        (b'{"mode":"100644","asyncbackup-path":"a","asyncbackup-size":"-1"}', "not a size"),
        (b'{"mode":"160644","asyncbackup-path":"a"}', "neither a file"),
        (b'{"mode":"100644","asyncbackup-path":"%s"}' % (b"a" * 400_000), "has room for"),
    ],
)
async def test_a_head_that_cannot_be_is_named(tmp_path: Path, head: bytes, reason: str) -> None:
    case = on_files(tmp_path, encrypted=True)
    async with repository_at(*case) as repository:
        await put_hidden(repository, "good", file(b"good", b"1"), b"1")
        await put_hidden(repository, "bad", file(b"a"), b"content", head=head)
    summary, found = await rebuilt(case)
    assert found.keys() == {b"", b"good"}
    assert [reason in each.reason for each in summary.unrecovered] == [True], summary.unrecovered


async def test_hidden_objects_that_hold_something_else_are_named(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=True)
    async with repository_at(*case) as repository:
        await put_hidden(repository, "good", file(b"good", b"1"), b"1")

        async def put_sealed(name: str, plain: bytes) -> None:
            key = f"{run_prefix('home', FIRST)}hidden/{name * 64}"
            await put(repository, key, sealed(repository, key, plain))

        await put_sealed("1", b"")
        await put_sealed("2", b"\0\0\1\0too short")
        await put_sealed("3", b"\xff\xff\xff\xff" + bytes(100))
        await put_sealed("4", zstandard.ZstdCompressor().compress(b"\x7f" + bytes(50_000_000)))
        await put_sealed("5", b"\x28\xb5\x2f\xfd" + b"\xff" * 50)
        prefix = f"{run_prefix('home', FIRST)}hidden/"
        await put(repository, prefix + "6" * 64, b"plain")
        await put(repository, prefix + "7" * 64, b"plain, and long enough to be sealed" * 10)
    summary, found = await rebuilt(case)
    assert found.keys() == {b"", b"good"}
    assert {each.key[-1] for each in summary.unrecovered} == set("1234567")


async def test_hidden_objects_need_the_secret(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=True)
    async with repository_at(*case) as repository:
        await put_hidden(repository, "a", file(b"a", b"1"), b"1")
    with pytest.raises(KeyUnlockError, match=r"in sections\.home\.encryption"):
        await rebuilt(on_files(tmp_path, encrypted=False))


async def test_what_is_no_key_of_ours_is_named(tmp_path: Path) -> None:
    case = on_files(tmp_path, encrypted=False)
    async with repository_at(*case) as repository:
        prefix = run_prefix("home", FIRST)
        await repository.store.put(prefix + "files/a", b"", sha256=EMPTY_SHA256)
        for key in ("packs/1.tar", "packs/000001.tar.gz", "hidden/abc"):
            await repository.store.put(prefix + key, b"", sha256=EMPTY_SHA256)
    summary, found = await rebuilt(case)
    assert found.keys() == {b"", b"a"}
    strange = [each for each in summary.unrecovered if "no object of a run" in each.reason]
    assert len(strange) == 3
