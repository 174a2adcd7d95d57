"""(a) Runs killed at every request, at three points of it, also twice: one clean run makes up for it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.pipeline import attributes
from tests.battery.crash_bench import LAYOUTS, MOMENTS, DoomedProcess, make_bench
from tests.battery.invariants import check_invariants
from tests.battery.score import Score, ScoredProxy
from tests.battery.selection import FULL, SEED, selected

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint

CLEAN_REQUESTS = {"mirror": 225, "packed": 18, "sealed packed": 19}
"""Of the run that saves the grown tree; a test below counts them."""
LEAST_REQUESTS = 5
"""Of any run that commits: mark, two listings, a look at the last snapshot, the manifest."""

KILLS = [
    case
    for layout in LAYOUTS
    for case in selected(
        ((layout, moment, request) for request in range(CLEAN_REQUESTS[layout]) for moment in MOMENTS),
        2 if layout == "mirror" else 1,
        name=layout,
    )
]
TWICE = range(200 if FULL else 1)


@pytest.fixture(autouse=True)
def _files_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "RACY_WINDOW_NS", 0)


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_the_requests_of_a_clean_run(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str
) -> None:
    bench, earlier = await make_bench(tmp_path, rclone_s3, layout)
    async with ScoredProxy(rclone_s3.url, score) as proxy:
        bench.settings = msgspec.structs.replace(
            bench.settings, s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        await bench.run()
        assert proxy.requests.total() == CLEAN_REQUESTS[layout]
        bench.settings = msgspec.structs.replace(bench.settings, s3=rclone_s3.settings())
    await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize(("layout", "moment", "request_number"), KILLS)
async def test_killed_at_a_request(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str, moment: str, request_number: int
) -> None:
    bench, earlier = await make_bench(tmp_path, rclone_s3, layout)
    await DoomedProcess(bench, score).at(rclone_s3, request_number, moment)
    await check_invariants(bench, earlier=earlier)


@pytest.mark.parametrize("seed", TWICE)
async def test_killed_again_while_it_makes_up(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, seed: int
) -> None:
    chosen = random.Random(f"{SEED} {seed}")
    layout = LAYOUTS[seed % len(LAYOUTS)]
    bench, earlier = await make_bench(tmp_path, rclone_s3, layout)
    request = chosen.randrange(CLEAN_REQUESTS[layout] - 1)
    await DoomedProcess(bench, score).at(rclone_s3, request, chosen.choice(MOMENTS))
    # What was in flight may be saved already: only what every run asks is certain to come.
    again = chosen.randrange(max(LEAST_REQUESTS, CLEAN_REQUESTS[layout] - request - 20))
    await DoomedProcess(bench, score).at(rclone_s3, again, chosen.choice(MOMENTS))
    await check_invariants(bench, earlier=earlier)
