"""Whole runs of a mirror section with compression: what lies at the destination, and that zstd reads it."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import Interrupted
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.envelope import MAGIC, UNKNOWN_SIZE, Opener, sealed_size
from asyncbackup.format.metadata import describe_object
from asyncbackup.repository.open import open_repository
from asyncbackup.store.checksums import composite_checksum, single_checksum
from asyncbackup.verify.section import verify_section
from tests.servers.proxy import Exchange, FaultProxy
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    from asyncbackup.model import Extent
    from tests.servers import S3Endpoint

LINE = b"%08d the quick brown fox jumps over the lazy dog, again and again and again\n"


def log_lines(size: int, *, noise: int = 0) -> bytes:
    """A log of ``size`` bytes, with so much noise in each line that its parts become several."""
    chance = random.Random(size)
    lines = b"".join(
        LINE % number + chance.randbytes(noise) for number in range(size // (len(LINE) + noise) + 1)
    )
    return lines[:size]


def zstd_reads(stored: bytes) -> bytes:
    """What the command line tool makes of it."""
    zstd = shutil.which("zstd")
    assert zstd is not None, "the tests need zstd"
    return subprocess.run([zstd, "-dc"], input=stored, stdout=subprocess.PIPE, check=True).stdout


async def stored_of(bench: Workbench, name: bytes) -> tuple[Extent, bytes, dict[str, str]]:
    """Extent, bytes and metadata of an entry's object, as it lies there."""
    entry = (await bench.entries())[name]
    assert entry.extent is not None
    async with open_repository(bench.settings, bench.section) as repository:
        key = f"home/data/{entry.extent.run}/{entry.extent.key}"
        info = await repository.store.head(key)
        assert info.size == entry.extent.length
        return entry.extent, await repository.store.get(key, limit=info.size), dict(info.metadata)


async def check(bench: Workbench) -> None:
    """The newest snapshot restores to what the tree is, and verifies, read to the last byte."""
    assert picture(await bench.restored()) == picture(bench.tree)
    verified = await verify_section(bench.settings, bench.section, read_percent=100.0)
    assert not verified.damaged


@pytest.fixture
def zstd_bench(bench: Workbench) -> Workbench:
    bench.configure(zstd_level=3)
    return bench


async def test_a_small_file_that_shrinks_is_a_zstd_object(zstd_bench: Workbench) -> None:
    bench = zstd_bench
    content = log_lines(100_000)
    bench.write("app.log", content)
    summary = await bench.run()

    extent, stored, metadata = await stored_of(bench, b"app.log")

    assert zstd_reads(stored) == content
    assert (extent.compression, extent.part_size, extent.encrypted) == ("zstd", 0, False)
    assert extent.checksum == single_checksum(hashlib.sha256(stored).digest())
    assert (metadata["asyncbackup-encoding"], metadata["asyncbackup-size"]) == ("zstd", "100000")
    described = describe_object(metadata, key=extent.key, stored_size=len(stored))
    assert (described.entry.size, described.encrypted) == (len(content), False)
    assert (summary.bytes_read, summary.bytes_uploaded) == (len(content), len(stored))


async def test_what_does_not_shrink_by_a_tenth_stays_as_it_is(zstd_bench: Workbench) -> None:
    bench = zstd_bench
    contents = {
        "noise": os.urandom(50_000),
        "tiny": b"abc",
        "empty": b"",
        "large noise": os.urandom(11 * MIB),
    }
    for name, content in contents.items():
        bench.write(name, content)
    await bench.run()
    for name, content in contents.items():
        extent, stored, metadata = await stored_of(bench, name.encode())
        assert stored == content
        assert extent.compression == ""
        assert "asyncbackup-encoding" not in metadata


