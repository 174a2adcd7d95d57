"""(d) Objects that are small and expand without end: stopped early, in a process whose memory is measured."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from asyncbackup.format.keys import DESCRIPTOR_KEY, run_prefix, snapshot_key
from asyncbackup.model import Extent
from tests.battery.bombs import GIB, compressed, deep, zeros
from tests.battery.limited import MIB, Ended, limited
from tests.battery.selection import FULL, selected
from tests.battery.tars import END, member, records
from tests.pipeline.test_restore_hostile import file_line, folder_line
from tests.unit.restore.backup import FIRST_RUN_NS, SECTION, Backup, file_entry, folder_entry

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.model import RunId
    from tests.battery.score import Score

PEAK_BYTES = 128 * MIB
"""Of the whole process: 62 MiB are the program, 16 MiB its ``memory_limit``, 24 MiB the largest frame and
window of zstd; an honest restore of this size peaks at 73 MiB."""
ENTRIES = 10_000_000 if FULL else 50_000
HUGE = 100 * GIB


class Bombed:
    """A plain repository that holds one sound snapshot and one bomb."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.backup = Backup(base)
        asyncio.run(self.backup.create())
        (self.backup.source / "good").write_bytes(b"content")
        self.sound = asyncio.run(self.backup.save_tree())
        self.run: RunId = self.backup.next_run()
        self.config = base / "asyncbackup.toml"
        self.config.write_text(
            f'state_dir = "{base}/state"\nmemory_limit = "16 MiB"\n[sections.{SECTION}]\n'
            f'path = "{base}/source"\ndestination = "{self.backup.section.destination}"\n'
        )

    def put(self, key: str, body: bytes) -> None:
        path = self.backup.destination / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def put_data(self, key: str, body: bytes) -> None:
        """An object below the run's folder."""
        self.put(run_prefix(SECTION, self.run) + key, body)

    def put_manifest(self, body: bytes) -> None:
        self.put(snapshot_key(SECTION, self.run), body)

    def header(self) -> bytes:
        """The first line of a manifest."""
        repository = msgspec.json.decode((self.backup.destination / DESCRIPTOR_KEY).read_bytes())[
            "repository"
        ]
        return msgspec.json.encode(
            {
                "type": "manifest", "format": 1, "snapshot": self.run, "section": SECTION,
                "repository": repository, "started": FIRST_RUN_NS, "host": "", "source": "", "software": "",
            }
        ) + b"\n"  # fmt: skip

    def command(self, *arguments: str) -> Ended:
        """A command that has to keep to its memory."""
        ended = limited(["-c", str(self.config), *arguments])
        assert ended.peak_bytes < PEAK_BYTES, ended
        return ended

    def restore(self, *arguments: str) -> Ended:
        return self.command("restore", "--target", str(self.backup.target), *arguments)


@pytest.fixture
def bombed(tmp_path: Path) -> Bombed:
    return Bombed(tmp_path)


def lines(*rows: object) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def with_field(value: bytes) -> bytes:
    """A line with a field that no reader knows."""
    return lines(file_line("f"))[:-2] + b',"x":' + value + b"}\n"


