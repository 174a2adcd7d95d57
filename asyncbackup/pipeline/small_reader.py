"""Reading a batch of small entries in one thread hop: contents, targets, attributes, digests."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.flow.buffers import SpareBuffers
from asyncbackup.format.frames import LARGE_BYTES, FrameCompressor
from asyncbackup.format.hidden import hidden_head
from asyncbackup.format.manifest_entries import entry_fits
from asyncbackup.format.metadata import object_metadata
from asyncbackup.model import (
    EMPTY_SHA256,
    ZSTD,
    Action,
    Change,
    Entry,
    Failure,
    Kind,
    Pending,
    SourceEntry,
    UploadReceipt,
    source_entry,
)
from asyncbackup.pipeline.attributes import Xattrs, entry_of_source, read_xattrs
from asyncbackup.pipeline.birth import was_there
from asyncbackup.pipeline.compression import compressed
from asyncbackup.pipeline.payload import CopyPayload, PackItem, Payload, WholePayload
from asyncbackup.pipeline.results import Outcome, Unchanged
from asyncbackup.source import open_file, open_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.pipeline.transfer_settings import ReadSettings
    from asyncbackup.store.base import Buffer

READ_ATTEMPTS = 3
KEPT_ARENAS = 8
"""Buffers of a batch that are used again: nearly as many as readers and packer have under way at once."""
FIRST_NAME_FAILED = "it changed during the run, or the content under another name of it could not be saved"


class SmallResults:
    """What a batch gave. ``items`` are for packs, ``payloads`` objects of their own. ``grown`` are
    changes to be read again: their file is larger by now than its bytes were taken for, or it turned
    out to be another than the one it was taken for. ``number`` is that of the batch in the process that
    read it, 0 where this one did."""

    __slots__ = ("grown", "items", "number", "outcomes", "payloads")

    def __init__(self) -> None:
        self.number = 0
        self.payloads: list[Payload] = []
        self.items: list[PackItem] = []
        self.outcomes: list[Outcome] = []
        self.grown: list[Change] = []


class SmallReader:
    """Called in threads. Between calls it holds only the linked file that was read last, to which
    further names refer; they come right behind it, in calls that do not overlap; and a compressor for
    each thread."""

    def __init__(self, settings: ReadSettings) -> None:
        self._settings = settings
        self._first: Entry | None = None
        self._of_thread = threading.local()
        self.arenas = SpareBuffers(keep=KEPT_ARENAS)

    def read(self, changes: Sequence[Change], arena: Arena | None = None) -> SmallResults:
        """Read every change of a batch; a failure is confined to its entry.

        Contents are read into the ``arena``, if they have room there.
        """
        results = SmallResults()
        if arena is None:
            arena = self._arena_for(changes)
        folder: bytes | None = None
        descriptor = -1
        try:
            for change in changes:
                entry = change.entry
                try:
                    if folder != entry.folder or descriptor < 0:
                        if descriptor >= 0:
                            os.close(descriptor)
                            descriptor = -1
                        descriptor = open_folder(self._settings.root, entry.folder)
                        folder = entry.folder
                    self._read_one(change, descriptor, arena, results)
                except OSError as error:
                    reason = f"cannot read: {error.strerror or error}"
                    results.outcomes.append(Failure(path=entry.path, reason=reason, kind=entry.kind))
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return results

    def _arena_for(self, changes: Sequence[Change]) -> Arena:
        """A buffer that is used again where a pack copies the contents; none where they are sent from it."""
        room = 0
        if self._settings.packed:
            sizes = (change.content_bytes for change in changes)
            room = sum(size + 1 for size in sizes if 0 < size < LARGE_BYTES)
        return Arena(self.arenas.take(room) if room else memoryview(b""), largest_bytes=LARGE_BYTES)

    def _read_one(self, change: Change, folder: int, arena: Arena, results: SmallResults) -> None:
        entry = change.entry
        if change.action is Action.LINK:
            self._read_link(change, results)
        elif change.action is Action.METADATA:
            xattrs = read_xattrs(_place(folder, entry.name))
            results.outcomes.append(self._metadata_receipt(change, entry, xattrs))
        elif change.action is Action.MOVED:
            self._take_moved(change, folder, results)
        elif stat.S_ISREG(entry.mode):
            self._read_file(change, folder, arena, results)
        elif stat.S_ISLNK(entry.mode):
            self._read_symlink(change, folder, results)
        else:
            xattrs = read_xattrs(_place(folder, entry.name))
            saved = entry_of_source(entry, looked_ns=time.time_ns(), xattrs=xattrs)
            self._emit(change, saved, b"", EMPTY_SHA256, results)

    def _read_file(self, change: Change, folder: int, arena: Arena, results: SmallResults) -> None:
        for _ in range(READ_ATTEMPTS):
            descriptor = open_file(change.entry.name, folder)
            try:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    results.outcomes.append(
                        Failure(path=change.entry.path, reason="it is no regular file any more")
                    )
                    return
                if before.st_size > change.entry.size:
                    seen = source_entry(change.entry.folder, change.entry.name, before)
                    results.grown.append(msgspec.structs.replace(change, entry=seen))
                    return
                body = arena.read_all(descriptor, before.st_size)
                looked_ns = time.time_ns()
                after = os.fstat(descriptor)
                if body is None or _moved(before, after):
                    continue
                xattrs = read_xattrs(descriptor)
            finally:
                os.close(descriptor)
            digest = hashlib.sha256(body).digest()
            seen = source_entry(change.entry.folder, change.entry.name, before)
            entry = entry_of_source(seen, looked_ns=looked_ns, xattrs=xattrs, sha256=digest)
            if entry.hardlink:
                self._first = entry
            if change.known is not None and change.known.sha256 == digest and change.known.extent is not None:
                results.outcomes.append(self.known_content(change, entry, bytes_read=len(body)))
                if entry.hardlink:
                    self._first = msgspec.structs.replace(entry, extent=change.known.extent)
            else:
                self._emit(change, entry, body, digest, results)
            return
        results.outcomes.append(Failure(path=change.entry.path, reason="it kept changing while it was read"))

    def _read_symlink(self, change: Change, folder: int, results: SmallResults) -> None:
        seen = change.entry
        target = os.readlink(seen.name, dir_fd=folder)
        xattrs = read_xattrs(_place(folder, seen.name))
        entry = entry_of_source(seen, looked_ns=time.time_ns(), xattrs=xattrs, target=target)
        known = change.known
        if known is not None and known.kind is Kind.SYMLINK and known.target == target:
            results.outcomes.append(
                UploadReceipt(
                    entry=msgspec.structs.replace(entry, extent=known.extent), pending=change.pending
                )
            )
        else:
            self._emit(change, entry, b"", EMPTY_SHA256, results)

    def _read_link(self, change: Change, results: SmallResults) -> None:
        first, known = change.link_to, change.known
        in_hand = self._first is not None and self._first.path == change.first_path
        if first is None and in_hand:
            first = self._first
        if (
            first is None
            or (first.extent is None and not in_hand)
            or (first.size, first.mtime_ns) != (change.entry.size, change.entry.mtime_ns)
        ):
            results.outcomes.append(Failure(path=change.entry.path, reason=FIRST_NAME_FAILED))
            return
        # One inode: what was read under the first name is the truth for all of them.
        entry = msgspec.structs.replace(first, path=change.entry.path)
        if known is not None and known.sha256 == first.sha256 and known.extent is not None:
            results.outcomes.append(self.known_content(change, entry, bytes_read=0))
            return
        if self._settings.packed or first.extent is None:
            item = PackItem(
                entry=msgspec.structs.replace(entry, extent=None),
                pending=change.pending,
                known=first.extent,
                link_to=first.path,
            )
            results.items.append(item)
            return
        if self._settings.hidden is not None:
            results.payloads.append(self._hidden_stand_in(change, entry, first))
            return
        results.payloads.append(
            CopyPayload(
                entry=entry,
                pending=change.pending,
                key=self._settings.content_key(entry.path, entry.kind),
                source=first.extent,
                first_path=first.path,
            )
        )

    def _hidden_stand_in(self, change: Change, entry: Entry, first: Entry) -> WholePayload:
        """The object of a further name that is hidden, which holds nothing but its head."""
        head = hidden_head(entry, first_path=first.path)
        return WholePayload(
            entry=msgspec.structs.replace(entry, extent=None),
            pending=change.pending,
            key=self._settings.content_key(entry.path, entry.kind),
            metadata={},
            body=head,
            body_sha256=b"",
            encrypted=True,
            leased=0,
            bytes_read=0,
            skip=len(head),
            stands_for=first.extent,
        )

    def _take_moved(self, change: Change, folder: int, results: SmallResults) -> None:
        """Take over what another row says of this inode, unless the inode may be another file's by now."""
        seen, moved = change.entry, change.link_to
        if moved is None or moved.extent is None:
            raise ValueError(f"nothing is stored of {seen.path!r}")
        started_ns = self._settings.run_started.get(moved.extent.run, 0)
        if not was_there(folder, seen, before_ns=started_ns):
            results.grown.append(msgspec.structs.replace(change, action=Action.UPLOAD, link_to=None))
            return
        xattrs = read_xattrs(_place(folder, seen.name))
        entry = entry_of_source(seen, looked_ns=time.time_ns(), xattrs=xattrs, sha256=moved.sha256)
        if entry_fits(entry):
            results.items.append(PackItem(entry=entry, pending=change.pending, known=moved.extent))
        else:
            results.outcomes.append(_too_much_metadata(entry))

    def known_content(self, change: Change, entry: Entry, *, bytes_read: int) -> UploadReceipt | Unchanged:
        """What to report of a file that was read and holds what is already stored."""
        known = change.known
        if known is None or known.extent is None:
            raise ValueError(f"nothing is stored of {entry.path!r}")
        entry = msgspec.structs.replace(entry, extent=known.extent)
        if msgspec.structs.replace(entry, ctime_ns=known.ctime_ns, dev=known.dev, ino=known.ino) == known:
            pending = change.known_pending
            if pending is not Pending.DELETED:
                return Unchanged(entry=entry, pending=pending, bytes_read=bytes_read)
        return UploadReceipt(entry=entry, pending=change.pending, bytes_read=bytes_read)

    def _metadata_receipt(self, change: Change, seen: SourceEntry, xattrs: Xattrs) -> UploadReceipt | Failure:
        known = change.known
        if known is None:
            raise ValueError(f"nothing is known of {seen.path!r}")
        entry = entry_of_source(
            seen, looked_ns=time.time_ns(), xattrs=xattrs, sha256=known.sha256, target=known.target
        )
        if not entry_fits(entry):
            return _too_much_metadata(entry)
        return UploadReceipt(
            entry=msgspec.structs.replace(entry, extent=known.extent), pending=change.pending
        )

    def _emit(self, change: Change, entry: Entry, body: Buffer, digest: bytes, results: SmallResults) -> None:
        if not entry_fits(entry):
            results.outcomes.append(_too_much_metadata(entry))
            return
        settings = self._settings
        if settings.packed and (entry.kind is not Kind.FILE or entry.size < settings.pack_below_bytes):
            results.items.append(
                PackItem(entry=entry, pending=change.pending, body=body, bytes_read=len(body))
            )
            return
        key = settings.content_key(entry.path, entry.kind)
        # Folders and symlinks are empty objects: there is nothing to seal, unless their names are hidden.
        sealed = settings.sealed and (entry.kind is Kind.FILE or settings.hidden is not None)
        bytes_read = len(body)
        head = b"" if settings.hidden is None else hidden_head(entry)
        if head:
            body = head + body
        frames = self._compressed(body) if bytes_read else None
        if frames is not None:
            body, digest = frames, hashlib.sha256(frames).digest()
        compression = "" if frames is None else ZSTD
        payload = WholePayload(
            entry=entry,
            pending=change.pending,
            key=key,
            metadata={} if head else object_metadata(entry, key, sealed=sealed, compression=compression),
            body=body,
            body_sha256=b"" if sealed else digest,
            encrypted=sealed,
            leased=min(len(body), bytes_read),
            bytes_read=bytes_read,
            compression=compression,
            skip=len(head),
        )
        if settings.packed:
            # Too large for a pack; sent unless the section holds its content already.
            item = PackItem(entry=entry, pending=change.pending, bytes_read=bytes_read, whole=payload)
            results.items.append(item)
        else:
            results.payloads.append(payload)

    def _compressed(self, body: Buffer) -> bytes | None:
        """The body as zstd frames, ``None`` where it stays as it is."""
        level = self._settings.zstd_level
        if not (level and body):
            return None
        compressor: FrameCompressor | None = getattr(self._of_thread, "compressor", None)
        if compressor is None:
            compressor = self._of_thread.compressor = FrameCompressor(level=level)
        return compressed(body, compressor)


