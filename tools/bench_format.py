"""What the format costs a file: ``python tools/bench_format.py [ENTRIES]``, figures of one process."""

from __future__ import annotations

import os
import sys
import time
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from asyncbackup.format import manifest_reader, manifest_writer
from asyncbackup.format.envelope import Opener, Sealer
from asyncbackup.format.escape import escape_path, unescape
from asyncbackup.format.keys import content_key
from asyncbackup.format.keyslots import new_master_key
from asyncbackup.format.manifest import ManifestHeader, ManifestReader, ManifestTrailer, ManifestWriter
from asyncbackup.format.metadata import decode_metadata, encode_metadata
from asyncbackup.format.pack_builder import PackBuilder
from asyncbackup.format.tar import member_header
from asyncbackup.model import Entry, Extent, Kind

RUN = "20261122T195000Z-3fa2"
PLACE = {"repository": "0" * 32, "section": "home", "object_key": "home/data/x"}
MTIME = 1_732_304_200_123_456_789


def entry_of(path: bytes, size: int) -> Entry:
    return Entry(
        path=path,
        kind=Kind.FILE,
        mode=0o100644,
        size=size,
        mtime_ns=MTIME + size * 7919,
        ctime_ns=MTIME + size * 7919,
        uid=1000,
        gid=1000,
        nlink=1,
        owner="me",
        group="me",
        sha256=os.urandom(32),
        extent=Extent(RUN, "files/" + path.decode(), size),
    )


def each(name: str, call: object, number: int = 200_000) -> None:
    best = min(timeit.repeat("call()", globals={"call": call}, number=number, repeat=5)) / number
    print(f"{name:<42}{best * 1e6:10.2f} µs")


def written(entries: list[Entry]) -> bytes:
    writer = ManifestWriter(ManifestHeader(snapshot=RUN, section="home", repository="0" * 32, started_ns=0))
    output = [writer.add(entries[start : start + 1000]) for start in range(0, len(entries), 1000)]
    return b"".join(output) + writer.finish(ManifestTrailer(finished_ns=0))


def read(data: bytes) -> int:
    reader, count = ManifestReader(), 0
    for start in range(0, len(data), 65536):
        count += sum(map(len, reader.batches(data[start : start + 65536])))
    reader.finish()
    return count


def manifests(count: int) -> None:
    entries = [
        entry_of(b"folder-%05d/report-%05d.pdf" % (number // 1000, number % 1000), number)
        for number in range(count)
    ]
    for level in (1, 3, 6):
        manifest_writer._LEVEL = level
        begin = time.perf_counter()
        data = written(entries)
        spent = time.perf_counter() - begin
        print(
            f"write, zstd level {level}: {count / spent:12,.0f} entries/s, {len(data) / count:.1f} bytes each"
        )
    for size in (128, 512, 4096):
        manifest_reader._SLICE_BYTES = size
        begin = time.perf_counter()
        read(data)
        spent = time.perf_counter() - begin
        print(f"read, {size} bytes at a time: {count / spent:12,.0f} entries/s")


def packs() -> None:
    """What a member costs in a pack, digest included; the text is our own source, no byte of it twice."""
    package = Path(__file__).parent.parent / "asyncbackup"
    text = b"".join(path.read_bytes() for path in sorted(package.rglob("*.py")))
    entry = entry_of(b"folder-00001/report-00001.pdf", 2048)
    each("header of a member", lambda: member_header(entry))
    for size in (2048, 10_240, 1 << 20):
        count = len(text) // size
        entries = [entry_of(b"folder-%05d/report-%05d.pdf" % (n // 100, n), size) for n in range(count)]
        for name, source in (("text", text), ("noise", os.urandom(len(text)))):
            contents = [source[number * size :][:size] for number in range(count)]
            for level in (0, 1, 3, 9):
                spent, share = min(packed(entries, contents, level) for _ in range(10))
                print(
                    f"pack {size:9,} bytes of {name:5}, level {level}: {spent / count * 1e6:9.2f} µs each, "
                    f"{count * size / spent / 1e6:6,.0f} MB/s, {share:4.0%} of the content"
                )


def packed(entries: list[Entry], contents: list[bytes], level: int) -> tuple[float, float]:
    """Seconds of processor for one pack, and its size as a share of the contents'."""
    begin = time.process_time()
    builder = PackBuilder(zstd_level=level)
    for entry, content in zip(entries, contents, strict=True):
        builder.add(entry, content)
    pack = builder.finish()
    return time.process_time() - begin, pack.size / sum(map(len, contents))


def sealing() -> None:
    key, plain = new_master_key(), os.urandom(8 << 20)
    begin = time.perf_counter()
    sealer = Sealer(key, size=64 << 20, **PLACE)
    stored = [sealer.start(), *(sealer.update(plain) for _ in range(8)), sealer.finalize()]
    middle = time.perf_counter()
    opener = Opener(key, **PLACE)
    for piece in stored:
        opener.feed(piece)
    opener.finish()
    end = time.perf_counter()
    print(f"seal {64 / (middle - begin):,.0f} MiB/s, open {64 / (end - middle):,.0f} MiB/s")
    each("seal and open an object of 100 bytes", lambda: small(key), 5000)


def small(key: object) -> None:
    sealer = Sealer(key, size=100, **PLACE)  # type: ignore[arg-type]
    sealer.start()
    sealer.update(b"x" * 100)
    sealer.finalize()


def main() -> None:
    plain, special = b"projects/asyncbackup/tests/report-2026.pdf", b"projects/100%25/\xff/report-2026.pdf"
    umlauts = "Projekte/Förderanträge/Übersicht-2026.pdf".encode()
    entry = entry_of(plain, 12345)
    metadata = encode_metadata(entry, original_size=None, long_path=False)
    each("escape a plain path", lambda: escape_path(plain))
    each("escape a path with umlauts", lambda: escape_path(umlauts))
    each("escape a path with specials", lambda: escape_path(special))
    each("unescape a plain path", lambda: unescape("projects/asyncbackup/tests/report-2026.pdf"))
    each("content key", lambda: content_key(plain, Kind.FILE, prefix_bytes=50))
    each("encode metadata", lambda: encode_metadata(entry, original_size=None, long_path=False))
    each(
        "decode metadata", lambda: decode_metadata(metadata, key=f"files/{plain.decode()}", stored_size=12345)
    )
    manifests(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
    packs()
    sealing()


if __name__ == "__main__":
    main()