MANIFESTS: dict[str, Callable[[Bombed], bytes]] = {
    "100 GiB of zeros": lambda _: zeros(HUGE),
    "100 GiB of line feeds": lambda _: zeros(HUGE, byte=b"\n"),
    "a header, then a line of 100 GiB": lambda b: zstandard.compress(b.header()) + zeros(HUGE, byte=b"{"),
    "a line of 64 MiB": lambda b: compressed(iter((b.header(), with_field(b'"' + b"x" * 64 * MIB + b'"')))),
    "100,000 levels in the header": lambda b: compressed(
        iter((b.header()[:-2], b',"x":', deep(100_000), b"}\n"))
    ),
    "100,000 levels in a line": lambda b: compressed(iter((b.header(), with_field(deep(100_000))))),
    "100,000 levels of objects": lambda b: compressed(
        iter((b.header(), with_field(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)))
    ),
    "a number of a million digits": lambda b: compressed(
        iter((b.header(), lines(file_line("f")).replace(b'"size":0', b'"size":' + b"9" * 1_000_000)))
    ),
    "60,000 attributes": lambda b: compressed(
        iter((b.header(), lines(file_line("f", xattrs={f"user.{n}": "" for n in range(60_000)}))))
    ),
    "negative sizes": lambda b: compressed(
        iter((b.header(), lines(*(file_line(f"f{n}", size=-(2**62)) for n in range(10)))))
    ),
    "a window of 2 GiB": lambda _: b"\x28\xb5\x2f\xfd\x04" + bytes([21 << 3]) + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("bomb", selected(MANIFESTS, 2, name="manifests"))
def test_a_manifest_is_refused_where_it_begins_to_be_one(bombed: Bombed, score: Score, bomb: str) -> None:
    bombed.put_manifest(MANIFESTS[bomb](bombed))
    score.archives += 1
    ended = bombed.restore()
    assert ended.code == 1, ended
    assert bombed.run in ended.stderr
    assert not bombed.backup.target.exists()
    # The others are no worse for it.
    assert bombed.restore("--snapshot", bombed.sound).code == 0
    assert (bombed.backup.target / "good").read_bytes() == b"content"


def entries_of(bombed: Bombed, count: int, *, ordered: bool) -> Iterator[bytes]:
    """A manifest of very many files."""
    yield bombed.header() + lines(folder_line(""))
    prefix, _, suffix = lines(file_line("%")).partition(b"%")
    for start in range(0, count, 10_000):
        yield b"".join(
            prefix + (b"%09d" % (number if ordered else 0)) + suffix
            for number in range(start, start + 10_000)
        )
    end = {
        "type": "end", "entries": count + 1, "deleted": 0, "failed": 0, "files": count, "folders": 1,
        "symlinks": 0, "bytes": 0, "finished": 1,
    }  # fmt: skip
    yield lines(end)


@pytest.mark.parametrize("ordered", [True, False])
def test_ten_million_entries_take_no_memory(bombed: Bombed, score: Score, ordered: bool) -> None:
    """One of them is asked for. Out of order, they are refused at the second."""
    bombed.put_manifest(compressed(entries_of(bombed, ENTRIES, ordered=ordered)))
    score.archives += 1
    ended = bombed.restore(f"{ENTRIES - 1:09}" if ordered else "000000000")
    if not ordered:
        assert (ended.code, "line 4" in ended.stderr) == (1, True), ended
        return
    assert ended.code == 0, ended
    assert [path.name for path in bombed.backup.target.iterdir()] == [f"{ENTRIES - 1:09}"]


def test_ten_million_failures_take_no_memory(bombed: Bombed, score: Score) -> None:
    def pieces() -> Iterator[bytes]:
        yield bombed.header() + lines(folder_line(""))
        failure = lines({"type": "failed", "path": "x" * 200, "kind": "file", "reason": "y" * 200})
        for _ in range(0, ENTRIES, 1000):
            yield failure * 1000
        yield lines(
            {
                "type": "end", "entries": 1, "deleted": 0, "failed": ENTRIES, "files": 0, "folders": 1,
                "symlinks": 0, "bytes": 0, "finished": 1,
            }
        )  # fmt: skip

    bombed.put_manifest(compressed(pieces()))
    score.archives += 1
    assert bombed.restore().code == 0


def frame_of(*pieces: bytes) -> bytes:
    return zstandard.compress(b"".join(pieces))


PACKS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "100 GiB in one frame": ("tar.zst", lambda: zeros(HUGE)),
    "a sound member, then 100 GiB": (
        "tar.zst", lambda: frame_of(member(b"early", b"content")) + zeros(HUGE),
    ),
    "20,000 frames": ("tar.zst", lambda: frame_of(b"") * 20_000),
    "a header of 1 GiB": ("tar", lambda: member(b"pax", flag=b"x", size=b"%011o" % GIB) + bytes(MIB)),
    "a header of 1 GiB in a frame": (
        "tar.zst", lambda: frame_of(member(b"pax", flag=b"x", size=b"%011o" % GIB)) + zeros(GIB),
    ),
    "a name of 1 GiB": ("tar", lambda: member(b"long", flag=b"L", size=b"%011o" % GIB) + bytes(MIB)),
    "a global header of 1 GiB": ("tar", lambda: member(b"pax", flag=b"g", size=b"%011o" % GIB) + bytes(MIB)),
    "a content of 8 EiB": (
        "tar", lambda: member(b"f", size=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7) + bytes(MIB),
    ),
    "a negative content": ("tar", lambda: member(b"f", size=b"\xff" * 12) + bytes(MIB)),
    "60,000 records": (
        "tar", lambda: records({b"k%d" % n: b"" for n in range(60_000)}) + member(b"f", b"x") + END,
    ),
    "extended headers without end": ("tar", lambda: records({b"comment": b"x"}) * 50_000),
    "references without end": (
        "tar", lambda: records({b"comment": b"asyncbackup " + b"{}\n" * 20_000}, flag=b"g") * 100 + END,
    ),
    "30,000 levels in a reference": (
        "tar",
        lambda: records({b"comment": b'asyncbackup {"x":' + deep(30_000) + b"}\n"}, flag=b"g") + END,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", selected(PACKS, 2, name="packs"))
def test_a_pack_gives_what_can_be_read_of_it(bombed: Bombed, score: Score, bomb: str) -> None:
    suffix, make = PACKS[bomb]
    bombed.put_data(f"packs/000001.{suffix}", make())
    score.archives += 1
    ended = bombed.command("syncdb_remote", "--from-objects")
    assert ended.code in (0, 3), ended
    assert bombed.restore().code in (0, 4)
    assert (bombed.backup.target / "good").read_bytes() == b"content"
    if bomb.startswith("a sound member"):
        assert (bombed.backup.target / "early").read_bytes() == b"content"


@pytest.mark.parametrize("read", selected(["restore", "verify"], 1, name="contents"))
def test_contents_that_expand_and_overlap(bombed: Bombed, score: Score, read: str) -> None:
    """A thousand files in the same frame, of which each is said to be most; and one object of 100 GiB."""
    frame = zeros(HUGE)
    bombed.put_data("packs/000001.tar.zst", frame)
    bombed.put_data("files/huge", frame)
    size = 15 * MIB
    pack = Extent(run=bombed.run, key="packs/000001.tar.zst", length=len(frame), compression="zstd")
    entries = [
        file_entry(
            f"f{number:04}", size=size - number, sha256=hashlib.sha256(b"%d" % number).digest(),
            extent=msgspec.structs.replace(pack, skip=number),
        )
        for number in range(200 if FULL else 20)
    ]  # fmt: skip
    huge = msgspec.structs.replace(pack, key="files/huge")
    entries.append(file_entry("huge", size=size, sha256=b"x" * 32, extent=huge))
    asyncio.run(bombed.backup.save([folder_entry(""), *entries], run=bombed.run))
    score.archives += 2
    if read == "verify":
        assert bombed.command("verify", "--read-data").code == 4
        return
    ended = bombed.restore()
    assert ended.code == 4, ended
    assert list(bombed.backup.target.iterdir()) == []


DESCRIPTORS = {
    "levels": lambda: b'{"type":"repository","format":1,"x":' + deep(100_000) + b"}",
    "spaces": lambda: b" " * (64 * MIB),
    "digits": lambda: b'{"type":"repository","format":' + b"9" * 60_000 + b"}",
}


@pytest.mark.parametrize("bomb", selected(DESCRIPTORS, 1, name="descriptors"))
def test_a_descriptor_is_refused(bombed: Bombed, score: Score, bomb: str) -> None:
    bombed.put(DESCRIPTOR_KEY, DESCRIPTORS[bomb]())
    score.archives += 1
    ended = bombed.restore()
    assert (ended.code, DESCRIPTOR_KEY in ended.stderr) == (1, True), ended


@pytest.mark.parametrize("what", selected(["runs", "prunes"], 1, name="marks"))
def test_marks_of_others_are_not_believed(bombed: Bombed, score: Score, what: str) -> None:
    mark = b'{"type":"' + what[:-1].encode() + b'","format":1,"x":' + deep(100_000) + b"}"
    bombed.put(f"{SECTION}/{what}/{bombed.run}.json", mark)
    bombed.put(f"{SECTION}/{what}/{bombed.backup.next_run()}.json", b" " * (64 * MIB))
    score.archives += 2
    assert bombed.restore().code == 0
    assert bombed.command("syncdb_remote").code in (0, 1, 5)
    assert bombed.command("run").code in (0, 1, 5)
    assert bombed.command("prune").code in (0, 1, 5)