class Arena:
    """One buffer for the contents of a batch, which takes them all in one step, and of which each is a
    part. Those from ``largest_bytes`` on, and those that have no room, are read into a buffer of their own.

    Thousands of small buffers, made in one thread and freed in another, would
    leave the process four times as large.
    """

    __slots__ = ("_filled", "_largest_bytes", "_placed", "_view")

    def __init__(self, view: memoryview, *, largest_bytes: int) -> None:
        self._view = view
        self._largest_bytes = largest_bytes
        self._filled = 0
        self._placed: dict[int, tuple[int, memoryview]] = {}

    def read_all(self, descriptor: int, size: int) -> Buffer | None:
        """As ``_read_all``."""
        if not 0 < size < self._largest_bytes or self._filled + size >= len(self._view):
            return _read_all(descriptor, size)
        # One byte more than there should be shows the end in the same call, together with the size
        # that the file has afterwards.
        start = self._filled
        body = self._view[start : start + size + 1]
        count = os.readv(descriptor, [body])
        if count < size:
            while count <= size and (more := os.readv(descriptor, [body[count:]])):
                count += more
        if count != size:
            return None
        self._filled += size
        body = body[:size]
        self._placed[id(body)] = start, body
        return body

    def offset_of(self, body: Buffer) -> int:
        """Where what :meth:`read_all` gave begins in the buffer; -1 where it is not in there."""
        return self._placed.get(id(body), (-1,))[0]