@pytest.mark.parametrize("server", ["local", "rclone_s3", "seaweed_s3"])
async def test_a_large_file_in_parts(
    request: pytest.FixtureRequest, tmp_path: Path, folder_destination: Path, server: str
) -> None:
    if server == "local":
        bench = Workbench(tmp_path, f"file://{folder_destination}")
    else:
        endpoint: S3Endpoint = request.getfixturevalue(server)
        bench = Workbench(tmp_path, f"s3://{endpoint.fresh_bucket()}/backups", s3=endpoint.settings())
    await bench.initialise()
    bench.configure(zstd_level=1)
    content = log_lines(22 * MIB, noise=80)
    bench.write("app.log", content)
    bench.write("small.log", content[:5000])

    summary = await bench.run()

    extent, stored, metadata = await stored_of(bench, b"app.log")
    assert zstd_reads(stored) == content
    assert extent.compression == "zstd"
    assert extent.part_size == 5 * MIB < len(stored) < 0.9 * len(content), "several parts, and it shrank"
    parts = [stored[start : start + extent.part_size] for start in range(0, len(stored), extent.part_size)]
    assert summary.requests["UploadPart"] == len(parts)
    assert extent.checksum == composite_checksum(hashlib.sha256(part).digest() for part in parts)
    assert (metadata["asyncbackup-encoding"], metadata["asyncbackup-size"]) == ("zstd", str(len(content)))
    described = describe_object(metadata, key=extent.key, stored_size=len(stored))
    assert described.entry.size == len(content)
    assert summary.peak_inflight_bytes <= bench.settings.memory_limit_bytes
    assert (await bench.run()).files_unchanged == 2
    await check(bench)


async def test_sealed_after_compression(sealed_bench: Workbench) -> None:
    bench = sealed_bench
    bench.configure(zstd_level=1)
    large, small = log_lines(22 * MIB, noise=80), log_lines(50_000)
    bench.write("app.log", large)
    bench.write("small.log", small)
    await bench.run()
    for name, content in ((b"app.log", large), (b"small.log", small)):
        extent, stored, metadata = await stored_of(bench, name)
        async with open_repository(bench.settings, bench.section) as repository:
            assert repository.key is not None
            opener = Opener(
                repository.key,
                repository=repository.repository_id,
                section="home",
                object_key=f"home/data/{extent.run}/{extent.key}",
            )
        frames = opener.feed(stored) + opener.finish()
        assert zstd_reads(frames) == content
        assert len(stored) == sealed_size(len(frames)) < 0.9 * len(content)
        assert (extent.compression, extent.encrypted) == ("zstd", True)
        announced = UNKNOWN_SIZE if extent.part_size else len(frames)
        assert stored[:16] == MAGIC + announced.to_bytes(8, "big")
        assert metadata["asyncbackup-encoding"] == "zstd+cobblestone-256"
        assert metadata["asyncbackup-size"] == str(len(content))
        assert "asyncbackup-sha256" not in metadata
    extent, stored, _ = await stored_of(bench, b"app.log")
    assert len(stored) > extent.part_size, "several parts"
    await check(bench)


async def test_hidden_names_of_what_is_compressed(sealed_bench: Workbench) -> None:
    bench = sealed_bench
    bench.configure(
        zstd_level=1, encryption=msgspec.structs.replace(bench.section.encryption, hide_names=True)
    )
    bench.write("app.log", log_lines(22 * MIB, noise=80))
    bench.write("small.log", log_lines(50_000))
    await bench.run()
    extent = (await bench.entries())[b"app.log"].extent
    assert extent is not None
    assert extent.compression == "zstd"
    assert extent.length > extent.part_size, "several parts"
    assert extent.skip, "the head stands before the content"
    await check(bench)


@pytest.mark.parametrize("packed", [False, True], ids=["mirror", "packed"])
async def test_several_large_files_within_a_small_budget(zstd_bench: Workbench, packed: bool) -> None:
    """Nothing waits for itself: parts that are not full yet, an open pack, noise, and hardly any memory."""
    bench = zstd_bench
    bench.configure(packed=packed)
    bench.settings = msgspec.structs.replace(bench.settings, memory_limit_bytes=21 * MIB)
    contents = {f"log{number}": log_lines(11 * MIB + number) for number in range(6)}
    contents |= {f"noise{number}": os.urandom(7 * MIB + number) for number in range(4)}
    contents |= {f"z/small{number}": os.urandom(300_000) for number in range(10)}
    for name, content in contents.items():
        bench.write(name, content)
    summary = await bench.run()
    assert summary.peak_inflight_bytes <= 21 * MIB
    entries = await bench.entries()
    for name in contents:
        extent = entries[name.encode()].extent
        assert extent is not None
        assert extent.in_pack == (packed and name.startswith("z/"))
        assert extent.compression == ("zstd" if name.startswith("log") or extent.in_pack else "")
    await check(bench)


