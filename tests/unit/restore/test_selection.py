"""The stored selection: what it keeps, who may open it, what is discarded."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from asyncbackup.catalog.selection import (
    PAGE_ROWS,
    Candidate,
    Role,
    SelectedEntry,
    Selection,
    SelectionTotals,
    State,
)
from asyncbackup.errors import FormatError, SectionBusyError
from asyncbackup.model import Entry, Extent, split_path
from tests.unit.restore.backup import file_entry, folder_entry, symlink_entry

IDENTITY = {"section": "home", "snapshot": "S"}
ALL_ROLES = tuple(Role)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/restores/home-x.sqlite3"


async def rows_of(
    selection: Selection, roles: Sequence[Role] = ALL_ROLES, *, reverse: bool = False
) -> list[SelectedEntry]:
    return [row async for page in selection.pages(roles, reverse=reverse) for row in page]


async def fill(selection: Selection, *entries: Entry) -> None:
    await selection.add(Candidate(entry=entry, selected=True) for entry in entries)
    await selection.seal(filtered=False)


async def test_entries_come_back_in_order_with_all_their_fields(path: Path) -> None:
    entries = [
        folder_entry(""),
        file_entry("a", size=3, sha256=b"s" * 32, xattrs=((b"user.x", b"\0\xff"),), sparse=True),
        file_entry("b", mtime_ns=2**63),
        symlink_entry("l", "target"),
    ]
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        assert not selection.complete
        await fill(selection, *entries)
        rows = await rows_of(selection)
        assert [row.entry for row in rows] == entries
        assert [row.role for row in rows] == [Role.FOLDER, Role.FILE, Role.FILE, Role.SYMLINK]
        assert {row.state for row in rows} == {State.TODO}
        assert [row.entry for row in await rows_of(selection, reverse=True)] == entries[::-1]
        assert await selection.totals() == SelectionTotals(files=2, folders=1, symlinks=1, bytes_total=3)


async def test_many_rows_come_in_pages_and_may_be_marked_meanwhile(path: Path) -> None:
    count = 2 * PAGE_ROWS + 3
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, *(file_entry(f"{number:06}") for number in range(count)))
        seen = 0
        async for page in selection.pages((Role.FILE,), states=(State.TODO,)):
            assert len(page) <= PAGE_ROWS
            seen += len(page)
            await selection.mark([(row.id, State.DONE) for row in page])
        assert seen == count
        assert not [page async for page in selection.pages((Role.FILE,), states=(State.TODO,))]


async def test_pages_of_long_paths_are_short(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, *(file_entry(f"{'d' * 50_000}/{number:06}") for number in range(PAGE_ROWS * 2)))
        pages = [len(page) async for page in selection.pages((Role.FILE,))]
        assert sum(pages) == PAGE_ROWS * 2
        assert max(pages[1:]) <= 22


def packed_entry(path: str, place: int, *, pack: str = "packs/000001.tar", size: int = 5) -> Entry:
    run = "20260921T141320Z-da77"
    return file_entry(path, size=size, extent=Extent(run=run, key=pack, offset=place, length=size))


async def test_files_in_packs_come_in_the_order_of_the_packs(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(
            selection,
            folder_entry("", extent=Extent(run="20260921T141320Z-da77", key="packs/000001.tar", length=0)),
            packed_entry("a", 2048),
            packed_entry("b", 512, pack="packs/000002.tar"),
            packed_entry("c", 512),
            packed_entry("empty", 0, size=0),
            file_entry("own", size=5),
            packed_entry("z", 2048),
        )
        pages = [[row.entry.path for row in page] async for page in selection.packed_pages()]
        assert pages == [[b"c", b"a", b"z", b"b"]]
        others = [row async for page in selection.pages(ALL_ROLES, packed=False) for row in page]
        assert [row.entry.path for row in others] == [b"", b"empty", b"own"]
        packed = [row async for page in selection.pages(ALL_ROLES, packed=True) for row in page]
        assert [row.entry.path for row in packed] == [b"a", b"b", b"c", b"z"]


async def test_copies_of_one_content_come_in_pages_too(path: Path) -> None:
    count = 2 * PAGE_ROWS + 3
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, *(packed_entry(f"{number:06}", 512 * (number % 2)) for number in range(count)))
        seen: list[SelectedEntry] = []
        async for page in selection.packed_pages():
            assert len(page) <= PAGE_ROWS
            seen += page
            await selection.mark([(row.id, State.DONE) for row in page])
        assert len({row.id for row in seen}) == count
        places = [(row.entry.extent.offset, row.id) for row in seen if row.entry.extent is not None]
        assert places == sorted(places)


async def test_further_names_come_from_packs_only_once_they_carry_the_content(path: Path) -> None:
    first, second = packed_entry("a", 512), packed_entry("b", 512)
    linked = [msgspec.structs.replace(entry, hardlink="1") for entry in (first, second)]
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, *linked)
        assert [row.id async for page in selection.packed_pages() for row in page] == [1]
        await selection.promote((await selection.rows([2]))[2], adopt=True)
        assert [row.id async for page in selection.packed_pages() for row in page] == [1, 2]


async def test_going_on_finds_what_was_marked(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="one") as selection:
        names = ("a", "b", "c", "d")
        await fill(selection, folder_entry(""), *map(file_entry, names))
        await selection.mark([(1, State.DONE), (2, State.DONE), (3, State.FAILED), (4, State.SKIPPED)])
    async with Selection.open(path, IDENTITY, boot="one") as selection:
        assert selection.complete
        await selection.begin_again(boot="one")
        states = [row.state for row in await rows_of(selection)]
        assert states == [State.MADE, State.DONE, State.TODO, State.SKIPPED, State.TODO]


@pytest.mark.parametrize(("first", "second"), [("one", "two"), ("", ""), ("one", "")])
async def test_after_a_reboot_what_was_done_is_unsure(path: Path, first: str, second: str) -> None:
    async with Selection.open(path, IDENTITY, boot=first) as selection:
        await fill(selection, file_entry("a"))
        await selection.mark([(1, State.DONE)])
    for _ in range(2):  # also if this restore is interrupted before it has looked
        async with Selection.open(path, IDENTITY, boot=second) as selection:
            await selection.begin_again(boot=second)
            assert [row.state for row in await rows_of(selection)] == [State.UNSURE]


async def test_a_selection_that_was_not_finished_is_made_anew(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await selection.add([Candidate(entry=file_entry("a"), selected=True)])
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        assert not selection.complete
        assert await rows_of(selection) == []


@pytest.mark.parametrize("harm", ["identity", "garbage", "header", "table"])
async def test_what_cannot_be_gone_on_with_is_made_anew(path: Path, harm: str) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, file_entry("a"))
    identity = IDENTITY
    if harm == "identity":
        identity = {"section": "other"}
    elif harm == "garbage":
        path.write_bytes(b"no database at all" * 1000)
    elif harm == "header":
        content = path.read_bytes()
        path.write_bytes(content[:16] + b"\xff" * 84 + content[100:])
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE meta")
        connection.close()
    async with Selection.open(path, identity, boot="b") as selection:
        assert not selection.complete
        await fill(selection, file_entry("b"))
        assert [row.entry.path for row in await rows_of(selection)] == [b"b"]


async def test_only_one_restore_holds_it(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, file_entry("a"))
        with pytest.raises(SectionBusyError, match="same arguments is under way"):
            async with Selection.open(path, IDENTITY, boot="b"):
                pass
        assert [row.entry.path for row in await rows_of(selection)] == [b"a"]


async def test_it_is_private_and_leaves_nothing_when_discarded(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, file_entry("a"))
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        selection.discard()
    assert list(path.parent.iterdir()) == []


async def test_one_name_of_a_hard_link_carries_the_content(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(
            selection,
            file_entry("a", hardlink="1"),
            file_entry("b", hardlink="2", size=5),
            file_entry("c", hardlink="1"),
            file_entry("d", hardlink="1"),
        )
        links = [(row.role, row.leader) for row in await rows_of(selection)]
        assert links == [(Role.FILE, None), (Role.FILE, None), (Role.LINK, 1), (Role.LINK, 1)]
        assert await selection.totals() == SelectionTotals(files=4, hardlinks=2, bytes_total=5)
        third = (await selection.rows([3]))[3]
        await selection.promote(third, adopt=True)
        links = [(row.role, row.leader) for row in await rows_of(selection)]
        assert links == [(Role.FILE, None), (Role.FILE, None), (Role.FILE, None), (Role.LINK, 3)]


async def test_folders_stay_if_they_lead_to_something(path: Path) -> None:
    def candidate(entry: Entry, *, selected: bool) -> Candidate:
        parent = split_path(entry.path)[0] if entry.path else None
        return Candidate(entry=entry, selected=selected, own_place=entry.path, parent_place=parent)

    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await selection.add(
            [
                candidate(folder_entry(""), selected=False),
                candidate(folder_entry("a"), selected=False),
                candidate(folder_entry("b"), selected=False),
                candidate(folder_entry("a/deep"), selected=False),
                candidate(folder_entry("a/other"), selected=False),
                candidate(file_entry("a/deep/f"), selected=True),
            ]
        )
        await selection.seal(filtered=True)
        rows = await rows_of(selection)
        assert [(row.entry.path, row.implied) for row in rows] == [
            (b"", True),
            (b"a", True),
            (b"a/deep", True),
            (b"a/deep/f", False),
        ]
        assert (await selection.totals()).folders == 0


@pytest.mark.parametrize("fields", [{"size": 2**70}, {"hardlink": "\udcff"}])
async def test_values_that_no_file_system_has_are_a_damaged_manifest(
    path: Path, fields: dict[str, int]
) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        with pytest.raises(FormatError, match="no file system has"):
            await selection.add([Candidate(entry=file_entry("a", **fields), selected=True)])


async def test_owner_names_of_any_bytes_do_not_matter(path: Path) -> None:
    async with Selection.open(path, IDENTITY, boot="b") as selection:
        await fill(selection, file_entry("a", owner="\udcff", group="\udcfe"))
        assert [row.entry.owner for row in await rows_of(selection)] == [""]
