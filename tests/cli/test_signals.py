"""Ctrl-C: once stops cleanly and the next run goes on, twice ends the process at once."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.servers.proxy import FaultProxy, Gate

if TYPE_CHECKING:
    from tests.cli.conftest import Cli
    from tests.servers import S3Endpoint

FILES = 40


def prepare(cli: Cli, url: str, bucket: str) -> None:
    cli.configure(
        f'state_dir = "state"\nconcurrency = 1\n[s3]\nendpoint_url = "{url}"\nregion = "us-east-1"\n'
    )
    cli.section(destination=f"s3://{bucket}/backups")
    for number in range(FILES):
        (cli.tree / f"file-{number:02}").write_text(f"content {number}\n")


async def finish(cli: Cli, *arguments: str) -> dict[str, object]:
    """The last event of a command that has to succeed."""
    process = await cli.start(*arguments, "--json")
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return msgspec.json.decode(out.splitlines()[-1], type=dict[str, object])


async def read_until(stream: asyncio.StreamReader | None, text: str) -> None:
    assert stream is not None
    async for line in stream:
        if text in line.decode():
            return
    pytest.fail(f"the process ended without saying {text!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_the_first_signal_stops_cleanly(
    cli: Cli, seaweed_s3: S3Endpoint, number: signal.Signals
) -> None:
    async with FaultProxy(seaweed_s3.url) as proxy:
        prepare(cli, proxy.url, seaweed_s3.fresh_bucket())
        await finish(cli, "initdb")
        gate = Gate()
        proxy.plan("PutObject", gate.hold, skip=5)
        process = await cli.start("run", "--json")
        assert process.stdout is not None
        await gate.reached.wait()
        process.send_signal(number)
        await read_until(process.stderr, "stopping cleanly")
        gate.open()
        (line,) = (await process.stdout.read()).splitlines()
        assert await process.wait() == 130
        event = msgspec.json.decode(line, type=dict[str, object])
        assert (event["event"], event["code"]) == ("error", 130)
        assert (await finish(cli, "snapshots"))["snapshots"] == 0
        puts = proxy.requests["PutObject"]
        summary = await finish(cli, "run")
        assert summary["files_new"] == summary["files_scanned"] == FILES + 2
        # What the stopped run uploaded is not sent again.
        assert proxy.requests["PutObject"] - puts < FILES + 5


async def test_the_second_signal_ends_the_process_at_once(cli: Cli, seaweed_s3: S3Endpoint) -> None:
    async with FaultProxy(seaweed_s3.url) as proxy:
        prepare(cli, proxy.url, seaweed_s3.fresh_bucket())
        await finish(cli, "initdb")
        gate = Gate()
        plan = proxy.plan("PutObject", gate.hold, skip=5)
        process = await cli.start("run")
        await gate.reached.wait()
        process.send_signal(signal.SIGINT)
        await read_until(process.stderr, "press Ctrl-C again")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        gate.open()
        assert plan.fired == 1
        summary = await finish(cli, "run")
        assert (summary["files_failed"], summary["files_scanned"]) == (0, FILES + 2)


async def test_a_command_without_state_is_cancelled(cli: Cli, seaweed_s3: S3Endpoint) -> None:
    async with FaultProxy(seaweed_s3.url) as proxy:
        prepare(cli, proxy.url, seaweed_s3.fresh_bucket())
        await finish(cli, "initdb")
        gate = Gate()
        proxy.plan("*", gate.hold)
        process = await cli.start("snapshots", "--json")
        await gate.reached.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert process.returncode == 130
        assert b'"code":130' in out
        assert err == b"asyncbackup: error: interrupted\n"


async def test_two_runs_of_one_section_exclude_each_other(cli: Cli, seaweed_s3: S3Endpoint) -> None:
    async with FaultProxy(seaweed_s3.url) as proxy:
        prepare(cli, proxy.url, seaweed_s3.fresh_bucket())
        await finish(cli, "initdb")
        gate = Gate()
        proxy.plan("PutObject", gate.hold)
        first = await cli.start("run")
        await gate.reached.wait()
        second = await cli.start("run", "--json")
        out, _ = await second.communicate()
        assert second.returncode == 5
        assert b'"code":5' in out
        gate.open()
        await first.communicate()
        assert first.returncode == 0
