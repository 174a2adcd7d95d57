"""(d) Manifests that no backup writes, restored as root: refused whole, or kept within the target."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.battery.cage import Cage, Outcome, Step, needs_cage
from tests.battery.selection import selected
from tests.pipeline.test_restore_hostile import file_line, folder_line, symlink_line
from tests.unit.restore.backup import SECTION, Backup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.battery.score import Score

pytestmark = needs_cage

Line = dict[str, object]
NO_PATHS = [
    "..", ".", "../file", "../outside/file", "d/../../file", "d/..", "d/.", "./f", "d/./f", "/outside/file",
    "//outside", "d//f", "f/", "d/f/", "%2E%2E/file", "%2e%2e%2ffile", "..%2Ffile", "d%2F..%2F..%2Ffile",
    "%2Foutside/file", "%2F", "a%00b", "%00", "../" * 40 + "etc/passwd", "{world}/outside/file", "d/%2E",
]  # fmt: skip
KINDS = {"file": file_line, "folder": folder_line, "symlink": lambda path: symlink_line(path, "x")}
NAMES = [(kind, path) for kind in KINDS for path in NO_PATHS]
CAPABILITY = base64.b64encode(struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)).decode()
REFUSED: dict[str, list[Line]] = {
    "twice": [file_line("f"), file_line("f")],
    "file, then folder": [file_line("f"), folder_line("f")],
    "symlink, then folder": [symlink_line("d", "{world}/outside"), folder_line("d")],
    "symlink, then file": [symlink_line("d", "{world}/outside"), file_line("d")],
    "out of order": [file_line("b"), file_line("a")],
    "child before its folder": [file_line("d/f"), folder_line("d")],
    "negative size": [file_line("f", size=-1)],
    "negative length": [file_line("f", extent={"length": -1})],
    "negative offset": [file_line("f", extent={"length": 0, "offset": -5})],
    "negative skip": [file_line("f", extent={"length": 0, "skip": -5})],
    "size over 64 bits": [file_line("f", size=2**64, extent={"length": 2**64})],
    "length of another size": [file_line("f", size=5, extent={"length": 4})],
    "key above": [file_line("f", extent={"length": 0, "key": "../../../x"})],
    "absolute key": [file_line("f", extent={"length": 0, "key": "/etc/passwd"})],
    "no run": [file_line("f", extent={"length": 0, "run": "../.."})],
    "later run": [file_line("f", extent={"length": 0, "run": "99991231T235959Z-ffff"})],
    "block device": [file_line("f", mode="60644")],
    "character device": [file_line("f", mode="20644")],
    "fifo": [file_line("f", mode="10644")],
    "socket": [file_line("f", mode="140644")],
    "file that is a symlink": [file_line("f", mode="120777")],
    "folder that is a file": [folder_line("d", mode="100755")],
    "huge mode": [file_line("f", mode="7777777777")],
    "mode that is no number": [file_line("f", mode="-1")],
    "symlink to nothing": [symlink_line("l", "")],
    "symlink with NUL": [symlink_line("l", "a%00b")],
    "attribute with NUL": [file_line("f", xattrs={"user.a%00b": ""})],
    "attribute without a name": [file_line("f", xattrs={"": ""})],
    "unknown type": [{"type": "device", "path": "f"}],
    "owner below zero": [file_line("f", uid=-1)],
    "owner over 32 bits": [file_line("f", gid=2**32)],
    "time over 64 bits of seconds": [file_line("f", mtime=2**63 * 10**9)],
    "more packs than the end says": [{"type": "pack", "key": "packs/000001.tar", "size": 1, "checksum": ""}],
    "pack elsewhere": [{"type": "pack", "key": "../packs/000001.tar", "size": 1, "checksum": ""}],
}  # fmt: skip


class Manifests:
    """One repository with a snapshot for each list of lines."""

    def __init__(self, base: Path) -> None:
        self.cage = Cage(base)
        self.backup = Backup(base)
        asyncio.run(self.backup.create())
        self.config = base / "asyncbackup.toml"
        self.config.write_text(
            f'state_dir = "{base}/state"\n[sections.{SECTION}]\npath = "{base}/source"\n'
            f'destination = "{self.backup.section.destination}"\n'
        )

    def restored(self, archives: Sequence[list[Line]], *arguments: str, again: bool = False) -> list[Outcome]:
        """What restoring each list of lines, below a root, came to; ``again`` into the same target twice,
        of which the second counts."""
        steps: list[Step] = []
        for lines in archives:
            run = asyncio.run(self.backup.save_lines([folder_line(""), *map(self._here, lines)]))
            step = self.cage.restoring(self.config, SECTION, "--snapshot", run, *arguments)
            steps += [step, msgspec.structs.replace(step, keep=True)] if again else [step]
        return self.cage.run(steps)[again :: 1 + again]

    def _here(self, line: Line) -> Line:
        return {
            name: value.replace("{world}", str(self.cage.world)) if isinstance(value, str) else value
            for name, value in line.items()
        }


@pytest.fixture
def manifests(tmp_path: Path) -> Manifests:
    return Manifests(tmp_path)


def test_names_that_lead_out_are_refused_whole(manifests: Manifests, score: Score) -> None:
    cases = selected(NAMES, 8, name="names")
    score.archives += len(cases)
    score.names += len(cases)
    for case, outcome in zip(
        cases, manifests.restored([[KINDS[kind](path)] for kind, path in cases]), strict=True
    ):
        assert (outcome.code, outcome.target) == (1, {}), (case, outcome)


def test_lines_that_cannot_be_are_refused_whole(manifests: Manifests, score: Score) -> None:
    cases = selected(REFUSED, 8, name="lines")
    score.archives += len(cases)
    for case, outcome in zip(cases, manifests.restored([REFUSED[case] for case in cases]), strict=True):
        assert (outcome.code, outcome.target) == (1, {}), (case, outcome)


def within(*lines: Line) -> list[Line]:
    """Lines in the order that manifests have."""
    return sorted(lines, key=lambda line: str(line["path"]).rpartition("/")[::2])


THROUGH: dict[str, tuple[list[Line], set[str]]] = {
    "a symlink, then a file through it": (
        within(symlink_line("d", "{world}/outside/d"), file_line("d/f"), file_line("d/new")), {"d"},
    ),
    "a symlink upwards": (within(symlink_line("up", ".."), file_line("up/f"), file_line("up/file")), {"up"}),
    "a symlink to the root": (within(symlink_line("r", "/"), file_line("r/etc")), {"r"}),
    "a chain of symlinks": (
        within(
            symlink_line("a", "b"), symlink_line("b", "{world}/outside"), file_line("a/f"), file_line("b/f")
        ),
        {"a", "b"},
    ),
    "folder metadata through a symlink": (
        within(
            symlink_line("d", "{world}/outside"),
            folder_line("d/folder", mode="40777", uid=1, gid=1, mtime=7),
            folder_line("d/new", mode="40777"),
        ),
        {"d"},
    ),
    "a symlink through a symlink": (
        within(symlink_line("d", "{world}/outside"), symlink_line("d/l", "x")), {"d"},
    ),
    "a symlink in itself": (within(symlink_line("d", "d"), file_line("d/f")), {"d"}),
    "a file that is also a folder": (within(file_line("a"), file_line("a/b"), folder_line("a/c")), {"a"}),
    "names of one inode, one of them a symlink": (
        within(
            symlink_line("a", "{world}/outside/file") | {"hardlink": "x"},
            file_line("b", hardlink="x"),
            file_line("c", hardlink="x"),
        ),
        {"a", "b", "c"},
    ),
    "a further name behind a symlink": (
        within(
            symlink_line("d", "{world}/outside"), file_line("a", hardlink="x"), file_line("d/f", hardlink="x")
        ),
        {"a", "d"},
    ),
    "a first name behind a symlink": (
        within(
            symlink_line("a", "{world}/outside"), file_line("a/f", hardlink="x"), file_line("z", hardlink="x")
        ),
        {"a", "z"},
    ),
    "symlinks with the same label": (
        within(
            symlink_line("a", "{world}/outside/file") | {"hardlink": "x", "uid": 1, "mtime": 3},
            symlink_line("b", "{world}/outside/file") | {"hardlink": "x", "uid": 1, "mtime": 3},
        ),
        {"a", "b"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("overwrite", ["always", "changed", "never"])
def test_what_leads_through_a_symlink_stays_within(
    manifests: Manifests, score: Score, overwrite: str
) -> None:
    """The same target twice: what the first restore made is in the way of the second."""
    cases = selected(THROUGH, 3, name=overwrite)
    score.archives += len(cases)
    lines = [THROUGH[case][0] for case in cases]
    outcomes = manifests.restored(lines, "--overwrite", overwrite, again=True)
    for case, outcome in zip(cases, outcomes, strict=True):
        assert set(outcome.target) == THROUGH[case][1], (case, outcome)
        assert outcome.code == (0 if "label" in case or "one inode" in case else 4), (case, outcome)


def test_privileges_only_when_asked_for(manifests: Manifests, score: Score) -> None:
    attributes = {"security.capability": CAPABILITY, "trusted.t": "MQ==", "user.u": "MQ=="}
    lines = [
        folder_line("shared", mode="46755"),
        file_line("capable", uid=1234, xattrs=attributes),
        file_line("root", mode="106755"),
        file_line("setgid", mode="102755", uid=1234, gid=2345),
        file_line("setuid", mode="104755", uid=1234, gid=2345),
        file_line("sticky", mode="101755"),
    ]
    score.archives += 2
    (plain,), (asked,) = (
        manifests.restored([within(*lines)], *arguments) for arguments in ((), ("--privileged",))
    )
    assert (plain.code, asked.code) == (0, 0), (plain, asked)
    modes = {path: entry[0] & 0o7777 for path, entry in plain.target.items()}
    assert modes == {
        "shared": 0o2755, "capable": 0o644, "root": 0o755, "setgid": 0o755, "setuid": 0o755, "sticky": 0o1755,
    }  # fmt: skip
    assert not {"security.capability", "trusted.t"} & set(plain.target["capable"][3])
    modes = {path: entry[0] & 0o7777 for path, entry in asked.target.items()}
    assert modes == {
        "shared": 0o6755, "capable": 0o644, "root": 0o6755, "setgid": 0o2755, "setuid": 0o4755,
        "sticky": 0o1755,
    }  # fmt: skip
    assert {"security.capability", "trusted.t"} <= set(asked.target["capable"][3])
    assert plain.target["setuid"][1:3] == asked.target["setuid"][1:3] == (1234, 2345)
