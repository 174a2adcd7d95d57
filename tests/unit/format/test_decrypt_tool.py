"""tools/decrypt.py, run as somebody would who has nothing of asyncbackup but a copy of the destination."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from asyncbackup.format.decrypt_script import SCRIPT
from asyncbackup.format.keys import run_prefix, snapshot_key
from asyncbackup.model import Kind
from tests.unit.format.manifests import by_lines, file_line, folder_line, header_line, symlink_line
from tests.unit.format.repositories import (
    KEY_FILE,
    PASSPHRASE,
    REPOSITORY,
    RUNS,
    SECTION,
    Repository,
    Tree,
    example,
)
from tools.embed_script import MODULE, TOOLS, module_text

TOOL = TOOLS / "decrypt.py"


def run(folder: Path, *arguments: str, **options: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-W", "error", "-I", str(TOOL), str(folder)]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return subprocess.run([*command, *arguments], capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tree]]:
    repository, trees = example(encrypted=request.param == "encrypted")
    folder = tmp_path_factory.mktemp("copy")
    repository.write_to(folder)
    return folder, trees


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\nand what else the file says\n")
    return path


def assert_restored(target: Path, tree: Tree, *, owners: bool) -> None:
    root = os.fsencode(target)
    found = {b""}
    for folder, folders, files in os.walk(root):
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in folders + files}
    assert found == set(tree)
    for path, (entry, body) in tree.items():
        place = os.path.join(root, path)
        status = os.lstat(place)
        assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(entry.mode)
        assert status.st_mtime_ns == entry.mtime_ns, path
        if owners:
            assert (status.st_uid, status.st_gid) == (entry.uid, entry.gid)
        if entry.kind is Kind.SYMLINK:
            assert os.readlink(place) == entry.target
            continue
        assert stat.S_IMODE(status.st_mode) == stat.S_IMODE(entry.mode)
        if entry.kind is Kind.FILE:
            with open(place, "rb") as file:
                assert file.read() == body
            assert status.st_nlink == (2 if entry.hardlink else 1)


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_snapshots_restore_exactly(
    made: tuple[Path, list[Tree]], passphrase: Path, tmp_path: Path, number: int
) -> None:
    folder, trees = made
    target = tmp_path / "restored"
    key = snapshot_key(SECTION, RUNS[number])
    done = run(folder, "restore", key, str(target), passphrase_file=passphrase)
    assert (done.returncode, done.stderr) == (0, b"")
    assert_restored(target, trees[number], owners=os.geteuid() == 0)


def test_snapshots_are_listed(made: tuple[Path, list[Tree]]) -> None:
    done = run(made[0], "list")
    assert done.stdout.decode().splitlines() == [f"{SECTION}/{run_id}" for run_id in RUNS]


def test_objects_and_manifests_are_shown(made: tuple[Path, list[Tree]], passphrase: Path) -> None:
    folder, trees = made
    entry, body = trees[0][b"bad\xff\n\\%41.txt"]
    assert entry.extent is not None
    key = run_prefix(SECTION, RUNS[0]) + entry.extent.key
    assert run(folder, "show", key, passphrase_file=passphrase).stdout == body
    shown = run(folder, "show", snapshot_key(SECTION, RUNS[2]), passphrase_file=passphrase).stdout
    assert shown.count(b"\n") == 4
    assert shown.startswith(b'{"type":"manifest"')


@pytest.fixture
def encrypted(tmp_path: Path) -> tuple[Path, Repository]:
    repository, _ = example(encrypted=True)
    folder = tmp_path / "copy"
    repository.write_to(folder)
    return folder, repository


SNAPSHOT = snapshot_key(SECTION, RUNS[0])


def test_key_file_opens(encrypted: tuple[Path, Repository], tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY_FILE)
    done = run(encrypted[0], "restore", SNAPSHOT, str(tmp_path / "restored"), key_file=tmp_path / "key")
    assert done.returncode == 0


@pytest.mark.parametrize("secret", [b"wrong", b"", PASSPHRASE + b" "])
def test_wrong_secret_restores_nothing(
    encrypted: tuple[Path, Repository], tmp_path: Path, secret: bytes
) -> None:
    (tmp_path / "secret").write_bytes(secret)
    target = tmp_path / "restored"
    done = run(encrypted[0], "restore", SNAPSHOT, str(target), passphrase_file=tmp_path / "secret")
    assert done.returncode == 1
    assert b"opens none of the key slots" in done.stderr
    assert not target.exists()


REPORT = f"{run_prefix(SECTION, RUNS[0])}files/docs/report.pdf"
OLD = f"{run_prefix(SECTION, RUNS[0])}files/docs/old.txt"


@pytest.mark.parametrize("place", [0, 10, 30, 60, 80, 16_500, 20_000, -1])
def test_changed_object_never_appears(
    encrypted: tuple[Path, Repository], passphrase: Path, tmp_path: Path, place: int
) -> None:
    folder, _ = encrypted
    body = bytearray((folder / REPORT).read_bytes())
    body[place] ^= 1
    (folder / REPORT).write_bytes(body)
    done = run(folder, "restore", SNAPSHOT, str(tmp_path / "restored"), passphrase_file=passphrase)
    assert done.returncode == 1
    assert REPORT.encode() in done.stderr
    assert not (tmp_path / "restored/docs/report.pdf").exists()


@pytest.mark.parametrize("cut", [0, 71, 72, 72 + 16_400, 72 + 16_416, -1])
def test_truncated_object_never_appears(
    encrypted: tuple[Path, Repository], passphrase: Path, tmp_path: Path, cut: int
) -> None:
    folder, _ = encrypted
    (folder / REPORT).write_bytes((folder / REPORT).read_bytes()[:cut])
    done = run(folder, "restore", SNAPSHOT, str(tmp_path / "restored"), passphrase_file=passphrase)
    assert done.returncode == 1
    assert not (tmp_path / "restored/docs/report.pdf").exists()


def test_exchanged_objects_and_manifests_are_refused(
    encrypted: tuple[Path, Repository], passphrase: Path, tmp_path: Path
) -> None:
    folder, _ = encrypted
    (folder / REPORT).write_bytes((folder / OLD).read_bytes())
    done = run(folder, "show", REPORT, passphrase_file=passphrase)
    assert (done.returncode, done.stdout) == (1, b"")
    (folder / SNAPSHOT).write_bytes((folder / snapshot_key(SECTION, RUNS[1])).read_bytes())
    done = run(folder, "restore", SNAPSHOT, str(tmp_path / "restored"), passphrase_file=passphrase)
    assert done.returncode == 1
    assert b"another key or place" in done.stderr


def test_plain_manifest_in_an_encrypted_repository_is_refused_unless_allowed(
    encrypted: tuple[Path, Repository], passphrase: Path, tmp_path: Path
) -> None:
    folder, _ = encrypted
    plain, _ = example(encrypted=False)
    (folder / SNAPSHOT).write_bytes(plain.objects[SNAPSHOT][0])
    done = run(folder, "restore", SNAPSHOT, str(tmp_path / "restored"), passphrase_file=passphrase)
    assert done.returncode == 1
    assert b"none of them vouches for it" in done.stderr
    (folder / "asyncbackup.json").write_bytes(plain.objects["asyncbackup.json"][0])
    done = run(folder, "restore", SNAPSHOT, str(tmp_path / "restored"))
    assert b"its content is not that of the snapshot" in done.stderr


def header(**changes: object) -> dict[str, object]:
    return header_line(snapshot=RUNS[0], section=SECTION, repository=REPOSITORY, **changes)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (by_lines(folder_line(".."), header=header()), b"impossible path"),
        (by_lines(folder_line("a/%2E%2e/b"), header=header()), b"impossible path"),
        (by_lines(folder_line("/tmp"), header=header()), b"impossible path"),
        (by_lines(folder_line("a%00"), header=header()), b"impossible path"),
        (by_lines(header=header(format=2)), b"newer asyncbackup"),
        (by_lines(header=header(requires=["x"])), b"newer asyncbackup"),
        (by_lines(header=header_line()), b"not that of this snapshot"),
        (by_lines(header=header(base=RUNS[0], depth=1)), b"not that of this snapshot"),
        (by_lines(header=header(revision=1)), b"not that of this snapshot"),
        (by_lines(header=header(base=RUNS[1], depth=1)), b"rests on is not that of this snapshot"),
        (by_lines(header=header(base="20200101T000000Z-0000", depth=1)), b"its manifest is not here"),
        (by_lines({"type": "socket", "path": "s"}, header=header()), b"'socket'"),
        (zstandard.compress(b'{"type":'), b"it is damaged"),
        (by_lines(folder_line("a"), header=header())[:-9], b"cut off"),
        (b"no zstd", SNAPSHOT.encode() + b": it is damaged"),
    ],
)
def test_hostile_manifests_are_refused(tmp_path: Path, manifest: bytes, reason: bytes) -> None:
    repository, _ = example(encrypted=False)
    repository.objects[SNAPSHOT] = (manifest, {})
    repository.write_to(tmp_path / "copy")
    done = run(tmp_path / "copy", "restore", SNAPSHOT, str(tmp_path / "restored"))
    assert done.returncode == 1
    assert reason in done.stderr
    assert not (tmp_path / "restored").exists()


def test_hostile_places_are_not_read(tmp_path: Path) -> None:
    """What a manifest says of where contents lie leads nowhere but into the copy's data."""
    repository, _ = example(encrypted=False)
    (tmp_path / "secret").write_bytes(b"hello")
    places: list[dict[str, object]] = [
        {"key": "files/../../../../../../secret"},
        {"key": str(tmp_path / "secret")},
        {"key": "files//secret"},
        {"run": "../../..", "key": "secret"},
        {"run": RUNS[0] + "/files/..", "key": "secret"},
        {"key": "files/docs/old.txt", "compression": "lz4"},
        {"key": "files/docs/old.txt", "offset": -1},
        {"key": "files/docs/old.txt", "length": 4},
        {"key": "files/docs/old.txt", "encrypted": True},
        {"key": "files/docs"},
    ]
    lines = [
        file_line(f"file {number}", size=3, extent={"length": 3} | place)
        for number, place in enumerate(places)
    ]
    good = file_line("good", size=3, extent={"length": 3, "key": "files/docs/old.txt"})
    repository.objects[SNAPSHOT] = (by_lines(*lines, good, header=header()), {})
    repository.write_to(tmp_path / "copy")
    done = run(tmp_path / "copy", "restore", SNAPSHOT, str(tmp_path / "restored"))
    assert done.returncode == 1
    assert os.listdir(tmp_path / "restored") == ["good"]
    complaints = done.stderr.decode().splitlines()
    assert sorted(line.partition(":")[0] for line in complaints[:-1]) == [
        f"file {number}" for number in range(len(places))
    ]


