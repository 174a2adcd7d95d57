"""Comparing snapshots and searching all of them, against what their entries say one by one."""

from __future__ import annotations

import random
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import FormatError, ObjectMissingError
from asyncbackup.format.keys import snapshot_key
from asyncbackup.format.manifest import MAX_DEPTH, Deleted, ManifestTrailer
from asyncbackup.model import Entry, Extent, Kind, RunId, split_path
from asyncbackup.repository.compare import compare_snapshots
from asyncbackup.repository.difference import Change, Difference, difference_of
from asyncbackup.repository.glob import compile_glob
from asyncbackup.repository.manifest_upload import ManifestUpload
from asyncbackup.repository.search import Found, find_versions
from tests.pipeline.repository_fixtures import header_of, repository_at, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from asyncbackup.format.manifest import TreeItem
    from asyncbackup.repository.open import Repository

Tree = dict[bytes, Entry]
RUNS = [RunId(f"202611{day:02}T080000Z-aaaa") for day in range(1, 21)]
EVERYTHING = compile_glob("*")


@asynccontextmanager
async def repository_in(tmp_path: Path, *, encrypted: bool = False) -> AsyncIterator[Repository]:
    (tmp_path / "store").mkdir()
    settings, section = settings_for(tmp_path, f"file://{tmp_path}/store", encrypted=encrypted)
    async with repository_at(settings, section) as repository:
        yield repository


def file(path: bytes, content: int, *, mode: int = 0o100644, mtime_ns: int = 5, run: str = RUNS[0]) -> Entry:
    return Entry(
        path=path,
        kind=Kind.FILE,
        mode=mode,
        size=content % 7,
        mtime_ns=mtime_ns,
        sha256=content.to_bytes(32, "big"),
        extent=Extent(run=run, key="files/x", length=content % 7),
    )


def folder(path: bytes, *, mtime_ns: int = 5, mode: int = 0o040755) -> Entry:
    return Entry(path=path, kind=Kind.FOLDER, mode=mode, mtime_ns=mtime_ns)


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o120777, size=len(target), target=target)


async def write(
    repository: Repository, run: RunId, tree: Tree, *, base: RunId | None = None, of: Tree | None = None
) -> None:
    """The manifest of a snapshot, in full or as a difference to the snapshot ``base``, which holds ``of``."""
    items: list[TreeItem] = list(tree.values())
    if of is not None:
        items = [entry for path, entry in tree.items() if of.get(path) != entry]
        items += [Deleted(path) for path in of.keys() - tree.keys()]
    items.sort(key=lambda item: split_path(item.path))
    depth = 0 if base is None else RUNS.index(run) + 1
    header = msgspec.structs.replace(header_of(repository, run), base=base, depth=depth)
    kinds = [entry.kind for entry in tree.values()]
    async with ManifestUpload(repository, header) as upload:
        await upload.add(items)
        await upload.commit(
            ManifestTrailer(
                finished_ns=1,
                files=kinds.count(Kind.FILE),
                folders=kinds.count(Kind.FOLDER),
                symlinks=kinds.count(Kind.SYMLINK),
                bytes=sum(entry.size for entry in tree.values() if entry.kind is Kind.FILE),
            )
        )


async def random_history(repository: Repository, seed: int) -> dict[RunId, Tree]:
    """Snapshots that rest on each other in no particular way."""
    chance = random.Random(seed)
    names = [b"%s%d" % (prefix, n) for prefix in (b"", b"a/", b"a/b/", b"a-b/") for n in range(6)]
    trees: dict[RunId, Tree] = {}
    tree: Tree = {path: folder(path) for path in (b"", b"a", b"a/b", b"a-b")}
    for run in RUNS:
        tree = dict(tree)
        for path in chance.sample(names, 5):
            match chance.randrange(5):
                case 0:
                    tree.pop(path, None)
                case 1:
                    tree[path] = link(path, b"%d" % chance.randrange(2))
                case 2:
                    tree[path] = folder(path, mtime_ns=chance.randrange(3))
                case _:
                    tree[path] = file(path, chance.randrange(3), mode=chance.choice((0o100644, 0o100600)))
        base = chance.choice([None, *trees]) if trees else None
        await write(repository, run, tree, base=base, of=None if base is None else trees[base])
        trees[run] = tree
    return trees


