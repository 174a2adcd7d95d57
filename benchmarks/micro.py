"""What each stage costs by itself: ``python -m benchmarks.micro [--files N]``.

Processor time an item, threads included, of this process alone: the server
that the sending stages send to is another one. After it whole runs with their
channels: how long those that send into one waited since it was full, and
those that receive since it was empty. Much of the first says that what comes
behind the channel is what everything waits for; much of the second, what
comes before it. The times are sums over all tasks at that end.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.history import SnapshotPlan
from asyncbackup.config import EncryptionSettings, S3Settings, SectionSettings, Settings
from asyncbackup.engine import run_section
from asyncbackup.excludes import compile_excludes
from asyncbackup.flow.channel import ChannelStatistics, Receiver, Sender, open_channel, watch_channels
from asyncbackup.flow.stop import StopRequest
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.envelope import Sealer
from asyncbackup.format.keyslots import new_master_key
from asyncbackup.format.manifest import ManifestHeader, ManifestReader, ManifestTrailer, ManifestWriter
from asyncbackup.format.pack_builder import PackBuilder
from asyncbackup.initialise import create_database
from asyncbackup.model import Change, Entry, Extent, Kind, Pending, RunCounters, RunId, SourceEntry
from asyncbackup.pipeline.attributes import entry_of_source
from asyncbackup.pipeline.detector import Detector
from asyncbackup.pipeline.unchanged import UnchangedFolders
from asyncbackup.pipeline.walker import WalkSettings, walk
from asyncbackup.source import open_file, open_folder
from asyncbackup.store.open import open_store
from benchmarks.launch import ROOT, LocalServer, local_server
from benchmarks.tools import ACCESS_KEY, PASSPHRASE, REGION, SECRET_KEY
from benchmarks.trees import Tree, small_tree

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncbackup.pipeline.listing import WalkBatch
    from asyncbackup.pipeline.results import Outcome

RUN = "20261122T195000Z-3fa2"
CONCURRENCY = 32
_BATCH = 1000
_PACK_BYTES = 16 * 1024 * 1024


class Line(NamedTuple):
    """One stage: how many items, and processor and wall seconds for all of them."""

    stage: str
    items: int
    cpu_seconds: float
    wall_seconds: float

    def told(self) -> str:
        cpu, wall = (seconds / self.items * 1e6 for seconds in (self.cpu_seconds, self.wall_seconds))
        return f"| {self.stage} | {self.items:,} | {cpu:.1f} | {wall:.1f} |"


class Micro:
    """Measures stage by stage; what one gives is what the next works on."""

    def __init__(self, tree: Tree, work: Path, server: LocalServer) -> None:
        self._tree = tree
        self._work = work
        self._server = server
        self._root = os.fsencode(tree.path)
        self._found: list[SourceEntry] = []
        self._saved: list[Entry] = []
        self._bodies: list[bytes] = []
        self.lines: list[Line] = []

    async def run(self) -> None:
        await self._walk()
        await self._detect("detect, all new", self._section("detected", packed=False))
        self._read()
        self._pack(0)
        self._pack(3)
        self._seal()
        await self._send()
        await self._record()
        self._manifest()

    @contextmanager
    def _measured(self, stage: str, items: int | None = None) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self.lines.append(Line(stage, items or len(self._found), cpu, wall))

    async def _walked(self, take: Callable[[Receiver[WalkBatch]], Awaitable[None]]) -> None:
        settings = WalkSettings(root=self._root, excludes=compile_excludes((), section="micro"))
        sender: Sender[WalkBatch]
        sender, receiver = open_channel("listings", 4)
        gate = ThreadGate("walk", settings.tasks)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(walk(settings, sender, gate, StopRequest()))
                await take(receiver)
        finally:
            gate.close()

    async def _walk(self) -> None:
        batches: list[WalkBatch] = []

        async def keep(listings: Receiver[WalkBatch]) -> None:
            with listings:
                async for batch in listings:
                    batches.append(batch)

        cpu, wall = time.process_time(), time.perf_counter()
        await self._walked(keep)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        for batch in batches:
            for chunk in batch.chunks:
                self._found += chunk.entries
        self.lines.append(Line("walk: list and lstat", len(self._found), cpu, wall))

    async def _detect(self, stage: str, section: tuple[Settings, SectionSettings]) -> None:
        """Walk and detect together, since each alone would have to hold what the other gives."""
        await create_database(*section)
        async with _catalog(*section) as catalog:
            with self._measured(f"{stage}, the walk included"):
                await self._detected(catalog)

    async def _detected(self, catalog: Catalog) -> None:
        changes_in: Sender[list[Change]]
        outcomes_in: Sender[Outcome]
        changes_in, changes = open_channel("changes", 16)
        outcomes_in, outcomes = open_channel("outcomes", 64)
        detector = Detector(catalog.entries, catalog.links, RunCounters(), UnchangedFolders(catalog.listings))

        async def detect(listings: Receiver[WalkBatch]) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(detector.run(listings, changes_in, outcomes_in))
                group.create_task(_drain(changes))
                group.create_task(_drain(outcomes))

        await self._walked(detect)

    def _read(self) -> None:
        """What reading cannot do without: open, fstat, read, fstat, digest."""
        files = [entry for entry in self._found if entry.kind is Kind.FILE]
        now = time.time_ns()
        with self._measured("read: open, read, SHA-256", len(files)):
            folder, descriptor = b"", -1
            for entry in files:
                if descriptor < 0 or folder != entry.folder:
                    if descriptor >= 0:
                        os.close(descriptor)
                    folder, descriptor = entry.folder, open_folder(self._root, entry.folder)
                file = open_file(entry.name, descriptor)
                os.fstat(file)
                body = os.read(file, entry.size + 1)
                os.fstat(file)
                os.close(file)
                self._bodies.append(body)
                digest = hashlib.sha256(body).digest()
                saved = entry_of_source(entry, looked_ns=now, xattrs=(), sha256=digest)
                extent = Extent(RUN, "files/" + entry.path.decode(), entry.size)
                self._saved.append(msgspec.structs.replace(saved, extent=extent))
            os.close(descriptor)

    def _pack(self, level: int) -> None:
        name = f"zstd {level}" if level else "not compressed"
        with self._measured(f"pack: {name}", len(self._saved)):
            builder = PackBuilder(zstd_level=level)
            for entry, body in zip(self._saved, self._bodies, strict=True):
                builder.add(entry, body)
                if builder.size >= _PACK_BYTES:
                    builder.finish()
                    builder = PackBuilder(zstd_level=level)
            if not builder.empty:
                builder.finish()

    def _seal(self) -> None:
        key = new_master_key()
        with self._measured("seal: an object a file", len(self._saved)):
            for entry, body in zip(self._saved, self._bodies, strict=True):
                place = f"micro/{entry.path.decode()}"
                sealer = Sealer(key, size=len(body), repository="0" * 32, section="micro", object_key=place)
                sealer.start()
                sealer.update(body)
                sealer.finalize()

    async def _send(self) -> None:
        """Build, sign and send: the whole way of a request, its answer included."""
        self._server.create("send")
        s3 = S3Settings(endpoint_url=self._server.url, region=REGION)
        todo = list(zip(self._saved, self._bodies, strict=True))
        async with open_store("s3://send/b", s3=s3, concurrency=CONCURRENCY) as store:

            async def put(some: Sequence[tuple[Entry, bytes]]) -> None:
                for entry, body in some:
                    await store.put(f"files/{entry.path.decode()}", body, sha256=entry.sha256)

            with self._measured(f"sign and send, {CONCURRENCY} at once", len(todo)):
                async with asyncio.TaskGroup() as group:
                    for number in range(CONCURRENCY):
                        group.create_task(put(todo[number::CONCURRENCY]))
        self._server.drop("send")

    async def _record(self) -> None:
        section = self._section("recorded", packed=False)
        await create_database(*section)
        async with _catalog(*section) as catalog:
            with self._measured("record: rows into the catalog", len(self._saved)):
                for start in range(0, len(self._saved), _BATCH):
                    batch = self._saved[start : start + _BATCH]
                    await catalog.entries.save([(entry, Pending.NEW) for entry in batch])
            await catalog.history.commit(RunId(RUN), SnapshotPlan())
            # The first notes the digests that the second goes by.
            for known_by in ("rows", "digests"):
                with self._measured(f"detect, nothing changed, by {known_by}, the walk included"):
                    await self._detected(catalog)

    def _manifest(self) -> None:
        entries = sorted(self._saved, key=lambda entry: entry.path)
        header = ManifestHeader(snapshot=RUN, section="micro", repository="0" * 32, started_ns=0)
        with self._measured("manifest: write", len(entries)):
            writer = ManifestWriter(header)
            pieces = [writer.add(entries[start : start + _BATCH]) for start in range(0, len(entries), _BATCH)]
            data = b"".join(pieces) + writer.finish(ManifestTrailer(finished_ns=0))
        with self._measured("manifest: read", len(entries)):
            reader = ManifestReader()
            for start in range(0, len(data), 65536):
                for _ in reader.batches(data[start : start + 65536]):
                    pass
            reader.finish()

    def _section(self, name: str, *, packed: bool) -> tuple[Settings, SectionSettings]:
        return section_of(self._tree, self._work / name, self._server, name, packed=packed)

    async def channels(self) -> list[tuple[str, float, list[ChannelStatistics]]]:
        """First runs of both layouts and their channels, with the wall seconds of each."""
        told: list[tuple[str, float, list[ChannelStatistics]]] = []
        for name, packed in (("mirror", False), ("packed, zstd, encrypted", True)):
            section = self._section(f"run-{packed:d}", packed=packed)
            await create_database(*section)
            began = time.perf_counter()
            with watch_channels() as seen:
                await run_section(*section)
            told.append((name, time.perf_counter() - began, seen))
        return told


def section_of(
    tree: Tree, state: Path, server: LocalServer, name: str, *, packed: bool
) -> tuple[Settings, SectionSettings]:
    """Settings of a section in a bucket of its own."""
    state.mkdir(parents=True)
    bucket = f"micro-{name}"
    server.create(bucket)
    encryption = EncryptionSettings()
    if packed:
        secret = state / "passphrase"
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE)
        encryption = EncryptionSettings(enabled=True, passphrase_file=secret)
    section = SectionSettings(
        name="micro",
        path=tree.path,
        destination=f"s3://{bucket}/b",
        encryption=encryption,
        packed=packed,
        zstd_level=3 if packed else 0,
    )
    settings = Settings(
        state_dir=state,
        concurrency=CONCURRENCY,
        s3=S3Settings(endpoint_url=server.url, region=REGION),
        sections={"micro": section},
    )
    return settings, section


def _catalog(settings: Settings, section: SectionSettings) -> AbstractAsyncContextManager[Catalog]:
    return Catalog.open(
        settings.database_path(section.name), section=section.name, destination=section.destination
    )


async def _drain(receiver: Receiver[Outcome] | Receiver[list[Change]]) -> None:
    with receiver:
        async for _ in receiver:
            pass


def table(lines: Sequence[Line]) -> str:
    told = ["| stage | items | CPU µs each | wall µs each |", "|---|---|---|---|"]
    return "\n".join([*told, *(line.told() for line in lines)]) + "\n"


def channel_table(name: str, seconds: float, channels: Sequence[ChannelStatistics]) -> str:
    told = [
        f"{name}, {seconds:.2f} s:\n",
        "| channel | holds | items | waited since full, s | waited since empty, s |",
        "|---|---|---|---|---|",
    ]
    for channel in channels:
        if channel.items:
            told.append(
                f"| {channel.name} | {channel.capacity} | {channel.items:,} "
                f"| {channel.sender_wait_seconds:.2f} | {channel.receiver_wait_seconds:.2f} |"
            )
    return "\n".join(told) + "\n"


async def _all(tree: Tree, work: Path, server: LocalServer) -> None:
    micro = Micro(tree, work, server)
    await micro.run()
    print(table(micro.lines))
    for name, seconds, channels in await micro.channels():
        print(channel_table(name, seconds, channels))


def main() -> int:
    parser = argparse.ArgumentParser(description="What each stage costs.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--work", type=Path, default=ROOT / "bench-work")
    arguments = parser.parse_args()
    os.environ.setdefault("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    work = arguments.work.absolute() / "micro"
    shutil.rmtree(work, ignore_errors=True)
    tree = small_tree(arguments.work.absolute() / "trees" / "small", files=arguments.files)
    with local_server() as server:
        asyncio.run(_all(tree, work, server))
    return 0


if __name__ == "__main__":
    sys.exit(main())
