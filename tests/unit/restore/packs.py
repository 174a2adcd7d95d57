"""Packs and compressed, sealed and hidden objects made by hand: tarfile, zstandard and the sealer.

As ``backup.py`` it shares nothing with the engine, so that restore is tested against the format.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import tarfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import zstandard

from asyncbackup.format.envelope import UNKNOWN_SIZE
from asyncbackup.format.keys import extent_key, pack_key
from asyncbackup.model import Entry, Extent, Kind, Pack, RunId, split_path
from tests.unit.restore.backup import Backup, read_tree, seal

if TYPE_CHECKING:
    from asyncbackup.repository.open import Repository

PACK_BYTES = 1024 * 1024
FRAME_BYTES = 64 * 1024


class Packer:
    """Puts files into the packs of one run, in the order in which they are added."""

    def __init__(
        self,
        repository: Repository,
        run: RunId,
        *,
        compressed: bool,
        pack_bytes: int = PACK_BYTES,
        frame_bytes: int = FRAME_BYTES,
    ) -> None:
        self.packs: list[Pack] = []
        self.extents: dict[bytes, Extent] = {}
        """Where each content lies, by its SHA-256."""
        self._repository = repository
        self._run = run
        self._compressed = compressed
        self._pack_bytes = pack_bytes
        self._frame_bytes = frame_bytes
        self._begin()

    async def add(self, entry: Entry, content: bytes) -> None:
        """Add a member. Where its content lies is known once the pack was closed."""
        digest = hashlib.sha256(content).digest()
        if entry.kind is Kind.FILE and digest in self.extents:
            return
        header = header_of(entry, len(content))
        begin = len(self._frame) + len(header)
        self._frame += header + content + bytes(-len(content) % 512)
        if entry.kind is Kind.FILE:
            self._members.append((digest, begin, len(content)))
            self.extents[digest] = Extent(run=self._run, key="", length=0)
        if len(self._frame) >= self._frame_bytes or not self._compressed:
            self._close_frame()
        if len(self._stored) >= self._pack_bytes:
            await self.close()

    async def close(self) -> None:
        """Write the open pack, if anything is in it."""
        if not self._stored and not self._frame:
            return
        self._frame += bytes(1024)
        self._close_frame()
        body = bytes(self._stored)
        extent = Extent(run=self._run, key=self._key, length=0)
        full_key = extent_key(self._repository.section, extent)
        stored = seal(self._repository, full_key, body)
        digest = hashlib.sha256(stored).digest()
        await self._repository.store.put(full_key, stored, sha256=digest)
        self.packs.append(
            Pack(
                self._run,
                self._key,
                len(stored),
                base64.b64encode(digest).decode(),
                encrypted=self._repository.key is not None,
                compression="zstd" if self._compressed else "",
            )
        )
        self._begin()

    def _begin(self) -> None:
        self._key = pack_key(len(self.packs) + 1, compressed=self._compressed)
        self._stored = bytearray()
        self._frame = bytearray()
        self._members: list[tuple[bytes, int, int]] = []

    def _close_frame(self) -> None:
        frame = bytes(self._frame)
        stored = zstandard.ZstdCompressor(write_checksum=True).compress(frame) if self._compressed else frame
        offset = len(self._stored)
        for digest, begin, size in self._members:
            place = Extent(
                run=self._run,
                key=self._key,
                offset=offset if self._compressed else offset + begin,
                length=len(stored) if self._compressed else size,
                encrypted=self._repository.key is not None,
                compression="zstd" if self._compressed else "",
                skip=begin if self._compressed else 0,
            )
            self.extents[digest] = place
        self._stored += stored
        self._frame.clear()
        self._members.clear()


def header_of(entry: Entry, size: int) -> bytes:
    """A member's tar header."""
    info = tarfile.TarInfo(os.fsdecode(entry.path) or ".")
    info.mode = entry.mode & 0o7777
    info.size = size if entry.kind is Kind.FILE else 0
    info.mtime = entry.mtime_ns // 1_000_000_000
    info.uid, info.gid = entry.uid, entry.gid
    types = {Kind.FILE: tarfile.REGTYPE, Kind.FOLDER: tarfile.DIRTYPE, Kind.SYMLINK: tarfile.SYMTYPE}
    info.type = types[entry.kind]
    info.linkname = os.fsdecode(entry.target)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


async def save_packed(
    backup: Backup,
    *,
    compressed: bool,
    pack_bytes: int = PACK_BYTES,
    frame_bytes: int = FRAME_BYTES,
    entries: Sequence[Entry] | None = None,
) -> RunId:
    """One snapshot of ``source`` whose every file lies in a pack; equal contents once."""
    async with backup.open() as repository:
        run = backup.next_run()
        packer = Packer(
            repository, run, compressed=compressed, pack_bytes=pack_bytes, frame_bytes=frame_bytes
        )
        found = sorted(entries or read_tree(backup.source), key=lambda entry: split_path(entry.path))
        bodies: dict[bytes, tuple[int, bytes]] = {}
        for entry in found:
            body = read_file(backup, entry.path) if entry.kind is Kind.FILE else b""
            if entry.kind is Kind.FILE:
                bodies[entry.path] = (len(body), hashlib.sha256(body).digest())
            await packer.add(entry, body)
        await packer.close()
    return await backup.save(list(placed(found, bodies, packer)), run=run, packs=packer.packs)


def placed(
    entries: Sequence[Entry], bodies: dict[bytes, tuple[int, bytes]], packer: Packer
) -> Iterator[Entry]:
    """The entries as the manifest has them."""
    for entry in entries:
        if entry.kind is not Kind.FILE:
            yield entry
            continue
        size, digest = bodies[entry.path]
        extent = packer.extents[digest]
        yield msgspec.structs.replace(entry, size=size, sha256=digest, extent=extent)


def read_file(backup: Backup, path: bytes) -> bytes:
    with open(os.path.join(os.fsencode(backup.source), path), "rb") as file:
        return file.read()


async def put_object(
    repository: Repository,
    run: RunId,
    key: str,
    content: bytes,
    *,
    compressed: bool = False,
    head: bytes | None = None,
    frame_bytes: int = 1024 * 1024,
) -> Extent:
    """Store a content as an object of its own, compressed, sealed where the repository has a key, and
    behind the ``head`` that hidden names have."""
    front = b"" if head is None else struct.pack(">I", len(head)) + head
    body = front + content
    if compressed:
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        frames = [
            compressor.compress(body[place : place + frame_bytes])
            for place in range(0, len(body), frame_bytes)
        ]
        body = b"".join(frames)
    extent = Extent(
        run=run,
        key=key,
        length=0,
        encrypted=repository.key is not None,
        compression="zstd" if compressed else "",
        skip=len(front),
    )
    full_key = extent_key(repository.section, extent)
    stored = seal(repository, full_key, body, size=len(body) if head is None else UNKNOWN_SIZE)
    await repository.store.put(full_key, stored, sha256=hashlib.sha256(stored).digest())
    return msgspec.structs.replace(extent, length=len(stored))