async def differences(repository: Repository, before: str, after: str) -> list[Difference]:
    async with aclosing(compare_snapshots(repository, before, after)) as batches:
        return [each async for batch in batches for each in batch]


async def found(
    repository: Repository, snapshots: list[RunId], tmp_path: Path, pattern: str = "*"
) -> list[Found]:
    versions = find_versions(
        repository, snapshots, compile_glob(pattern), scratch_folder=tmp_path / "state", concurrency=4
    )
    async with aclosing(versions) as batches:
        return [each async for batch in batches for each in batch]


def paths_of(items: Iterable[Difference] | Iterable[Found]) -> list[bytes]:
    return [item.path for item in items]


@pytest.mark.parametrize("seed", range(4))
async def test_comparing_any_two_snapshots(tmp_path: Path, seed: int) -> None:
    async with repository_in(tmp_path) as repository:
        trees = await random_history(repository, seed)
        chance = random.Random(seed)
        for _ in range(12):
            before, after = chance.choice(RUNS), chance.choice(RUNS)
            paths = sorted(trees[before].keys() | trees[after].keys(), key=split_path)
            compared = (difference_of(trees[before].get(path), trees[after].get(path)) for path in paths)
            assert await differences(repository, before, after) == [each for each in compared if each]


async def test_what_two_snapshots_rest_on_is_read_once(tmp_path: Path) -> None:
    async with repository_in(tmp_path) as repository:
        tree = {b"f%02d" % number: file(b"f%02d" % number, 1) for number in range(50)}
        trees = [tree | {b"f00": file(b"f00", content)} for content in (1, 2, 3, 4)]
        bases = (None, RUNS[0], RUNS[1], RUNS[0])
        for run, each, base in zip(RUNS, trees, bases, strict=False):
            of = None if base is None else trees[RUNS.index(base)]
            await write(repository, run, each, base=base, of=of)
        sent = repository.store.requests.copy()
        (changed,) = await differences(repository, RUNS[2], RUNS[3])
        assert (changed.before, changed.after) == (trees[2][b"f00"], trees[3][b"f00"])
        sent = repository.store.requests - sent
        # The headers of 2, 1, 0 and of 3, 0, then the lines of 2, 1 and 3, and of 0 once.
        assert sent["GetObject"] == 9


async def test_a_chain_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async with repository_in(tmp_path) as repository:
        runs = [RunId(f"20261201T08{n // 60:02}{n % 60:02}Z-aaaa") for n in range(MAX_DEPTH + 3)]
        await write(repository, runs[0], {})
        for base, run in pairwise(runs):
            header = msgspec.structs.replace(header_of(repository, run), base=base, depth=MAX_DEPTH)
            async with ManifestUpload(repository, header) as upload:
                await upload.commit(ManifestTrailer(finished_ns=1))
        with pytest.raises(FormatError, match="more than 32 others"):
            await differences(repository, runs[-1], runs[0])


@pytest.mark.parametrize("seed", range(4))
async def test_searching_all_snapshots_or_some(tmp_path: Path, seed: int) -> None:
    async with repository_in(tmp_path, encrypted=seed == 0) as repository:
        trees = await random_history(repository, seed)
        for snapshots in (RUNS, RUNS[7:], RUNS[3::4], [RUNS[-1]]):
            holding: dict[tuple[bytes, object], list[RunId]] = {}
            for run in snapshots:
                for path, entry in trees[run].items():
                    if path:
                        times = () if entry.kind is Kind.FOLDER else (entry.size, entry.mtime_ns)
                        version = (entry.kind, entry.mode, entry.sha256, entry.target, times)
                        holding.setdefault((path, version), []).append(run)
            wanted = [(path, runs[0], runs[-1], len(runs)) for (path, _), runs in holding.items()]
            versions = await found(repository, snapshots, tmp_path)
            assert sorted(wanted) == sorted((v.path, v.first, v.last, v.snapshots) for v in versions)
            assert paths_of(versions) == sorted(paths_of(versions), key=split_path)
            for each in versions:
                entry = trees[each.first][each.path]
                assert (each.version.kind, each.version.mode) == (entry.kind, entry.mode)
                if entry.kind is not Kind.FOLDER:
                    assert (each.version.size, int(each.version.mtime)) == (entry.size, entry.mtime_ns)


