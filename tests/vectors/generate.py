"""Makes the test vectors that do not exist yet: ``python -m tests.vectors.generate``.

Vectors are made once and kept, since every released format stays readable; an
existing file is never written again. Salts of sealed objects are random, so
the files cannot be made twice alike, only opened.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import zstandard

from asyncbackup.format.descriptor import FLOOR, Descriptor, KdfBounds, encode_descriptor
from asyncbackup.format.envelope import UNKNOWN_SIZE, Sealer, context
from asyncbackup.format.escape import escape_path
from asyncbackup.format.keys import content_key
from asyncbackup.format.keyslots import RepositoryKey, key_file_slot, passphrase_slot
from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer, ManifestWriter
from asyncbackup.format.pack_builder import PackBuilder
from asyncbackup.model import Entry, Extent, Failure, Kind
from tests.unit.format.vectors import content

FOLDER = Path(__file__).parent

MASTER = hashlib.sha256(b"the master key of the test vectors").digest()
KEY_FILE = hashlib.sha256(b"the key file of the test vectors").digest()
PASSPHRASE = "correct horse ünïcode battery".encode()
REPOSITORY = "8f14e45fceea167a5a36dedd4bea2543"
SECTION = "home"
RUN = "20261122T195000Z-3fa2"
EARLIER = "20261121T195000Z-00ff"
CREATED_NS = 1_795_377_000_000_000_000

NAMES: list[bytes] = [
    b"report 2026.pdf",
    b"100%",
    b"100%25",
    b"50%ab",
    b"%%41",
    b"%4\n1",
    b"%\xff41",
    b"a\\b",
    b"a\nb\x7f",
    "café".encode(),
    b"cafe\xcc\x81",
    b"\xff\xfe",
    b"\xfe\xcc\x81",
    b"\xed\xa0\x80",
    b"\xc2\x85",
    b"\xc0\xaf",
    b"\xe2\x82A",
    b"\xf4\x90\x80\x80",
    b"\xef\xbf\xbe\xef\xbf\xbf",
    b"e\xcc\x81/\xc3\xa9",
    b"a%2F..%2Fb",
    "日本語/😀.txt".encode(),
    "\u212b and \u00c5".encode(),
]


def escapes() -> Any:
    return [{"bytes": name.hex(), "escaped": escape_path(name)} for name in NAMES]


def keys() -> Any:
    deep = b"/".join([b"folder"] * 140)
    cases: list[tuple[bytes, Kind, int]] = [
        (b"", Kind.FOLDER, 40),
        (b"docs", Kind.FOLDER, 40),
        (b"docs/report.pdf", Kind.FILE, 40),
        (b"docs/latest", Kind.SYMLINK, 40),
        (b"a" * 255, Kind.FILE, 40),
        (b"a" * 254 + b"\\", Kind.FILE, 40),
        ("ä".encode() * 127, Kind.FOLDER, 40),
        ("ä".encode() * 128, Kind.FOLDER, 40),
        (deep, Kind.FILE, 1024 - len(deep) - 6),
        (deep, Kind.FILE, 1024 - len(deep) - 5),
        (deep, Kind.FOLDER, 1024 - len(deep) - 7),
        (deep, Kind.FOLDER, 1024 - len(deep) - 6),
    ]
    return [
        {
            "path": path.hex(),
            "kind": kind.value,
            "prefix_bytes": prefix_bytes,
            "key": content_key(path, kind, prefix_bytes=prefix_bytes),
        }
        for path, kind, prefix_bytes in cases
    ]


def keyslots() -> Any:
    key = RepositoryKey(MASTER)
    slots = (
        passphrase_slot(key, PASSPHRASE, repository=REPOSITORY, created_ns=CREATED_NS, cost=FLOOR),
        passphrase_slot(
            key,
            b"another one",
            repository=REPOSITORY,
            created_ns=CREATED_NS,
            label="lanes",
            cost=KdfBounds(iterations=3, memory_kib=20 * 1024, lanes=4),
        ),
        key_file_slot(key, KEY_FILE, repository=REPOSITORY, created_ns=CREATED_NS, label="key file"),
    )
    descriptor = Descriptor(repository=REPOSITORY, created_ns=CREATED_NS, slots=slots)
    return {
        "descriptor": json.loads(encode_descriptor(descriptor)),
        "master_key": MASTER.hex(),
        "passphrases": [PASSPHRASE.hex(), b"another one".hex()],
        "key_file": KEY_FILE.hex(),
        "wrong_passphrases": [b"another on".hex(), PASSPHRASE.hex() + "0a", "00"],
    }


def sealed() -> Any:
    cases = []
    for name, size, announced, key in [
        ("empty", 0, 0, f"{SECTION}/data/{RUN}/files/empty"),
        ("one byte", 1, 1, f"{SECTION}/data/{RUN}/files/one"),
        ("one short of a chunk", 16383, 16383, f"{SECTION}/data/{RUN}/files/short"),
        ("one chunk", 16384, 16384, f"{SECTION}/data/{RUN}/files/chunk"),
        ("three chunks", 33000, 33000, f"{SECTION}/data/{RUN}/files/three"),
        ("a stream", 20000, UNKNOWN_SIZE, f"{SECTION}/snapshots/{RUN}.jsonl.zst"),
        ("a key beyond ASCII", 5, 5, f"{SECTION}/data/{RUN}/files/日本語/%FF.txt"),
    ]:
        sealer = Sealer(
            RepositoryKey(MASTER), repository=REPOSITORY, section=SECTION, object_key=key, size=announced
        )
        stored = sealer.start() + sealer.update(content(size)) + sealer.finalize()
        cases.append(
            {
                "name": name,
                "key": key,
                "size": size,
                "sha256": hashlib.sha256(content(size)).hexdigest(),
                "context": context(REPOSITORY, SECTION, key, sealer.header).hex(),
                "stored": base64.b64encode(stored).decode(),
            }
        )
    return {"master_key": MASTER.hex(), "repository": REPOSITORY, "section": SECTION, "objects": cases}


def damaged() -> Any:
    """Edits of sealed vectors, and how many bytes of content may be given out before the failure."""
    chunk, head, key = 16400, 72, f"{SECTION}/data/{RUN}/files/three"
    return [
        {"what": "magic", "object": "three chunks", "flip": 0, "given_out": 0},
        {"what": "version", "object": "three chunks", "flip": 7, "given_out": 0},
        {"what": "announced size", "object": "three chunks", "flip": 15, "given_out": 0},
        {"what": "salt", "object": "three chunks", "flip": 16, "given_out": 0},
        {"what": "commitment", "object": "three chunks", "flip": 71, "given_out": 0},
        {"what": "first chunk", "object": "three chunks", "flip": head, "given_out": 0},
        {"what": "first tag", "object": "three chunks", "flip": head + chunk - 1, "given_out": 0},
        {"what": "second chunk", "object": "three chunks", "flip": head + chunk, "given_out": 16384},
        {"what": "last chunk", "object": "three chunks", "flip": head + 2 * chunk, "given_out": 32768},
        {"what": "cut in the header", "object": "three chunks", "keep": 10, "given_out": 0},
        {"what": "cut in the commitment", "object": "three chunks", "keep": 60, "given_out": 0},
        {"what": "no chunk", "object": "three chunks", "keep": head, "given_out": 0},
        {
            "what": "cut at a chunk's end",
            "object": "three chunks",
            "keep": head + 2 * chunk,
            "given_out": 32768,
        },
        {
            "what": "stream cut at a chunk's end",
            "object": "a stream",
            "keep": head + chunk,
            "given_out": 16384,
        },
        {"what": "extended", "object": "empty", "append": "00", "given_out": 0},
        {"what": "stream extended", "object": "a stream", "append": "00", "given_out": 16384},
        {"what": "another key", "object": "three chunks", "key": key + "x", "given_out": 0},
        {"what": "another section", "object": "three chunks", "section": "work", "given_out": 0},
        {"what": "another repository", "object": "three chunks", "repository": "0" * 32, "given_out": 0},
        {"what": "another master key", "object": "three chunks", "master_key": "00" * 32, "given_out": 0},
        {"what": "chunks exchanged", "object": "three chunks", "exchange_chunks": [0, 1], "given_out": 0},
    ]


def manifests() -> Any:
    header = ManifestHeader(
        snapshot=RUN,
        section=SECTION,
        repository=REPOSITORY,
        started_ns=CREATED_NS,
        host="laptop",
        source="/home/me",
        software="asyncbackup",
    )
    common = {"uid": 1000, "gid": 1000, "owner": "me", "group": "staff"}
    entries = [
        Entry(path=b"", kind=Kind.FOLDER, mode=0o40755, mtime_ns=CREATED_NS, nlink=3, **common),  # type: ignore[arg-type]
        Entry(
            path=b"docs",
            kind=Kind.FOLDER,
            mode=0o42770,
            mtime_ns=2**64,
            extent=Extent(RUN, "files/docs/", 0),
            **common,  # type: ignore[arg-type]
        ),
        Entry(
            path=b"link",
            kind=Kind.SYMLINK,
            mode=0o120777,
            size=8,
            mtime_ns=CREATED_NS,
            target=b"../\xfe\\up",
            **common,  # type: ignore[arg-type]
        ),
        Entry(
            path=b"\xff%41.bin",
            kind=Kind.FILE,
            mode=0o104755,
            size=5,
            mtime_ns=-1_500_000_000,
            ctime_ns=CREATED_NS + 1,
            nlink=2,
            sha256=hashlib.sha256(b"hello").digest(),
            hardlink="dev1-ino2",
            sparse=True,
            xattrs=((b"user.note", b"\0\xff"), (b"user.\xc3\x28", b"")),
            extent=Extent(EARLIER, "files/first", 5, checksum="", part_size=0),
            **common,  # type: ignore[arg-type]
        ),
        Entry(
            path="docs/日本語.txt".encode(),
            kind=Kind.FILE,
            mode=0o100600,
            size=33000,
            mtime_ns=CREATED_NS,
            sha256=hashlib.sha256(content(33000)).digest(),
            extent=Extent(
                RUN, "files/docs/日本語.txt", 33120, checksum="abc=-2", part_size=16400, encrypted=True
            ),
            **common,  # type: ignore[arg-type]
        ),
    ]
    writer = ManifestWriter(header)
    failures = (Failure(path=b"secret\n.key", reason="Permission denied"),)
    plain = writer.add(entries) + writer.finish(
        ManifestTrailer(finished_ns=CREATED_NS + 60_000_000_000, failures=failures)
    )
    return {"manifest": base64.b64encode(plain).decode(), "paths": [entry.path.hex() for entry in entries]}


def packs() -> Any:
    """A plain pack and one of frames, of the same entries, and where each content lies."""
    common: dict[str, Any] = {"uid": 1000, "gid": 1000, "owner": "me", "group": "staff"}
    digest = hashlib.sha256(content(5)).digest()
    entries = [
        Entry(path=b"", kind=Kind.FOLDER, mode=0o40755, mtime_ns=CREATED_NS, **common),
        Entry(path=b"docs", kind=Kind.FOLDER, mode=0o42770, mtime_ns=CREATED_NS + 1, **common),
        Entry(
            path="docs/\u65e5\u672c\u8a9e.txt".encode(),
            kind=Kind.FILE,
            mode=0o100600,
            size=1500,
            mtime_ns=CREATED_NS + 123_456_789,
            ctime_ns=CREATED_NS + 5,
            **common,
        ),
        Entry(path=b"docs/\xff\\\n", kind=Kind.FILE, mode=0o104755, mtime_ns=-1_500_000_000, **common),
        Entry(
            path=b"n" * 120,
            kind=Kind.FILE,
            mode=0o100644,
            size=600_000,
            mtime_ns=2**64,
            uid=2**31,
            gid=2**32 - 1,
            owner="o" * 40,
            xattrs=((b"user.a=b", b"\0\xff\n"),),
        ),
        Entry(path=b"\xff" * 120, kind=Kind.FILE, mode=0o100644, size=5, hardlink="1-2", nlink=2, **common),
        Entry(path=b"second", kind=Kind.FILE, mode=0o100644, size=5, hardlink="1-2", nlink=2, **common),
        Entry(path=b"link", kind=Kind.SYMLINK, mode=0o120777, size=8, target=b"../\xfe\\up", **common),
    ]
    reference = Entry(
        path=b"copy\n",
        kind=Kind.FILE,
        mode=0o100644,
        size=5,
        mtime_ns=CREATED_NS,
        sha256=digest,
        extent=Extent(EARLIER, "files/original", 5),
        **common,
    )
    made = []
    for name, level in (("plain", 0), ("zstd", 3)):
        builder = PackBuilder(zstd_level=level)
        for entry in entries:
            if entry.path == b"second":
                builder.add(entry, link_to=b"\xff" * 120)
            else:
                builder.add(entry, content(entry.size) if entry.kind is Kind.FILE else b"")
        builder.add_reference(reference)
        pack = builder.finish()
        body = b"".join(pack.body)
        made.append(
            {
                "name": name,
                "sha256": pack.sha256.hex(),
                "members": [
                    {
                        "path": entry.path.hex(),
                        "kind": entry.kind.value,
                        "size": entry.size,
                        "offset": placement.offset,
                        "length": placement.length,
                        "skip": placement.skip,
                    }
                    for entry, placement in zip(entries, pack.placements, strict=True)
                ],
                "references": [reference.path.hex()],
                # Compressed once more, since a tar is mostly zeros.
                "pack": base64.b64encode(zstandard.compress(body, 19)).decode(),
            }
        )
    return made


def main() -> None:
    """Write every vector file that is missing."""
    for name, make in {
        "escape": escapes,
        "keys": keys,
        "keyslots": keyslots,
        "sealed": sealed,
        "damaged": damaged,
        "manifest": manifests,
        "packs": packs,
    }.items():
        path = FOLDER / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(make(), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
