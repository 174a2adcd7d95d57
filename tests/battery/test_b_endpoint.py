"""(b) An endpoint that fails, at the first, a middle, the last or every request of an operation.

Whatever it does: the command survives it or ends with its reason, attempts are bounded, nothing wrong
is saved or restored, and once the endpoint works again one run makes up for everything.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import AsyncBackupError
from asyncbackup.pipeline import attributes
from asyncbackup.verify.section import verify_section
from tests.battery.faults import FAULTS, applies
from tests.battery.invariants import check_invariants
from tests.battery.score import ScoredProxy
from tests.battery.selection import selected
from tests.prunes import forget, prune
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.battery.invariants import Picture
    from tests.battery.score import Score
    from tests.servers import S3Endpoint

ATTEMPTS = 3
CONCURRENCY = 2
QUIET_SECONDS = 2.0
REQUESTS: dict[str, dict[str, int]] = {
    "run": {
        "ListObjectsV2": 1,
        "HeadObject": 1,
        "PutObject": 7,
        "CreateMultipartUpload": 1,
        "UploadPart": 3,
        "CompleteMultipartUpload": 1,
    },
    "restore": {"ListObjectsV2": 2, "GetObject": 8},
    "verify": {"ListObjectsV2": 4, "GetObject": 3, "HeadObject": 6},
    "prune": {"ListObjectsV2": 10, "GetObject": 3, "PutObject": 2, "DeleteObject": 8},
}
"""What each command sends where nothing fails; a test below counts it."""
POSITIONS = ("first", "middle", "last", "permanent")


def cases(command: str) -> list[tuple[str, str, str, str]]:
    return [
        (command, operation, fault, position)
        for operation in REQUESTS[command]
        for fault in FAULTS
        if applies(fault, operation)
        for position in POSITIONS
        if position in ("first", "permanent") or REQUESTS[command][operation] > POSITIONS.index(position)
    ]


ALWAYS = {
    ("run", "CreateMultipartUpload", "mid-body", "first"),
    ("run", "CreateMultipartUpload", "unanswered", "first"),
    ("restore", "GetObject", "bit", "first"),
    ("restore", "GetObject", "bit", "permanent"),
}
"""An upload begun twice and told of once; a selection made of what was misread."""
CASES = [case for command in REQUESTS for case in selected(cases(command), 4, name=command, always=ALWAYS)]


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


async def make_bench(base: Path, endpoint: S3Endpoint) -> tuple[Workbench, dict[str, Picture]]:
    """A section with two snapshots (of which one is forgotten), an upload that was left, and changes."""
    bench = Workbench(base, f"s3://{endpoint.fresh_bucket()}/prefix", s3=endpoint.settings())
    bench.settings = msgspec.structs.replace(bench.settings, concurrency=CONCURRENCY)
    chosen = random.Random(5)
    for number in range(6):
        bench.write(f"d{number % 2}/f{number}", chosen.randbytes(100 * number + 1))
    await bench.initialise()
    first = (await bench.run()).snapshot
    for number in range(4):
        bench.write(f"d{number % 2}/f{number}", chosen.randbytes(100 * number + 2))
    second = (await bench.run()).snapshot
    earlier = {second: picture(bench.tree)}
    await forget(bench, first)
    for number in range(5):
        bench.write(f"d{number % 2}/f{number}", chosen.randbytes(100 * number + 3))
    bench.write("large", chosen.randbytes(10 * MIB + 77))
    return bench, earlier


async def perform(bench: Workbench, command: str, looked: Picture) -> bool:
    """Whether the command ended as if nothing had failed. What it says and leaves has to be right."""
    try:
        match command:
            case "run":
                return not (await bench.run()).failures
            case "verify":
                return not (await verify_section(bench.settings, bench.section)).damaged
            case "prune":
                await prune(bench)
                return True
        target = bench.base / "target"
        summary = await bench.restore(target)
        restored = picture(target)
        restored.pop(b".")
        for name, found in restored.items():
            if b".asyncbackup-restore-" not in name and found[5] is not None:
                assert found == looked[name]
        named = {failure.path for failure in summary.failures}
        assert named or set(restored) | {b"."} == set(looked)
        return not named
    except AsyncBackupError as error:
        reason = str(error)
    assert reason
    assert "\n" not in reason
    return False


async def through(bench: Workbench, endpoint: S3Endpoint, url: str, *, quiet: bool = False) -> None:
    """Let the section's requests go to ``url``."""
    timeout = QUIET_SECONDS if quiet else 60.0
    s3 = endpoint.settings(endpoint_url=url, max_attempts=ATTEMPTS, timeout_seconds=timeout)
    bench.settings = msgspec.structs.replace(bench.settings, s3=s3)


@pytest.mark.parametrize("command", REQUESTS)
async def test_the_requests_of_a_clean_command(
    tmp_path: Path, seaweed_s3: S3Endpoint, score: Score, command: str
) -> None:
    bench, earlier = await make_bench(tmp_path, seaweed_s3)
    async with ScoredProxy(seaweed_s3.url, score) as proxy:
        await through(bench, seaweed_s3, proxy.url)
        assert await perform(bench, command, list(earlier.values())[-1])
        assert dict(proxy.requests) == REQUESTS[command]


@pytest.mark.parametrize(("command", "operation", "fault", "position"), CASES)
async def test_a_fault(
    tmp_path: Path,
    seaweed_s3: S3Endpoint,
    score: Score,
    command: str,
    operation: str,
    fault: str,
    position: str,
) -> None:
    bench, earlier = await make_bench(tmp_path, seaweed_s3)
    usual = REQUESTS[command]
    async with ScoredProxy(seaweed_s3.url, score) as proxy:
        skip = {"middle": usual[operation] // 2, "last": usual[operation] - 1}.get(position, 0)
        times = 0 if position == "permanent" else 1
        plan = proxy.plan(operation, FAULTS[fault].action, times=times, skip=skip)
        await through(bench, seaweed_s3, proxy.url, quiet=fault == "silence")

        clean = await perform(bench, command, list(earlier.values())[-1])

        if FAULTS[fault].passing and position != "permanent":
            assert clean, "what happens once is survived"
        if position == "permanent":
            assert plan.fired <= ATTEMPTS * (usual[operation] + 2)
        assert proxy.requests.total() <= 1.3 * sum(usual.values()) + 2 * ATTEMPTS * CONCURRENCY
    await through(bench, seaweed_s3, seaweed_s3.url)
    if command == "restore":
        assert await perform(bench, command, list(earlier.values())[-1]), "the same restore goes on"
    await check_invariants(bench, earlier=earlier)