def _too_much_metadata(entry: Entry) -> Failure:
    return Failure(
        path=entry.path,
        reason="its path and extended attributes are too large for a manifest (1 MiB in all)",
        kind=entry.kind,
    )


def _place(folder: int, name: bytes) -> int | bytes:
    """The entry itself, reached through its folder's descriptor so that no path is ever too long;
    the descriptor for the root. Python reads extended attributes on Linux only, where /proc is."""
    return b"/proc/self/fd/%d/%s" % (folder, name) if name else folder


def _read_all(descriptor: int, size: int) -> bytes | None:
    """Exactly ``size`` bytes to the end of the file, or ``None`` where it has more or fewer.

    Of a file that is just growing they may be the first ones; its size tells that afterwards.
    """
    if not size:
        return None if os.read(descriptor, 1) else b""
    body = os.read(descriptor, size + 1)
    if len(body) < size:  # a signal, or a file system that reads in pieces, whose end is looked for
        while len(body) <= size and (more := os.read(descriptor, size + 1 - len(body))):
            body += more
    return body if len(body) == size else None


def _moved(before: os.stat_result, after: os.stat_result) -> bool:
    return (
        before.st_size != after.st_size
        or before.st_mtime_ns != after.st_mtime_ns
        or before.st_ctime_ns != after.st_ctime_ns
    )