async def test_each_manifest_is_read_once(tmp_path: Path) -> None:
    async with repository_in(tmp_path) as repository:
        await random_history(repository, 5)
        before = repository.store.requests.copy()
        await found(repository, RUNS, tmp_path)
        sent = repository.store.requests - before
        assert sent["GetObject"] == len(RUNS)
        assert set(sent) == {"GetObject", "ListObjectsV2"}


async def test_only_what_matches_is_found(tmp_path: Path) -> None:
    async with repository_in(tmp_path) as repository:
        tree = {b"": folder(b""), b"a": folder(b"a"), b"a/x.pdf": file(b"a/x.pdf", 1), b"x": file(b"x", 2)}
        await write(repository, RUNS[0], tree)
        assert paths_of(await found(repository, RUNS[:1], tmp_path, "*.pdf")) == [b"a/x.pdf"]
        assert await found(repository, RUNS[:1], tmp_path, "nothing") == []
        assert await found(repository, [], tmp_path) == []
        assert list((tmp_path / "state").iterdir()) == []


async def test_a_time_beyond_64_bits_is_found_as_it_is(tmp_path: Path) -> None:
    async with repository_in(tmp_path) as repository:
        entry = file(b"x", 1, mtime_ns=10**20)
        await write(repository, RUNS[0], {b"x": entry})
        (version,) = await found(repository, RUNS[:1], tmp_path)
        assert int(version.version.mtime) == 10**20


async def test_a_base_that_is_gone_is_an_error(tmp_path: Path) -> None:
    async with repository_in(tmp_path) as repository:
        tree = {b"x": file(b"x", 1)}
        await write(repository, RUNS[0], tree)
        await write(repository, RUNS[1], tree, base=RUNS[0], of=tree)
        (tmp_path / "store" / snapshot_key("home", RUNS[0])).unlink()
        with pytest.raises(ObjectMissingError, match=RUNS[0]):
            await found(repository, RUNS[1:2], tmp_path)


BEFORE = file(b"x", 1)


@pytest.mark.parametrize(
    ("after", "change", "fields"),
    [
        (file(b"x", 2), Change.CONTENT, ("size", "content")),
        (file(b"x", 8), Change.CONTENT, ("content",)),
        (file(b"x", 8, mode=0o100600, mtime_ns=6), Change.CONTENT, ("content", "mode", "mtime")),
        (file(b"x", 1, mode=0o100600), Change.METADATA, ("mode",)),
        (file(b"x", 1, mtime_ns=6), Change.METADATA, ("mtime",)),
        (msgspec.structs.replace(BEFORE, uid=7, gid=8), Change.METADATA, ("uid", "gid")),
        (msgspec.structs.replace(BEFORE, owner="a", group="b"), Change.METADATA, ("owner", "group")),
        (msgspec.structs.replace(BEFORE, xattrs=((b"a", b"1"),)), Change.METADATA, ("xattrs",)),
        (msgspec.structs.replace(BEFORE, hardlink="1:2", nlink=2), Change.METADATA, ("links",)),
        (folder(b"x"), Change.TYPE, ("type",)),
        (link(b"x", b"y"), Change.TYPE, ("type",)),
    ],
)
def test_what_differs_of_a_file(after: Entry, change: Change, fields: tuple[str, ...]) -> None:
    assert difference_of(BEFORE, after) == Difference(
        path=b"x", change=change, before=BEFORE, after=after, fields=fields
    )


def test_what_differs_of_others() -> None:
    assert difference_of(folder(b"d"), folder(b"d", mtime_ns=9)) is None
    changed = difference_of(folder(b"d"), folder(b"d", mode=0o040700))
    assert changed is not None
    assert (changed.change, changed.fields) == (Change.METADATA, ("mode",))
    changed = difference_of(link(b"l", b"1"), link(b"l", b"2"))
    assert changed is not None
    assert (changed.change, changed.fields) == (Change.CONTENT, ("target",))


@pytest.mark.parametrize(
    "after", [file(b"x", 1, run=RUNS[1]), msgspec.structs.replace(BEFORE, ctime_ns=9, nlink=2)]
)
def test_where_a_content_lies_is_no_difference(after: Entry) -> None:
    assert difference_of(BEFORE, after) is None


def test_without_digests_the_place_tells() -> None:
    before, after = (
        msgspec.structs.replace(file(b"x", 1, run=run), sha256=b"") for run in (RUNS[0], RUNS[1])
    )
    changed = difference_of(before, after)
    assert changed is not None
    assert changed.change is Change.CONTENT
    assert difference_of(before, before) is None
