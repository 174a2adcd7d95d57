"""(d) Packs from a stranger: what ``syncdb_remote --from-objects`` makes of them stays within the target."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from asyncbackup.repository.create import create_repository
from tests.battery.cage import Cage, Outcome, Step, needs_cage
from tests.battery.selection import selected
from tests.battery.tars import END, member, named, references, strange_members
from tests.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.battery.score import Score

pytestmark = needs_cage

RUN = "20261122T195000Z-3fa2"
NO_NAMES = [
    b"..", b"../file", b"d/../../file", b"d/..", b"d/./f", b"./../file", b"/outside/file", b"//x", b"d//f",
    b"/", b"a\0b", b"../" * 40 + b"etc/passwd",  # a NUL ends a name that stands in a header itself
]  # fmt: skip
WAYS = ("ustar", "prefix", "GNU", "pax")
FLAGS = (b"0", b"1", b"2", b"5")
NAMES = {
    f"{way} {flag.decode()} {name!r}": named(way, name, flag=flag)
    for way in WAYS
    for flag in (FLAGS if way in ("ustar", "pax") else FLAGS[:1])
    for name in NO_NAMES
    if way in ("GNU", "pax") or (len(name) < 100 and b"\0" not in name)
}
GOOD = member(b"good", b"content")
LEFT = member(b"left", b"content")


class Packs:
    """A destination with a section for each pack; a good member stands before and behind what is hostile."""

    def __init__(self, base: Path) -> None:
        (base / "destination").mkdir()
        self.cage = Cage(base)
        self.bench = Workbench(base, f"file://{base}/destination")
        asyncio.run(create_repository(self.bench.settings, self.bench.section))
        self._config = base / "asyncbackup.toml"

    def recovered(self, archives: Mapping[str, bytes], *, compressed: bool) -> dict[str, Outcome]:
        """What restoring came to after the database was made from each pack alone."""
        base = self.cage.base
        text = f'state_dir = "{base}/state"\n'
        steps: list[Step] = []
        for number, body in enumerate(archives.values()):
            name = f"s{number:03}"
            text += f'[sections.{name}]\npath = "{base}/tree"\ndestination = "file://{base}/destination"\n'
            path = base / f"destination/{name}/data/{RUN}/packs/000001.tar{'.zst' if compressed else ''}"
            path.parent.mkdir(parents=True)
            pieces = [GOOD, body, LEFT, END]
            path.write_bytes(
                b"".join(zstandard.compress(piece) for piece in pieces) if compressed else b"".join(pieces)
            )
            sync = ["-c", str(self._config), "--quiet", "syncdb_remote", name, "--from-objects"]
            steps += [Step(arguments=sync), self.cage.restoring(self._config, name)]
        self._config.write_text(text)
        outcomes = self.cage.run(steps)
        for sync_outcome in outcomes[::2]:
            assert sync_outcome.code in (0, 3), sync_outcome
        return dict(zip(archives, outcomes[1::2], strict=True))


@pytest.fixture
def packs(tmp_path: Path) -> Packs:
    return Packs(tmp_path)


def chosen(archives: Mapping[str, bytes], count: int) -> dict[str, bytes]:
    return {name: archives[name] for name in selected(archives, count, name="packs")}


@pytest.mark.parametrize("compressed", [False, True])
def test_names_that_lead_out(packs: Packs, score: Score, compressed: bool) -> None:
    archives = chosen(NAMES, 4)
    score.archives += len(archives)
    score.names += len(archives)
    for name, outcome in packs.recovered(archives, compressed=compressed).items():
        assert outcome.code == 0, (name, outcome)
        # A refused member costs no other: it is known where it ends.
        assert set(outcome.target) - {"harmless"} == {"good", "left"}, (name, outcome)
        assert outcome.target["good"][4] == "content"


@pytest.mark.parametrize("compressed", [False, True])
def test_members_that_lie(packs: Packs, score: Score, compressed: bool) -> None:
    archives = chosen(strange_members(bytes(packs.cage.world / "outside")), 4)
    score.archives += len(archives)
    for name, outcome in packs.recovered(archives, compressed=compressed).items():
        assert outcome.code in (0, 4), (name, outcome)
        assert outcome.target["good"][4] == "content", (name, outcome)
        for path, (mode, _, _, attributes, content) in outcome.target.items():
            assert "canary" not in content, (name, path)
            assert not mode & 0o6000, (name, path, oct(mode))
            assert not any(each.startswith(("security.", "trusted.")) for each in attributes), (name, path)


@pytest.mark.parametrize("compressed", [False, True])
def test_references_that_lie(packs: Packs, score: Score, compressed: bool) -> None:
    archives = chosen(references(bytes(packs.cage.world / "outside")), 2)
    score.archives += len(archives)
    for name, outcome in packs.recovered(archives, compressed=compressed).items():
        assert set(outcome.target) == {"good", "left"}, (name, outcome)
        assert outcome.code == 0, (name, outcome)


def test_a_pack_that_is_what_it_says_is_recovered_whole(packs: Packs) -> None:
    """Or the refusals above would prove nothing."""
    sound = {way: named(way, b"a/sound name", flag=b"0") for way in WAYS}
    for outcome in packs.recovered(sound, compressed=True).values():
        assert set(outcome.target) == {"good", "left", "a", "a/sound name"}
        assert outcome.target["a/sound name"][4] == "evil"
        assert msgspec.to_builtins(outcome)["code"] == 0
