"""(s) Failures that users of other tools have reported, each a test.

``STORIES`` names the tests that keep each from happening here; those that stand nowhere else are below.
"""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from asyncbackup.store.endpoint_clock import EndpointClock
from tests.battery.invariants import check_invariants
from tests.battery.machines import machines
from tests.battery.score import ScoredProxy
from tests.battery.selection import selected
from tests.battery.syscalls import injected, needs_strace
from tests.servers.proxy import answering, error_body
from tests.workbench import MIB, Workbench

if TYPE_CHECKING:
    from tests.battery.score import Score
    from tests.servers import S3Endpoint
    from tests.servers.proxy import Exchange

ROOT = Path(__file__).parents[2]
HERE = "tests/battery/test_s_stories.py"
STORIES = {
    "s5cmd #751: a name that is no UTF-8 ended the sync, exit 0": [
        f"{HERE}::test_names_that_are_no_text_end_nothing",
        "tests/pipeline/test_run.py::test_every_name_comes_back_byte_for_byte",
        "tests/battery/test_c_metadata.py::test_every_name_comes_back",
    ],
    "aws-sdk-java-v2 #7068: 200 OK that carried an error lost data": [
        "tests/contract/test_faults_writing.py::test_200_with_an_error_is_no_success",
        "tests/contract/test_lean_path.py::test_a_success_with_an_error_in_it_is_none",
    ],
    "minio/mc #2373: a source that vanished emptied the target": [
        "tests/pipeline/test_run.py::test_a_missing_source_stops_the_run",
        "tests/pipeline/test_run.py::test_a_suddenly_empty_source_stops_the_run_unless_allowed",
        "tests/battery/test_c_reading.py::test_a_source_that_is_not_mounted_any_more",
    ],
    "restic #2179: a content changed with its mtime kept was missed": [
        "tests/pipeline/test_run.py::test_a_rewrite_with_its_mtime_put_back_is_seen",
    ],
    "restic #2495: chmod made everything be read again": [
        "tests/pipeline/test_run.py::test_chmod_and_new_owner_upload_and_read_nothing",
    ],
    "breeze #5581: the size of the walk with the bytes of the upload": [
        "tests/battery/test_c_reading.py::test_a_large_file_that_changes_while_it_is_read",
        "tests/unit/pipeline/test_small_reader.py::test_a_file_that_shrinks_while_it_is_read_is_read_again",
        "tests/unit/pipeline/test_small_reader.py::test_a_file_that_never_stands_still_is_a_failure_and_no_mixture",
    ],
    "restic #2366: reads from CIFS that never came to an end": [
        f"{HERE}::test_a_file_without_an_end",
    ],
    "restic #22034: a frozen connection, its watchdog swallowed by retries": [
        "tests/contract/test_frozen_servers.py::test_one_that_never_moves_again",
        "tests/contract/test_frozen_servers.py::test_a_run_goes_on_when_the_server_does",
    ],
    "restic #4018: 503s were given up on": [
        "tests/pipeline/test_servers.py::test_an_endpoint_that_throttles_is_waited_for",
    ],
    "minio #14566: 503s were hammered": [
        "tests/unit/store/test_retry.py::test_a_storm_of_30_seconds_costs_few_requests",
    ],
    "aws-cli #4863: expired credentials failed each remaining file": [
        f"{HERE}::test_expired_credentials_end_the_run_once",
        "tests/contract/test_faults_writing.py::test_credentials_that_were_renewed_meanwhile",
    ],
    "aiobotocore #662, #864: signatures aged in queues": [
        f"{HERE}::test_what_waits_is_not_yet_signed",
    ],
    "incus #3651: If-None-Match was ignored by an endpoint": [
        "tests/battery/test_f_permissions.py::test_two_that_create_one_repository_where_conditions_are_ignored",
        "tests/battery/test_f_permissions.py::test_a_descriptor_that_was_written_over_is_noticed_before_anything_else_is",
        "tests/contract/test_faults_writing.py::test_a_conditional_put_where_conditions_are_unknown",
    ],
    "aws-cli #9214: checksum trailers were refused": [
        "tests/contract/test_faults_writing.py::test_what_a_put_looks_like_on_the_wire",
        "tests/contract/test_faults_writing.py::test_checksums_of_parts_where_they_are_refused",
    ],
    "opendal #2904: R2 wants parts of one size": [
        f"{HERE}::test_the_parts_of_every_upload_have_one_size",
        "tests/unit/pipeline/test_encryptor.py::test_parts_are_of_one_size_and_make_one_message",
    ],
    "aws-sdk #795: metadata beyond ASCII came back as SignatureDoesNotMatch": [
        "tests/contract/test_lean_path.py::test_metadata_that_cannot_stand_in_a_header",
        "tests/pipeline/test_servers.py::test_saved_and_restored",
    ],
    "kopia #1242: a stale index let a prune delete what was in use": [
        "tests/pipeline/test_prune.py::test_a_prune_elsewhere_makes_the_database_be_read_anew",
        "tests/battery/test_f_beside_a_prune.py::test_a_backup_that_stands_still_while_a_prune_runs",
        "tests/battery/test_f_locks.py::test_a_machine_that_slept_for_so_long_that_it_was_taken_for_dead",
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_every_story_has_its_tests(story: str) -> None:
    assert STORIES[story]
    for place in STORIES[story]:
        path, _, name = place.partition("::")
        assert re.search(rf"(?m)^ *(async )?def {name}\(", (ROOT / path).read_text()), place


async def test_names_that_are_no_text_end_nothing(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score
) -> None:
    """Everything before and behind them is saved, and exit 0 means it."""
    bench = Workbench(tmp_path, f"s3://{memory_s3.fresh_bucket()}", s3=memory_s3.settings())
    names = [
        b"a before",
        b"e samedi 31\xff07.flv",
        b"e\xcc\x81\xed\xa0\x80",
        b"(unclosed [regexp",
        b"z behind",
    ]
    for name in names:
        bench.write(name, b"content of " + name)
    score.names += len(names)
    async with machines(memory_s3, score, bench) as (here,):
        for command in ("initdb", "run", "verify"):
            ended = await here.run(command)
            assert ended.code == 0, ended
        ended = await here.run("list_remote", "--json")
    listed = [msgspec.json.decode(line) for line in ended.said.splitlines()]
    assert sum(event["event"] == "entry" and event["kind"] == "file" for event in listed) == len(names)
    await check_invariants(bench)


@needs_strace
async def test_a_file_without_an_end(tmp_path: Path, folder_destination: Path) -> None:
    """Every read of it gives a byte, for ever. It is named, the others are saved."""
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    await bench.initialise()
    endless = bench.write("endless", b"x" * 500)
    bench.write("other", b"content")
    ended = injected(
        ["-c", str(bench.config_file()), "run"], "read,pread64,readv", "retval=1", paths=[endless]
    )
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "endless" in ended.stdout + ended.stderr
    assert set(await bench.entries()) == {b"", b"other"}
    await check_invariants(bench)


async def test_expired_credentials_end_the_run_once(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score
) -> None:
    bench = Workbench(tmp_path, f"s3://{memory_s3.fresh_bucket()}", s3=memory_s3.settings())
    for number in range(300):
        bench.write(f"file {number:03}", b"%d" % number)
    async with machines(memory_s3, score, bench) as (here,):
        ended = await here.run("initdb")
        assert ended.code == 0, ended
        sent = here.proxy.requests.total()
        here.proxy.plan("PutObject", answering(400, error_body("ExpiredToken")), times=0, skip=20)
        ended = await here.run("run")
        assert ended.code == 1, ended
        assert ended.said.count("ExpiredToken") == 1, ended
        assert here.proxy.requests.total() - sent < 30 + 4 * bench.settings.concurrency
    await check_invariants(bench)


async def test_what_waits_is_not_yet_signed(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first body takes an hour. What waited for its place meanwhile says the time of its own sending."""
    bench = Workbench(tmp_path, f"s3://{memory_s3.fresh_bucket()}", s3=memory_s3.settings())
    bench.settings = msgspec.structs.replace(bench.settings, concurrency=1)
    for number in range(20):
        bench.write(f"file {number:02}", b"%d" % number)
    await bench.initialise()
    clock = [1_800_000_000.0]
    monkeypatch.setattr(EndpointClock, "now", lambda clock_: clock[0])
    stamps: list[tuple[str, float]] = []

    async def look(exchange: Exchange) -> None:
        stamps.append((exchange.request.headers["x-amz-date"], clock[0]))
        clock[0] += 3600.0
        await exchange.pass_on(await exchange.forward())

    async with ScoredProxy(memory_s3.url, score) as proxy:
        proxy.plan("PutObject", look, times=20, path="/files/")
        bench.settings = msgspec.structs.replace(
            bench.settings, s3=memory_s3.settings(endpoint_url=proxy.url)
        )
        assert (await bench.run()).failures == ()
    assert [stamp for stamp, _ in stamps] == [_stamp(seconds) for _, seconds in stamps]


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


@pytest.mark.parametrize(
    "layout", selected(("plain", "sealed", "compressed", "sealed compressed"), 2, name="part sizes")
)
async def test_the_parts_of_every_upload_have_one_size(
    tmp_path: Path, memory_s3: S3Endpoint, score: Score, layout: str
) -> None:
    """All but the last, which is no larger."""
    bench = Workbench(
        tmp_path,
        f"s3://{memory_s3.fresh_bucket()}",
        s3=memory_s3.settings(),
        encrypted=layout.startswith("sealed"),
    )
    bench.configure(zstd_level=1 if layout.endswith("compressed") else 0)
    # As hex digits it shrinks by half: enough to be compressed, not so much that one part will do.
    body = random.Random(1).randbytes(12 * MIB).hex().encode()
    bench.write("large", body)
    bench.write("larger", body + body[: 7 * MIB])
    await bench.initialise()
    sizes: dict[str, dict[int, int]] = defaultdict(dict)

    async def look(exchange: Exchange) -> None:
        query = parse_qs(urlsplit(exchange.request.target).query)
        sizes[query["uploadId"][0]][int(query["partNumber"][0])] = exchange.request.length
        await exchange.pass_on(await exchange.forward())

    async with ScoredProxy(memory_s3.url, score) as proxy:
        proxy.plan("UploadPart", look, times=0)
        bench.settings = msgspec.structs.replace(
            bench.settings, s3=memory_s3.settings(endpoint_url=proxy.url)
        )
        assert (await bench.run()).failures == ()
    assert sizes
    for parts in sizes.values():
        *all_but_the_last, last = (parts[number] for number in sorted(parts))
        assert len(set(all_but_the_last)) == 1
        assert last <= all_but_the_last[0]