async def test_a_budget_without_room_compresses_small_files_alone(
    zstd_bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = zstd_bench
    bench.settings = msgspec.structs.replace(bench.settings, memory_limit_bytes=6 * MIB)
    bench.write("large", log_lines(11 * MIB))
    bench.write("small", log_lines(10_000))
    with caplog.at_level(logging.INFO, logger="asyncbackup"):
        await bench.run()
    assert "no room to compress files over 5 MiB" in caplog.text
    assert (await stored_of(bench, b"large"))[0].compression == ""
    assert (await stored_of(bench, b"small"))[0].compression == "zstd"


async def test_names_of_a_compressed_file(zstd_bench: Workbench) -> None:
    bench = zstd_bench
    for name, size in (("small", 50_000), ("large", 12 * MIB)):
        first = bench.write(name, log_lines(size))
        os.link(first, bench.tree / f"{name} too")
    await bench.run()
    copy, stored, metadata = await stored_of(bench, b"small too")
    assert copy.key == "files/small too"
    assert zstd_reads(stored) == log_lines(50_000)
    assert metadata["asyncbackup-encoding"] == "zstd"
    assert copy.checksum == (await stored_of(bench, b"small"))[0].checksum != ""
    # Of parts nobody knows the checksum that one object would have: the second name is a stand-in.
    entries = await bench.entries()
    assert entries[b"large too"].extent == entries[b"large"].extent
    await check(bench)


async def test_a_stopped_upload_is_begun_anew(tmp_path: Path, seaweed_s3: S3Endpoint) -> None:
    stop = StopRequest()

    async def ask_to_stop(exchange: Exchange) -> None:
        stop.request()
        await exchange.pass_on(await exchange.forward())

    async with FaultProxy(seaweed_s3.url) as proxy:
        settings = seaweed_s3.settings(endpoint_url=proxy.url)
        bench = Workbench(tmp_path, f"s3://{seaweed_s3.fresh_bucket()}", s3=settings)
        bench.configure(zstd_level=1)
        bench.settings = msgspec.structs.replace(bench.settings, concurrency=1, memory_limit_bytes=22 * MIB)
        await bench.initialise()
        content = log_lines(64 * MIB, noise=80)
        bench.write("app.log", content)
        proxy.plan("UploadPart", ask_to_stop)
        with pytest.raises(Interrupted):
            await bench.run(stop=stop)
        async with open_repository(bench.settings, bench.section) as repository:
            assert [page async for page in repository.store.list_uploads("") if page] == []
        await bench.run()
        extent, stored, _ = await stored_of(bench, b"app.log")
        assert zstd_reads(stored) == content
        assert extent.run == (await bench.snapshots())[-1]


async def test_compression_goes_before_taking_parts_over(zstd_bench: Workbench) -> None:
    bench = zstd_bench
    bench.settings = msgspec.structs.replace(bench.settings, delta_from_bytes=5 * MIB)
    noise, text = os.urandom(12 * MIB), log_lines(12 * MIB)
    bench.configure(zstd_level=0)
    for name, content in (("noise", noise), ("text", text)):
        bench.write(name, content)
    await bench.run()
    bench.configure(zstd_level=3)
    for name, content in (("noise", noise), ("text", text)):
        bench.write(name, content + b"!")
    summary = await bench.run()
    assert summary.requests["UploadPartCopy"] == 2, "noise is stored plain again"
    assert (await stored_of(bench, b"noise"))[1] == noise + b"!"
    extent, stored, _ = await stored_of(bench, b"text")
    assert extent.compression == "zstd"
    assert zstd_reads(stored) == text + b"!"


async def test_a_further_name_of_what_lies_in_a_pack(zstd_bench: Workbench) -> None:
    bench = zstd_bench
    bench.configure(packed=True)
    first = bench.write("first", log_lines(5000))
    os.link(first, bench.tree / "second")
    await bench.run()
    bench.configure(packed=False)
    os.link(first, bench.tree / "third")
    await bench.run()
    entries = await bench.entries()
    assert entries[b"third"].extent == entries[b"first"].extent, "a copy would be one of the pack"
    await check(bench)


async def test_a_run_without_compression_leaves_what_is_compressed(zstd_bench: Workbench) -> None:
    bench = zstd_bench
    bench.write("app.log", log_lines(100_000))
    await bench.run()
    before = (await bench.entries())[b"app.log"].extent
    bench.configure(zstd_level=0)
    bench.write("other.log", log_lines(50_000))
    assert (await bench.run()).files_unchanged == 1
    entries = await bench.entries()
    assert entries[b"app.log"].extent == before
    other = entries[b"other.log"].extent
    assert other is not None
    assert other.compression == ""
