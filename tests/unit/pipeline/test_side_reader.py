"""Reading in the other process, which is a thread here (``tests/side.py``), gives what reading here gives."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.flow.side_calls import ANSWER, REQUEST
from asyncbackup.format.hidden import HiddenNames
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.model import Action, Extent
from asyncbackup.pipeline import attributes
from asyncbackup.pipeline.payload import PackItem, WholePayload
from asyncbackup.pipeline.reading_process import MEMORY_BYTES, SLOT_BYTES, SLOTS, serve_reads
from asyncbackup.pipeline.side_reader import open_side_reader
from asyncbackup.pipeline.small_reader import SmallReader
from tests.side import dying_side_thread, side_thread
from tests.unit.pipeline.readings import MIB, see, transfer_settings, upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.model import Change
    from asyncbackup.pipeline.small_reader import SmallResults

EXTENT = Extent(run="20260101T000000Z-0000", key="files/before", length=7)


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


@pytest.fixture
def process() -> Iterator[SideProcess]:
    with side_thread(serve_reads, memory_bytes=MEMORY_BYTES) as process:
        yield process


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "words").write_bytes(b"words and words " * 1000)
    (root / "folder" / "noise").write_bytes(os.urandom(5000))
    (root / "folder" / "large").write_bytes(b"over a quarter of a MiB " * 20_000)
    (root / "empty").touch()
    (root / "link").symlink_to("folder/words")
    (root / "grows").write_bytes(b"some")
    os.setxattr(root / "folder" / "words", b"user.kind", b"\x00prose")
    return root


def changes_of(tree: Path) -> list[Change]:
    paths = (b"folder", b"folder/words", b"folder/noise", b"folder/large", b"empty", b"link", b"grows")
    changes = [upload(see(tree, path)) for path in paths]
    with (tree / "grows").open("ab") as file:
        file.write(b" more")
    changes.append(upload(msgspec.structs.replace(see(tree, b"empty"), name=b"gone")))
    words = SmallReader(transfer_settings(tree).reading).read([changes[1]]).payloads[0]
    assert isinstance(words, WholePayload)
    known = msgspec.structs.replace(words.entry, extent=EXTENT)
    changes.append(upload(see(tree, b"folder/words"), action=Action.RECHECK, known=known))
    known = msgspec.structs.replace(known, mode=0o100600)
    changes.append(upload(see(tree, b"folder/words"), action=Action.RECHECK, known=known))
    changes.append(upload(see(tree, b"folder/words"), action=Action.METADATA, known=known))
    return changes


def alike(one: SmallResults, other: SmallResults) -> None:
    assert one.payloads == other.payloads
    assert one.items == other.items
    assert sorted(map(repr, one.outcomes)) == sorted(map(repr, other.outcomes))
    assert one.grown == other.grown


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("zstd_level", [0, 3])
@pytest.mark.parametrize("sealed", [False, True])
async def test_it_reads_what_is_read_here(
    tree: Path, process: SideProcess, packed: bool, zstd_level: int, sealed: bool
) -> None:
    settings = msgspec.structs.replace(
        transfer_settings(tree).reading,
        packed=packed,
        pack_below_bytes=MIB // 4,
        zstd_level=zstd_level,
        sealed=sealed,
    )
    changes = changes_of(tree)
    here = SmallReader(settings).read(changes)
    assert len(here.payloads) + len(here.items) + len(here.outcomes) + len(here.grown) == len(changes)
    async with open_side_reader(process, settings) as reader:
        assert reader is not None
        read = await reader.read(changes)
        assert read is not None
        alike(read[0], here)
        bodies = [body_of(one) for one in (*read[0].payloads, *read[0].items)]
        # Contents are where both sides see them, unless they were compressed, or are nothing.
        assert all(isinstance(body, memoryview) for body in bodies if len(body) and not zstd_level)
    assert not process.retired


def body_of(one: object) -> bytes | bytearray | memoryview:
    if isinstance(one, PackItem) and one.whole is not None:
        one = one.whole
    assert isinstance(one, WholePayload | PackItem)
    return one.body


async def test_a_content_stays_as_long_as_it_is_viewed(tree: Path, process: SideProcess) -> None:
    """More batches than there are slots, none of which is let go of: the last one is to be read here."""
    change = upload(see(tree, b"folder/noise"))
    content = (tree / "folder" / "noise").read_bytes()
    async with open_side_reader(process, transfer_settings(tree).reading) as reader:
        assert reader is not None
        read = [await reader.read([change]) for _ in range(SLOTS)]
        assert await reader.read([change]) is None
        assert all(one is not None and body_of(one[0].payloads[0]) == content for one in read)
        del read[0]
        assert await reader.read([change]) is not None


async def test_times_beyond_64_bits_are_read_here(tree: Path, process: SideProcess) -> None:
    change = upload(see(tree, b"empty"))
    far = msgspec.structs.replace(change, entry=msgspec.structs.replace(change.entry, mtime_ns=2**65))
    async with open_side_reader(process, transfer_settings(tree).reading) as reader:
        assert reader is not None
        assert await reader.read([far]) is None
        assert await reader.read([change]) is not None
    assert not process.retired


async def test_only_what_is_read_needs_room(tree: Path, process: SideProcess) -> None:
    seen = msgspec.structs.replace(see(tree, b"empty"), size=SLOT_BYTES)
    known = SmallReader(transfer_settings(tree).reading).read([upload(see(tree, b"empty"))]).payloads[0]
    assert isinstance(known, WholePayload)
    change = upload(seen, action=Action.METADATA, known=msgspec.structs.replace(known.entry, extent=EXTENT))
    async with open_side_reader(process, transfer_settings(tree).reading) as reader:
        assert reader is not None
        assert await reader.read([change]) is not None


async def test_what_has_no_room_is_read_here(tree: Path, process: SideProcess) -> None:
    change = upload(see(tree, b"empty"))
    large = msgspec.structs.replace(change, entry=msgspec.structs.replace(change.entry, size=SLOT_BYTES))
    async with open_side_reader(process, transfer_settings(tree).reading) as reader:
        assert reader is not None
        assert await reader.read([large]) is None
        assert await reader.read([change]) is not None


async def test_a_process_that_dies_leaves_the_batch_to_be_read_here(tree: Path) -> None:
    change = upload(see(tree, b"empty"))
    with dying_side_thread(serve_reads, memory_bytes=MEMORY_BYTES, after=1) as process:
        async with open_side_reader(process, transfer_settings(tree).reading) as reader:
            assert reader is not None
            assert await reader.read([change]) is not None
            assert await reader.read([change]) is None
            assert await reader.read([change]) is None


def test_what_is_no_request_is_answered_with_the_error(process: SideProcess) -> None:
    process.socket.sendall(REQUEST.pack(3) + b"???")
    length, answered = ANSWER.unpack(process.socket.recv(ANSWER.size, socket.MSG_WAITALL))
    assert not answered
    assert b"msgspec" in process.socket.recv(length, socket.MSG_WAITALL)


async def test_names_that_are_hidden_take_a_key_that_it_is_not_given(
    tree: Path, process: SideProcess
) -> None:
    hidden = HiddenNames(RepositoryKey(bytes(32)))
    settings = msgspec.structs.replace(transfer_settings(tree).reading, hidden=hidden)
    async with open_side_reader(process, settings) as reader:
        assert reader is None


async def test_without_a_process_there_is_no_reader(tree: Path) -> None:
    async with open_side_reader(None, transfer_settings(tree).reading) as reader:
        assert reader is None