def test_small_contents_that_expand_without_end_fill_no_memory(tmp_path: Path) -> None:
    repository, _ = example(encrypted=False)
    bomb = zstandard.compress(bytes(2**30))
    for key in ("files/bomb", "packs/000001.tar.zst"):
        repository.objects[f"{SECTION}/data/{RUNS[0]}/{key}"] = (bomb, {})
    extent = {"length": len(bomb), "compression": "zstd"}
    lines = by_lines(
        file_line("bomb", size=4, extent=extent),
        file_line("in a pack", size=2**25, extent=extent | {"key": "packs/000001.tar.zst"}),
        header=header(),
    )
    repository.objects[SNAPSHOT] = (lines, {})
    repository.write_to(tmp_path / "copy")
    command = ["prlimit", f"--as={2**29}", sys.executable, "-I", str(TOOL), str(tmp_path / "copy"), "restore"]
    done = subprocess.run([*command, SNAPSHOT, tmp_path / "restored"], capture_output=True, check=False)
    assert done.stderr.splitlines() == [
        f"in a pack: {SECTION}/data/{RUNS[0]}/packs/000001.tar.zst: it is cut off".encode(),
        b"1 complaints; all else was restored",
    ]
    assert (tmp_path / "restored/bomb").read_bytes() == bytes(4)


