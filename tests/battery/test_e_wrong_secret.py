"""(e) A wrong pass phrase, and key derivations out of bounds, fail before anything else is asked for."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.descriptor import CEILING, FLOOR
from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.repository.create import create_repository
from tests.battery.limited import MIB, limited
from tests.battery.selection import selected
from tests.servers.proxy import FaultProxy
from tests.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.score import Score
    from tests.servers import S3Endpoint

COMMANDS = {
    "run": ["run"],
    "restore": ["restore", "--target"],
    "ls": ["ls"],
    "snapshots": ["snapshots"],
    "verify": ["verify", "--read-data"],
    "find": ["find", "*"],
    "prune": ["prune"],
    "syncdb": ["syncdb_remote"],
    "from objects": ["syncdb_remote", "--from-objects"],
    "rotate": ["key", "rotate", "home", "--new-passphrase-file"],
}
BOUNDS = [
    (name, value)
    for name in ("iterations", "memory_kib", "lanes")
    for value in (0, -1, getattr(FLOOR, name) - 1, getattr(CEILING, name) + 1, 2**31, 2**64)
]
PEAK_BYTES = 128 * MIB
"""Some 60 MiB are the program itself. One derivation above the ceiling would take over 1 GiB."""


async def made(base: Path, destination: str, endpoint: S3Endpoint | None = None) -> Workbench:
    """An encrypted section whose pass phrase costs as little as it may."""
    bench = Workbench(base, destination, s3=endpoint.settings() if endpoint else None, encrypted=True)
    await create_repository(bench.settings, bench.section, cost=FLOOR)
    return bench


@pytest.mark.parametrize("command", selected(COMMANDS, 1, name="wrong pass phrase"))
async def test_a_wrong_pass_phrase_asks_for_the_descriptor_alone(
    tmp_path: Path, rclone_s3: S3Endpoint, command: str
) -> None:
    bench = await made(tmp_path, f"s3://{rclone_s3.fresh_bucket()}/prefix", rclone_s3)
    bench.write("f", b"content")
    await bench.initialise()
    await bench.run()
    secret = bench.section.encryption.passphrase_file
    assert secret is not None
    shutil.copy(secret, tmp_path / "new")
    secret.write_text("another\n")
    arguments = {"restore": [str(tmp_path / "target")], "rotate": [str(tmp_path / "new")]}.get(command, [])
    async with FaultProxy(rclone_s3.url) as proxy:
        config = bench.config_file(endpoint_url=proxy.url)
        ended = await asyncio.to_thread(limited, ["-c", str(config), *COMMANDS[command], *arguments])
        assert dict(proxy.requests) == {"GetObject": 1}
    assert ended.code == 1
    assert "opens none of the repository's 1 key slot" in ended.stderr
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize(("name", "value"), selected(BOUNDS, 2, name="bounds"))
async def test_a_key_derivation_out_of_bounds_is_refused_before_it_costs_anything(
    tmp_path: Path, folder_destination: Path, score: Score, name: str, value: int
) -> None:
    bench = await made(tmp_path, f"file://{folder_destination}")
    path = folder_destination / DESCRIPTOR_KEY
    descriptor = json.loads(path.read_bytes())
    descriptor["slots"][0]["kdf"][name] = value
    path.write_text(json.dumps(descriptor))
    score.archives += 1
    arguments = ["-c", str(bench.config_file()), "restore", "--target", str(tmp_path / "target")]
    ended = await asyncio.to_thread(limited, arguments)
    assert ended.code == 1
    assert name in ended.stderr
    assert ended.peak_bytes < PEAK_BYTES
    assert not (tmp_path / "target").exists()
