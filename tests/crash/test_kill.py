"""A killed run loses nothing: the next one ends clean, sends little again, and leaves nothing behind."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.engine import OUTCOMES
from asyncbackup.pipeline.recorder import BATCH_OUTCOMES
from tests.contract.backends import pattern
from tests.crash.conftest import KilledRun
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from asyncbackup.config import Settings
    from tests.servers import S3Endpoint

SEED = 20261122
CLEAN_REQUESTS = 29
"""At least: 22 small files, a multipart upload's five, the copy, the manifest; without folders, which
this server does not keep as objects."""
MORE_FILES = 250
"""Well over twice what a kill may cost in receipts."""
_chosen = random.Random(SEED)
CASES = sorted(
    (_chosen.randrange(CLEAN_REQUESTS), moment) for moment in ("before", "within", "after") for _ in range(3)
)


def unfinished_uploads(endpoint: S3Endpoint, bench: Workbench) -> list[object]:
    bucket = bench.section.destination.removeprefix("s3://").partition("/")[0]
    client = endpoint.client()
    try:
        return list(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))
    finally:
        client.close()


@pytest.mark.parametrize(("request_number", "moment"), CASES)
async def test_killed_at_a_request(
    crash_bench: Callable[[], Awaitable[Workbench]],
    rclone_s3: S3Endpoint,
    request_number: int,
    moment: str,
) -> None:
    bench = await crash_bench()
    await KilledRun(bench).at(rclone_s3, request_number, moment)

    summary = await bench.run()

    assert summary.files_failed == 0
    assert picture(await bench.restored()) == picture(bench.tree)
    assert unfinished_uploads(rclone_s3, bench) == []
    third = await bench.run()
    assert third.files_unchanged == third.files_scanned
    assert set(third.requests) <= {"HeadObject", "PutObject", "ListObjectsV2"}


async def test_what_was_uploaded_is_not_uploaded_again(
    crash_bench: Callable[[], Awaitable[Workbench]], rclone_s3: S3Endpoint
) -> None:
    bench = await crash_bench()
    bench.settings = _one_at_a_time(bench)
    (bench.tree / "large").unlink()
    for number in range(MORE_FILES):
        bench.write(f"more/file{number}")
    arrived = await KilledRun(bench).at(rclone_s3, MORE_FILES, "before")
    sent = arrived["PutObject"] - 1
    assert sent >= MORE_FILES - 10
    summary = await bench.run()
    # One was in flight. Receipts wait for the recorder in a channel and in the transaction that is being
    # written, however slow the disk is. The run's mark and the manifest are its own.
    lost = 1 + (OUTCOMES + 2) + BATCH_OUTCOMES
    assert summary.requests["PutObject"] <= summary.files_new - sent + lost + 2
    assert summary.files_new == MORE_FILES + 22, "against the last snapshot all of them are new"


async def test_a_multipart_upload_goes_on_at_its_next_missing_part(
    crash_bench: Callable[[], Awaitable[Workbench]], rclone_s3: S3Endpoint
) -> None:
    bench = await crash_bench()
    for path in bench.tree.rglob("f*"):
        path.unlink()
    content = (bench.tree / "large").read_bytes() * 2
    (bench.tree / "large").write_bytes(content)
    # One request at a time: create, part 1, part 2, and the third part is the last that is seen.
    bench.settings = _one_at_a_time(bench)
    killed = KilledRun(bench)
    arrived = await killed.at_part(rclone_s3, 3)
    assert arrived["UploadPart"] == 3
    summary = await bench.run()
    assert summary.requests["UploadPart"] == 5 - 2, "22 MiB are five parts, two were acknowledged"
    assert "CreateMultipartUpload" not in summary.requests
    assert (await bench.restored() / "large").read_bytes() == content
    assert unfinished_uploads(rclone_s3, bench) == []


async def test_parts_that_were_copied_are_not_copied_again(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    bench = Workbench(tmp_path, f"s3://{seaweed_s3.fresh_bucket()}/prefix", s3=seaweed_s3.settings())
    bench.settings = msgspec.structs.replace(bench.settings, memory_limit_bytes=10 * MIB, concurrency=1)
    await bench.initialise()
    path = bench.write("disk.img", pattern(65 * MIB))
    await bench.run()
    path.write_bytes(pattern(65 * MIB) + b"!")
    arrived = await KilledRun(bench).at_part(seaweed_s3, 5, operation="UploadPartCopy")
    assert arrived["UploadPartCopy"] == 5, "the trial, three parts, and the one that was killed"

    summary = await bench.run()

    assert summary.requests["UploadPartCopy"] == 1 + 10
    assert (summary.requests["UploadPart"], summary.bytes_uploaded) == (1, 1)
    assert (await bench.restored() / "disk.img").read_bytes() == path.read_bytes()
    assert unfinished_uploads(seaweed_s3, bench) == []


async def test_a_compressed_upload_is_begun_again(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    bench = Workbench(tmp_path, f"s3://{seaweed_s3.fresh_bucket()}/prefix", s3=seaweed_s3.settings())
    bench.configure(zstd_level=1)
    await bench.initialise()
    noise = pattern(10_000_000)
    words = b"".join(
        b"%08d words and words " % number + noise[number * 10 : number * 10 + 10]
        for number in range(1_000_000)
    )
    path = bench.write("words", words)
    await KilledRun(bench).at_part(seaweed_s3, 2)

    summary = await bench.run()

    assert summary.requests["CreateMultipartUpload"] == 1
    extent = (await bench.entries())[b"words"].extent
    assert extent is not None
    assert extent.compression == "zstd"
    assert extent.run == summary.snapshot
    assert summary.bytes_uploaded == extent.length < len(words), "nothing of the first attempt is used"
    assert (await bench.restored() / "words").read_bytes() == path.read_bytes()
    assert unfinished_uploads(seaweed_s3, bench) == []


async def test_a_file_that_changed_since_is_begun_again(
    crash_bench: Callable[[], Awaitable[Workbench]], rclone_s3: S3Endpoint
) -> None:
    bench = await crash_bench()
    bench.settings = _one_at_a_time(bench)
    await KilledRun(bench).at_part(rclone_s3, 2)
    content = b"n" * (12 * MIB)
    (bench.tree / "large").write_bytes(content)
    summary = await bench.run()
    assert summary.requests["CreateMultipartUpload"] == 1
    assert (await bench.restored() / "large").read_bytes() == content
    assert unfinished_uploads(rclone_s3, bench) == []


def _one_at_a_time(bench: Workbench) -> Settings:
    return msgspec.structs.replace(bench.settings, concurrency=1)
