"""(d) The cage itself: what escapes is noticed, and nothing escapes further than the world in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.battery.cage import Cage, needs_cage
from tests.unit.restore.backup import SECTION, Backup

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_cage


def test_a_restore_over_the_canaries_is_noticed_and_one_elsewhere_impossible(tmp_path: Path) -> None:
    backup = Backup(tmp_path)
    (backup.source / "f").write_text("content")
    asyncio.run(backup.create())
    asyncio.run(backup.save_tree())
    config = tmp_path / "asyncbackup.toml"
    config.write_text(
        f'state_dir = "{tmp_path}/state"\n[sections.{SECTION}]\npath = "{tmp_path}/source"\n'
        f'destination = "{backup.section.destination}"\n'
    )
    cage = Cage(tmp_path)
    sound = cage.restoring(config, SECTION)

    def elsewhere(target: str) -> list[str]:
        return [*sound.arguments[:-1], target]

    places = [msgspec.structs.replace(sound, arguments=elsewhere(place)) for place in ("/", "/root/x", "/x")]
    outcome, *refused = cage.run([sound, *places])
    assert (outcome.code, outcome.target["f"][4]) == (0, "content")
    assert all(each.code for each in refused)
    over = msgspec.structs.replace(sound, arguments=elsewhere(str(cage.world / "outside")))
    with pytest.raises(AssertionError):
        cage.run([over])
