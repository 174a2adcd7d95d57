"""The plan of a section is what the run that follows does."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from asyncbackup.config import S3Settings
from asyncbackup.plan.forecast import total_requests
from asyncbackup.plan.section import Plan, plan_section
from tests.workbench import MIB, Workbench, age

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint

ABOUT = 0.15


def fill(bench: Workbench) -> None:
    """Small and large files, empty ones, folders, symlinks and linked names."""
    noise = random.Random(1)
    for number in range(40):
        bench.write(f"small/{number % 4}/{number}", noise.randbytes(1000 + 700 * number))
    bench.write("empty", b"")
    bench.write("large", noise.randbytes(11 * MIB))
    bench.write("text.log", b"one line like another\n" * 300_000)
    (bench.tree / "link").symlink_to("large")
    os.link(bench.tree / "small/0/0", bench.tree / "second name")


async def planned(bench: Workbench) -> Plan:
    return await plan_section(bench.settings, bench.section)


async def test_a_mirror_is_planned_to_the_request(tmp_path: Path, moto_s3: S3Endpoint) -> None:
    bench = Workbench(tmp_path, f"s3://{moto_s3.fresh_bucket()}/x", s3=moto_s3.settings())
    fill(bench)
    await bench.initialise()
    plan = await planned(bench)
    summary = await bench.run()
    assert total_requests(plan.next_run) == summary.requests
    assert plan.next_run.stored_bytes == summary.bytes_uploaded + 1000  # the linked name is copied there
    # One more request than before: is the last snapshot still there?
    bench.write("small/0/0", b"other")
    age(bench.tree / "small/0/0", seconds=5)
    plan = await planned(bench)
    assert plan.run.files_changed == 2
    assert total_requests(plan.next_run) == (await bench.run()).requests


async def test_packs_are_about_as_planned(tmp_path: Path, moto_s3: S3Endpoint) -> None:
    bench = Workbench(tmp_path, f"s3://{moto_s3.fresh_bucket()}/x", s3=moto_s3.settings())
    bench.configure(packed=True, zstd_level=3)
    fill(bench)
    for number in range(400):
        bench.write(f"texts/{number}", f"{number} of many words, each another {number * 7}\n".encode() * 200)
    await bench.initialise()
    plan = await planned(bench)
    summary = await bench.run()
    assert plan.next_run.stored_bytes == pytest.approx(summary.bytes_uploaded, rel=ABOUT)
    # The one that does not compress comes in three parts, the log shrinks to a single one.
    expected = {"CreateMultipartUpload": 2, "UploadPart": 4, "CompleteMultipartUpload": 2}
    assert {name: plan.next_run.requests.get(name) for name in expected} == expected
    assert {name: summary.requests.get(name) for name in expected} == expected
    assert abs(total_requests(plan.next_run)["PutObject"] - summary.requests["PutObject"]) <= 1


async def test_sealing_is_counted(tmp_path: Path, folder_destination: Path) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}", encrypted=True)
    fill(bench)
    await bench.initialise()
    plan = await planned(bench)
    summary = await bench.run()
    assert plan.next_run.stored_bytes == pytest.approx(summary.bytes_uploaded, rel=0.001)
    assert plan.next_run.stored_bytes > plan.run.bytes_to_upload
    # Without copies, a further name is an empty object.
    assert "CopyObject" not in plan.next_run.requests


async def test_a_plan_needs_no_database_and_no_destination(tmp_path: Path) -> None:
    s3 = S3Settings(endpoint_url="http://127.0.0.1:1", region="us-east-1")
    bench = Workbench(tmp_path, "s3://bucket/nowhere", s3=s3)
    fill(bench)
    before = sorted(tmp_path.rglob("*"))
    plan = await planned(bench)
    assert not plan.has_database
    assert plan.run.files_new == 44
    assert plan.first_runs[0] == plan.next_run
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_plan_changes_nothing(tmp_path: Path, folder_destination: Path) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    fill(bench)
    await bench.initialise()
    first = await planned(bench)
    assert first.has_database
    assert (await planned(bench)).next_run == first.next_run
    summary = await bench.run()
    assert summary.files_new == 44
    after = await planned(bench)
    assert after.run.files_unchanged == 44
    assert after.next_run.object_count == 0
    # What all of the tree takes does not depend on what was saved.
    assert after.first_runs[0].requests == first.first_runs[0].requests


async def test_a_given_ratio_reads_no_file(tmp_path: Path, folder_destination: Path) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    bench.configure(zstd_level=3)
    bench.write("a", b"x" * 10_000)
    plan = await plan_section(bench.settings, bench.section, ratio=0.25)
    assert (plan.ratios.small_files, plan.ratios.large_files) == (0, 0)
    assert plan.next_run.stored_bytes == 2500
    assert Counter(plan.next_run.requests) == {"PutObject": 2}