def test_symlinks_lead_no_file_out_of_the_target(tmp_path: Path) -> None:
    repository, trees = example(encrypted=False)
    outside = tmp_path / "outside"
    outside.mkdir()
    digest = trees[0][b"docs/old.txt"][0].sha256.hex()
    evil = by_lines(
        symlink_line("a", target=str(outside)),
        file_line("a/x", size=3, sha256=digest, extent={"length": 3, "key": "files/docs/old.txt"}),
        header=header(),
    )
    repository.objects[SNAPSHOT] = (evil, {})
    repository.write_to(tmp_path / "copy")
    run(tmp_path / "copy", "restore", SNAPSHOT, str(tmp_path / "restored"))
    assert list(outside.iterdir()) == []


def test_symlinks_lead_no_symlink_and_no_folder_out_of_the_target(tmp_path: Path) -> None:
    repository, _ = example(encrypted=False)
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    evil = by_lines(
        symlink_line("a", target=str(outside)),
        folder_line("b", mode="40777"),
        symlink_line("b", target=str(outside)),
        symlink_line("a/x", target="anything"),
        header=header(),
    )
    repository.objects[SNAPSHOT] = (evil, {})
    repository.write_to(tmp_path / "copy")
    run(tmp_path / "copy", "restore", SNAPSHOT, str(tmp_path / "restored"))
    assert list(outside.iterdir()) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700


def test_an_existing_target_is_not_touched(
    made: tuple[Path, list[Tree]], passphrase: Path, tmp_path: Path
) -> None:
    (tmp_path / "restored").mkdir()
    done = run(made[0], "restore", SNAPSHOT, str(tmp_path / "restored"), passphrase_file=passphrase)
    assert done.returncode == 1
    assert list((tmp_path / "restored").iterdir()) == []


def test_the_script_is_of_a_python_that_a_stranger_may_have() -> None:
    ast.parse(TOOL.read_text(), feature_version=(3, 9))


def test_the_package_holds_the_script_as_it_is() -> None:
    assert MODULE.read_text() == module_text(), "run python tools/embed_script.py"
    assert TOOL.read_text() == SCRIPT
