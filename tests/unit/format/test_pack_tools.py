"""Packs in the hands of the tools that people have: each lists and extracts all of it without a word."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncbackup.format.pack_builder import NO_ENTRY, PackBuilder
from asyncbackup.model import Entry, Extent, Kind
from tests.unit.format.tar_tools import NOBODY, TOOLS, Tool, readable_folder
from tests.unit.format.test_tar import entry
from tests.unit.format.vectors import content

ROOT = os.geteuid() == 0
RUN = "20261122T195000Z-3fa2"

NAMES = [
    b"report 2026.pdf",
    b"-rf",
    b"--checkpoint-action=exec=false",
    b"a\\b\\101",
    b"line\nfeed\r\x1b[31m",
    b"'quoted' \"twice\" $HOME `id` *?",
    b"\xff\xfe",
    "\xe4\xf6\xfc \u65e5\u672c\u8a9e \U0001f600".encode(),
    b"e\xcc\x81",
    b"..a",
    b"...",
    b" leading and trailing ",
    b"x" * 100,
    b"y" * 101,
    b"z" * 255,
    b"\xff" * 100,
    b"\xff" * 200,
    "\xe4".encode() * 120,
    b"p" * 155 + b"/" + b"n" * 100,
    b"q" * 156 + b"/" + b"n" * 100,
    b"r" * 120 + b"/" + b"s" * 120 + b"/" + b"t" * 120,
]


def tree(owner: int) -> list[tuple[Entry, bytes, bytes]]:
    """Entries as (entry, content, link_to), folders before what is in them."""
    ids: dict[str, Any] = {"uid": owner, "gid": owner, "owner": "nobody-here", "group": "j\xfcrgen"}
    made: list[tuple[Entry, bytes, bytes]] = []

    def add(
        path: bytes, kind: Kind = Kind.FILE, data: bytes = b"", link_to: bytes = b"", **more: Any
    ) -> None:
        # Each has a time of its own, so that no wrong one looks right.
        time_ns = 1_500_000_000_000_000_000 + len(made) * 1_000_000_007 * 1009
        if hardlink := more.get("hardlink"):
            time_ns = 1_400_000_000_000_000_001 + int(hardlink) * 10**9
        fields: dict[str, object] = (
            {"mtime_ns": time_ns, "ctime_ns": time_ns + 5, "size": len(data)} | ids | more
        )
        made.append(
            (entry(path, kind, **fields), data if kind is Kind.FILE and not link_to else b"", link_to)
        )

    add(b"", Kind.FOLDER, mode=0o40750)
    folders = {name.rpartition(b"/")[0] for name in NAMES}
    for folder in sorted({b"r" * 120, *folders} - {b""}):
        add(folder, Kind.FOLDER)
    for number, name in enumerate(NAMES):
        add(name, data=content(number * 700))
    add(b"empty folder", Kind.FOLDER, mode=0o42775)
    add(b"sticky", Kind.FOLDER, mode=0o41777)
    add(b"setuid", data=b"#!", mode=0o106755)
    add(b"secret", data=b"s", mode=0o100000)
    add(b"whole second", data=b"1", mtime_ns=1_400_000_000_000_000_000, ctime_ns=0)
    add(b"large", data=content(700_001))
    add(b"after", data=b"after")
    for number, target in enumerate(
        [b"after", b"../../etc/passwd", b"/etc/passwd", b"\xfe\\\n", b"t" * 100, b"u" * 101, b"\xff" * 300]
    ):
        add(b"link %d" % number, Kind.SYMLINK, target, target=target)
    add(b"one", data=b"linked", hardlink="1", nlink=3)
    add(b"two", data=b"linked", hardlink="1", nlink=3, link_to=b"one")
    add(b"v" * 150, data=b"linked", hardlink="1", nlink=3, link_to=b"one")
    add(b"w" * 150, data=b"long", hardlink="2", nlink=2)
    add(b"to w", data=b"long", hardlink="2", nlink=2, link_to=b"w" * 150)
    add(b"linked link", Kind.SYMLINK, b"../x", target=b"../x", hardlink="3", nlink=2)
    add(
        b"linked link 2",
        Kind.SYMLINK,
        b"../x",
        target=b"../x",
        hardlink="3",
        nlink=2,
        link_to=b"linked link",
    )
    add(
        b"attributes",
        data=b"a",
        xattrs=(
            (b"user.empty", b""),
            (b"user.bytes", b"\0\xff\n=%"),
            (b"user.100%", b"%"),
            (b"user.\xff\xc3", b"2000" * 400),
        ),
    )
    add(b"attributes of a folder", Kind.FOLDER, xattrs=((b"user.folder", b"f"),))
    return made


def reference(number: int) -> Entry:
    path = b"copies/%d \xff" % number
    sha256 = bytes([number % 256]) * 32
    return entry(path, size=number, sha256=sha256, extent=Extent(RUN, "files/original", number))


def build(items: list[tuple[Entry, bytes, bytes]], *, level: int, references: int = 0) -> bytes:
    builder = PackBuilder(zstd_level=level)
    for item, data, link_to in items:
        builder.add(item, data, link_to=link_to)
    for number in range(references):
        builder.add_reference(reference(number))
    return b"".join(builder.finish().body)


def put_pack(folder: Path, data: bytes, *, compressed: bool) -> Path:
    """The pack as a tar file; a compressed one goes through the ``zstd`` tool."""
    pack = folder / "pack.tar"
    if compressed:
        if shutil.which("zstd") is None:
            pytest.skip("zstd is not installed (Debian: zstd)")
        subprocess.run(["zstd", "-tq", "-"], input=data, check=True)
        data = subprocess.run(["zstd", "-dcq"], input=data, check=True, capture_output=True).stdout
    pack.write_bytes(data)
    pack.chmod(0o644)
    folder.chmod(0o755)
    return pack


def check_tree(target: Path, items: list[tuple[Entry, bytes, bytes]], tool: Tool, *, owners: bool) -> None:
    for item, data, link_to in items:
        path = os.fsencode(target) + (b"/" + item.path if item.path else b"")
        found = os.lstat(path)
        assert stat.S_IFMT(found.st_mode) == stat.S_IFMT(item.mode), path
        if not item.path and not tool.root:
            continue
        if owners and (tool.link_owners or item.kind is not Kind.SYMLINK):
            assert (found.st_uid, found.st_gid) == (item.uid, item.gid), path
        if item.kind is Kind.SYMLINK:
            assert os.readlink(path) == item.target
        elif item.kind is Kind.FILE or tool.folders:
            kept = 0o7777 if owners or tool.special_bits else 0o777
            assert found.st_mode & kept == item.mode & kept, path
        if item.kind is Kind.FILE and not link_to:
            if not item.mode & 0o400:
                os.chmod(path, 0o600)
            assert Path(os.fsdecode(path)).read_bytes() == data
        if link_to and item.kind is Kind.FILE:
            assert found.st_ino == os.lstat(os.fsencode(target) + b"/" + link_to).st_ino, path
        if (item.kind is Kind.FILE) or (item.kind is Kind.FOLDER and tool.folders):
            assert abs(found.st_mtime_ns - item.mtime_ns) <= tool.tolerance_ns, path
        if tool.xattrs and item.xattrs:
            names = {os.fsencode(name): os.getxattr(path, name) for name in os.listxattr(path)}
            assert names == dict(item.xattrs), path


@pytest.fixture(params=["C", "C.UTF-8"])
def locale(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> Tool:
    return TOOLS[request.param]


@pytest.mark.parametrize("level", [0, 3], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    "user", [None, pytest.param(NOBODY, marks=pytest.mark.skipif(not ROOT, reason="only root is two users"))]
)
def test_a_tree(tool: Tool, locale: str, level: int, user: int | None, tmp_path: Path) -> None:
    owner = NOBODY if user is not None else 12345 if ROOT else os.getuid()
    items = tree(owner)
    with readable_folder(user) as folder:
        pack = put_pack(folder, build(items, level=level, references=500), compressed=level > 0)
        target = folder / "target"
        target.mkdir()
        if user is not None:
            os.chown(target, user, user)
        assert tool.list(pack, locale=locale).count(b"\n") >= len(items)
        tool.extract(pack, target, locale=locale, user=user)
        check_tree(target, items, tool, owners=ROOT and user is None)


@pytest.mark.parametrize("seed", range(3))
def test_random_names(tool: Tool, locale: str, seed: int, tmp_path: Path) -> None:
    source = random.Random(seed)
    allowed = bytes(byte for byte in range(1, 256) if byte not in b"/.")
    names: set[bytes] = set()
    while len(names) < 100:
        segments = [
            bytes(source.choices(allowed, k=source.choice([1, 5, 60, 100, 180, 255]))) for _ in range(3)
        ]
        # A first segment of its own, so that no file stands where another needs a folder.
        names.add(b"/".join([b"%d" % len(names), *segments[: source.randrange(1, 4)]]))
    items = [(entry(name, size=len(name)), name, b"") for name in sorted(names)]
    pack = put_pack(tmp_path, build(items, level=0), compressed=False)
    target = os.fsencode(tmp_path / "target")
    os.mkdir(target)
    tool.extract(pack, tmp_path / "target", locale=locale, user=None)
    found = {
        os.path.relpath(os.path.join(at, file), target) for at, _, files in os.walk(target) for file in files
    }
    assert found == names
    for name in names:
        assert Path(os.fsdecode(os.path.join(target, name))).read_bytes() == name


@pytest.mark.skipif(not ROOT, reason="the user must not be root")
@pytest.mark.parametrize("name", ["GNU tar", "bsdtar", "tarfile"])
def test_a_folder_that_may_not_be_written(name: str) -> None:
    items = [
        (entry(b"locked", Kind.FOLDER, mode=0o40555, uid=NOBODY, gid=NOBODY), b"", b""),
        (entry(b"other", size=5, uid=NOBODY, gid=NOBODY), b"hello", b""),
        (entry(b"locked/file", size=5, uid=NOBODY, gid=NOBODY), b"hello", b""),
    ]
    with readable_folder(NOBODY) as folder:
        pack = put_pack(folder, build(items, level=0), compressed=False)
        TOOLS[name].extract(pack, folder, locale="C", user=NOBODY)
        check_tree(folder, items, TOOLS[name], owners=True)


@pytest.mark.parametrize("name", ["GNU tar", "bsdtar"])
def test_compressed_packs_as_they_are(name: str, tmp_path: Path) -> None:
    # Frames of both kinds, which the tools expand themselves or by the zstd tool.
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed (Debian: zstd)")
    noise = random.Random(1).randbytes(700_000)
    bodies = {b"text": content(700_000), b"noise": noise, b"end": b"end"}
    items = [(entry(path, size=len(body)), body, b"") for path, body in bodies.items()]
    pack = tmp_path / "pack.tar.zst"
    pack.write_bytes(build(items, level=3, references=10))
    assert 700_000 < pack.stat().st_size < 710_000
    target = tmp_path / "target"
    target.mkdir()
    TOOLS[name].extract(pack, target, locale="C", user=None)
    assert {path: (target / path.decode()).read_bytes() for path in bodies} == bodies


@pytest.mark.parametrize("level", [0, 3], ids=["plain", "zstd"])
def test_what_gnu_tar_lists(level: int, tmp_path: Path) -> None:
    items = [
        entry(b"dir", Kind.FOLDER, mode=0o42755, owner="nobody-here", group="j\xfcrgen"),
        entry(b"far", owner="o" * 40, group="g" * 32, uid=2**31, gid=2**31 + 1),
        entry(b"numbers", uid=2**31, gid=2**31 + 1, mode=0o104751),
        entry(b"n" * 200 + b"/" + b"m" * 100),
        entry(b"l" * 120, Kind.SYMLINK, target=b"t" * 150),
    ]
    pack = put_pack(tmp_path, build([(item, b"", b"") for item in items], level=level), compressed=level > 0)
    gnu = TOOLS["GNU tar"]
    listed = gnu.run(["-tvvf", str(pack), "--full-time"], "C.UTF-8").decode().splitlines()
    when = "2023-11-14 22:13:20.123456789"
    fields = [line.split(maxsplit=3) for line in listed]
    assert fields == [
        ["drwxr-sr-x", "nobody-here/j\xfcrgen", "0", f"{when} dir/"],
        ["-rw-r--r--", "o" * 40 + "/" + "g" * 32, "0", f"{when} far"],
        ["-rwsr-x--x", f"{2**31}/{2**31 + 1}", "0", f"{when} numbers"],
        ["-rw-r--r--", "1000/100", "0", f"{when} {'n' * 200}/{'m' * 100}"],
        ["lrwxrwxrwx", "1000/100", "0", f"{when} {'l' * 120} -> {'t' * 150}"],
    ]


def test_times_far_away(tmp_path: Path) -> None:
    times = {b"old": -86_400_000_000_000, b"moon": -14_182_916_500_000_000, b"far": 9_999_999_999_123_456_789}
    items = [(entry(name, mtime_ns=time_ns), b"", b"") for name, time_ns in times.items()]
    pack = put_pack(tmp_path, build(items, level=0), compressed=False)
    for tool, arguments in (("GNU tar", ["--warning=no-timestamp"]), ("bsdtar", [])):
        target = tmp_path / tool
        target.mkdir()
        TOOLS[tool].run([*arguments, "-xpf", str(pack), "-C", str(target)], "C.UTF-8")
        for name, time_ns in times.items():
            # bsdtar counts the fraction of a time before 1970 in the wrong direction.
            exact = tool == "GNU tar" or time_ns % 10**9 == 0 or time_ns > 0
            found = (target / name.decode()).stat().st_mtime_ns
            assert abs(found - time_ns) <= (0 if exact else 10**9), (tool, name)


@pytest.mark.parametrize("level", [0, 3], ids=["plain", "zstd"])
def test_an_empty_pack(tool: Tool, level: int, tmp_path: Path) -> None:
    pack = put_pack(tmp_path, build([], level=level), compressed=level > 0)
    assert tool.list(pack, locale="C").strip() == b""
    target = tmp_path / "target"
    target.mkdir()
    tool.extract(pack, target, locale="C", user=None)
    assert os.listdir(target) == []


@pytest.mark.parametrize("level", [0, 3], ids=["plain", "zstd"])
@pytest.mark.parametrize("references", [1, 40_000])
def test_a_pack_of_references_alone(tool: Tool, level: int, references: int, tmp_path: Path) -> None:
    pack = put_pack(tmp_path, build([], level=level, references=references), compressed=level > 0)
    # More than some headers without a member between them would be too many for bsdtar.
    assert (tool.list(pack, locale="C").count(b"\n") > 1) == (references > 1)
    target = tmp_path / "target"
    target.mkdir()
    tool.extract(pack, target, locale="C", user=None)
    assert os.listdir(os.fsencode(target)) == [NO_ENTRY]
    assert (target / os.fsdecode(NO_ENTRY)).stat().st_size == 0


def test_copies_are_files_for_whoever_extracts_them(tool: Tool, tmp_path: Path) -> None:
    builder = PackBuilder(zstd_level=0)
    first = entry(b"first", size=5)
    builder.add(first, b"hello", run=RUN)
    builder.add(msgspec.structs.replace(first, path=b"c" * 150), link_to=b"first", copy=True, run=RUN)
    pack = put_pack(tmp_path, b"".join(builder.finish().body), compressed=False)
    target = tmp_path / "target"
    target.mkdir()
    tool.list(pack, locale="C")
    tool.extract(pack, target, locale="C", user=None)
    assert (target / ("c" * 150)).read_bytes() == b"hello"


def test_ten_thousand_names_of_one_file(tool: Tool, tmp_path: Path) -> None:
    names = 10_000
    first = entry(b"first", size=5, nlink=names, hardlink="1")
    items = [(first, b"hello", b"")]
    items += [
        (msgspec.structs.replace(first, path=b"further %d" % number), b"", b"first")
        for number in range(1, names)
    ]
    pack = put_pack(tmp_path, build(items, level=0), compressed=False)
    target = tmp_path / "target"
    target.mkdir()
    tool.extract(pack, target, locale="C", user=None)
    assert (target / "first").stat().st_nlink == names
    assert (target / "further 9999").read_bytes() == b"hello"
