"""Large files that changed: what is sent, what is taken over at the destination, and that nothing is lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.config import Settings
from asyncbackup.errors import Interrupted
from asyncbackup.flow.stop import StopRequest
from asyncbackup.repository.open import open_repository
from asyncbackup.verify.section import verify_section
from tests.contract.backends import pattern
from tests.servers.proxy import Exchange, FaultProxy, answering, error_body
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from asyncbackup.model import RunSummary
    from tests.servers import S3Endpoint

PART = 5 * MIB
SIZE = 4 * PART + MIB
"""Five parts, the last one short."""


def tuned(bench: Workbench, **changes: object) -> Workbench:
    bench.settings = msgspec.structs.replace(bench.settings, **{"delta_from_bytes": 10 * MIB, **changes})
    return bench


@pytest.fixture
async def seaweed_bench(tmp_path: Path, seaweed_s3: S3Endpoint) -> Workbench:
    bench = Workbench(tmp_path, f"s3://{seaweed_s3.fresh_bucket()}/backups", s3=seaweed_s3.settings())
    await bench.initialise()
    return tuned(bench)


@pytest.fixture(params=["local", "seaweed", "moto"])
async def any_bench(request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path) -> Workbench:
    """A section at each kind of destination that copies parts."""
    if request.param == "local":
        bench = Workbench(tmp_path, f"file://{folder_destination}")
    else:
        endpoint: S3Endpoint = request.getfixturevalue(f"{request.param}_s3")
        bench = Workbench(tmp_path, f"s3://{endpoint.fresh_bucket()}/backups", s3=endpoint.settings())
    await bench.initialise()
    return tuned(bench)


def sent(bench: Workbench, summary: RunSummary) -> tuple[int, int]:
    """Parts that were sent, and parts that were copied; an S3 server is tried with one more copy."""
    copied = summary.requests.get("UploadPartCopy", 0)
    trial = 1 if copied and bench.section.destination.startswith("s3:") else 0
    return summary.requests.get("UploadPart", 0), copied - trial


async def check(bench: Workbench, *, name: str = "restored") -> None:
    """The newest snapshot restores to what the tree is, and every object is what it should be."""
    assert picture(await bench.restored(name=name)) == picture(bench.tree)
    verified = await verify_section(bench.settings, bench.section, snapshots=["latest"], read_percent=100.0)
    assert not verified.damaged
    async with open_repository(bench.settings, bench.section) as repository:
        assert [page async for page in repository.store.list_uploads("") if page] == []


async def remembered(bench: Workbench) -> list[tuple[str, str]]:
    """The objects whose parts the database has."""
    path = bench.settings.database_path("home")
    async with Catalog.open(path, section="home", destination=bench.section.destination) as catalog:
        rows = await catalog._connection.execute_fetchall("SELECT run, key FROM part_hashes")
        return [(row[0], row[1]) for row in rows]


def change_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1]))


async def test_one_changed_byte_sends_one_part(any_bench: Workbench) -> None:
    bench = any_bench
    path = bench.write("disk.img", pattern(SIZE))
    first = await bench.run()
    assert sent(bench, first) == (5, 0)
    change_byte(path, 2 * PART + 12345)

    second = await bench.run()

    assert sent(bench, second) == (1, 4)
    assert (second.bytes_read, second.bytes_uploaded) == (SIZE, PART)
    assert second.files_changed == 1
    extent = (await bench.entries())[b"disk.img"].extent
    assert extent is not None
    assert (extent.run, extent.length, extent.part_size) == (second.snapshot, SIZE, PART)
    await check(bench)
    first_restored = await bench.restored(snapshot=first.snapshot, name="first")
    assert (first_restored / "disk.img").read_bytes() == pattern(SIZE)
    assert await remembered(bench) == [(second.snapshot, "files/disk.img")], "the old object's are forgotten"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        # The part that was short before is a full one now.
        (pattern(SIZE) + pattern(7 * MIB, 9), (2, 4)),
        # Whole parts were appended to whole parts.
        (pattern(4 * PART) + pattern(PART, 9), (1, 4)),
        (pattern(3 * PART + 17), (1, 3)),
        (pattern(3 * PART), (0, 3)),
        (b"!" + pattern(SIZE), (5, 0)),
        (pattern(SIZE), (0, 5)),
    ],
    ids=["grown", "last part replaced", "shrunk within a part", "shrunk at a part", "prepended", "touched"],
)
async def test_grown_shrunk_shifted(seaweed_bench: Workbench, content: bytes, parts: tuple[int, int]) -> None:
    bench = seaweed_bench
    bench.write("disk.img", pattern(SIZE))
    await bench.run()
    bench.write("disk.img", content)
    summary = await bench.run()
    assert sent(bench, summary) == parts
    await check(bench)
    third = await bench.run()
    assert third.files_unchanged == 1


async def test_deltas_of_deltas(bench: Workbench) -> None:
    path = tuned(bench).write("disk.img", pattern(SIZE))
    await bench.run()
    for number in range(3):
        change_byte(path, number * PART)
        assert sent(bench, await bench.run()) == (1, 4)
    await check(bench)


async def test_a_moved_part_size_keeps_that_of_the_object(bench: Workbench) -> None:
    path = tuned(bench).write("disk.img", pattern(SIZE))
    await bench.run()
    tuned(bench, part_size_bytes=6 * MIB)
    change_byte(path, 0)
    assert sent(bench, await bench.run()) == (1, 4)
    await check(bench)


async def test_parts_that_memory_has_no_room_for_are_cut_anew(bench: Workbench) -> None:
    path = tuned(bench, part_size_bytes=10 * MIB, memory_limit_bytes=64 * MIB).write(
        "disk.img", pattern(SIZE)
    )
    await bench.run()
    tuned(bench, part_size_bytes=5 * MIB, memory_limit_bytes=8 * MIB)
    change_byte(path, 0)
    assert sent(bench, await bench.run()) == (5, 0)
    await check(bench)


async def test_smaller_files_are_not_compared(bench: Workbench) -> None:
    path = bench.write("disk.img", pattern(SIZE))
    assert Settings(state_dir=bench.base).delta_from_bytes == 64 * MIB
    await bench.run()
    assert await remembered(bench) == []
    change_byte(path, 0)
    assert sent(bench, await bench.run()) == (5, 0)


async def test_sealed_files_are_not_compared(sealed_bench: Workbench) -> None:
    path = tuned(sealed_bench).write("disk.img", pattern(SIZE))
    await sealed_bench.run()
    assert await remembered(sealed_bench) == []
    change_byte(path, 0)
    summary = await sealed_bench.run()
    assert sent(sealed_bench, summary) == (5, 0)


async def test_what_the_tree_no_longer_has_is_forgotten(bench: Workbench) -> None:
    path = tuned(bench).write("disk.img", pattern(SIZE))
    bench.write("other")
    first = await bench.run()
    assert await remembered(bench) == [(first.snapshot, "files/disk.img")]
    path.unlink()
    await bench.run()
    assert await remembered(bench) == [], "nothing refers to the object any more"


async def test_a_source_that_is_gone(
    seaweed_bench: Workbench, seaweed_s3: S3Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    bench = seaweed_bench
    path = bench.write("disk.img", pattern(SIZE))
    first = await bench.run()
    async with open_repository(bench.settings, bench.section) as repository:
        await repository.store.delete([f"home/data/{first.snapshot}/files/disk.img"])
    change_byte(path, 0)
    with caplog.at_level(logging.INFO, logger="asyncbackup"):
        summary = await bench.run()
    assert sent(bench, summary)[0] == 5
    assert summary.bytes_uploaded == SIZE
    assert "'files/disk.img' that did not change are sent all the same" in caplog.text
    assert picture(await bench.restored()) == picture(bench.tree)


async def test_a_source_that_is_damaged_is_not_spread(bench: Workbench, folder_destination: Path) -> None:
    path = tuned(bench).write("disk.img", pattern(SIZE))
    first = await bench.run()
    change_byte(folder_destination / f"home/data/{first.snapshot}/files/disk.img", PART)
    change_byte(path, 0)
    summary = await bench.run()
    assert summary.requests["UploadPart"] >= 2, "the changed one and the damaged one at least"
    await check(bench)


async def test_an_endpoint_that_cannot_copy_parts(
    tmp_path: Path, rclone_s3: S3Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Workbench(tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings())
    await tuned(bench).initialise()
    for name in ("disk.img", "other.img"):
        bench.write(name, pattern(SIZE))
    await bench.run()
    for name in ("disk.img", "other.img"):
        change_byte(bench.tree / name, 0)
    with caplog.at_level(logging.INFO, logger="asyncbackup"):
        summary = await bench.run()
    assert summary.requests["UploadPart"] == 10
    assert summary.requests["UploadPartCopy"] == 1
    assert summary.bytes_uploaded == 2 * SIZE
    assert caplog.text.count("from here on, parts of files that did not change are sent all the same") == 1
    assert picture(await bench.restored()) == picture(bench.tree)


@pytest.mark.parametrize(
    "fault",
    [answering(501, error_body("NotImplemented")), answering(403, error_body("AccessDenied"))],
    ids=["501", "403"],
)
async def test_a_refusal_in_the_middle(
    tmp_path: Path, seaweed_s3: S3Endpoint, fault: Callable[[Exchange], Awaitable[None]]
) -> None:
    async with FaultProxy(seaweed_s3.url) as proxy:
        settings = seaweed_s3.settings(endpoint_url=proxy.url)
        bench = Workbench(tmp_path, f"s3://{seaweed_s3.fresh_bucket()}", s3=settings)
        await tuned(bench, concurrency=1).initialise()
        path = bench.write("disk.img", pattern(SIZE))
        await bench.run()
        change_byte(path, 0)
        proxy.plan("UploadPartCopy", fault, skip=2)
        summary = await bench.run()
        assert proxy.requests["UploadPartCopy"] == 3, "the trial, one that worked, one that did not"
        assert summary.requests["UploadPart"] == 4
        await check(bench)


async def test_a_stopped_delta_goes_on(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    stop = StopRequest()

    async def ask_to_stop(exchange: Exchange) -> None:
        stop.request()
        await exchange.pass_on(await exchange.forward())

    async with FaultProxy(seaweed_s3.url) as proxy:
        settings = seaweed_s3.settings(endpoint_url=proxy.url)
        bench = Workbench(tmp_path, f"s3://{seaweed_s3.fresh_bucket()}", s3=settings)
        await tuned(bench, concurrency=1, memory_limit_bytes=10 * MIB).initialise()
        path = bench.write("disk.img", pattern(8 * PART))
        await bench.run()
        change_byte(path, 0)
        change_byte(path, 7 * PART)
        proxy.plan("UploadPartCopy", ask_to_stop, skip=2)
        with pytest.raises(Interrupted):
            await bench.run(stop=stop)
        assert proxy.requests["UploadPartCopy"] == 3
        parts = proxy.requests["UploadPart"] - 8
        summary = await bench.run()
        assert parts + summary.requests["UploadPart"] == 2, "no part was sent twice"
        assert sent(bench, summary)[1] == 4, "those that were copied stay"
        await check(bench)
        extent = (await bench.entries())[b"disk.img"].extent
        assert extent is not None
        assert await remembered(bench) == [(extent.run, "files/disk.img")]
