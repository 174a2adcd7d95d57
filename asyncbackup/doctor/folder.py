"""A folder as a destination: what its file system keeps."""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from asyncbackup.destination import local_folder
from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.errors import ObjectMissingError, StoreError
from asyncbackup.format.keys import MAX_SEGMENT_BYTES
from asyncbackup.text import local_path
from asyncbackup.units import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.store.base import Store
    from asyncbackup.traces import Traces

LOW_BYTES = 1024**3
METADATA = {"mtime": "1732305000.123456789", "mode": "100644"}


def examine_place(destination: str) -> list[Finding]:
    """Whether the folder is there, can be written to, and has room."""
    folder = local_folder(destination)
    assert folder is not None, "a folder is looked at, not a bucket"
    shown = local_path(folder)
    if not folder.is_dir():
        return [
            problem(
                "folder",
                f"{shown} is not there" if not folder.exists() else f"{shown} is no folder",
                "mount the disk, or make the folder",
            )
        ]
    if not os.access(folder, os.W_OK | os.X_OK | os.R_OK):
        return [problem("folder", f"{shown} cannot be read and written", "correct its owner or mode")]
    return [ok("folder", f"{shown} is there and can be written to"), _room(folder)]


def _room(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    text = f"{format_size(usage.free)} of {format_size(usage.total)} are free"
    if usage.free < LOW_BYTES:
        return note("folder-space", text, "'asyncbackup plan' tells how much a run needs")
    return ok("folder-space", text)


class FolderChecks:
    """Checks that write below the traces' prefix through the store that runs use."""

    def __init__(self, store: Store, traces: Traces) -> None:
        self._store = store
        self._traces = traces

    async def read_after_write(self) -> list[Finding]:
        """Does a read see the write that has just returned?"""
        body = os.urandom(1000)
        key = await self._put("object", body)
        listed = [info.key async for page in self._store.list(self._traces.prefix) for info in page]
        if await self._store.get(key, limit=2000) == body and key in listed:
            return [ok("read-after-write", "a read and a listing see what was just written")]
        advice = "a backup there could not be trusted; check the disk"
        return [problem("read-after-write", "what was just written is not what is read or listed", advice)]

    async def conditional_writes(self) -> list[Finding]:
        """Is an existing object kept?"""
        key = await self._put("conditional", b"first")
        try:
            await self._store.put(key, b"second", sha256=hashlib.sha256(b"second").digest(), if_absent=True)
        except StoreError:
            return [ok("conditional-writes", "an object is not written over where that is asked for")]
        return [note("conditional-writes", "an object is written over; backups do not rely on it")]

    async def metadata(self) -> list[Finding]:
        """Does the file system keep metadata and checksums as extended attributes?"""
        key = await self._put("metadata", b"x", METADATA)
        info = await self._store.head(key)
        if dict(info.metadata) != METADATA or not info.checksum:
            text = "this file system keeps no extended attributes, so metadata are in the manifests alone"
            advice = "'restore' brings everything back; 'verify' has to read, which it does"
            return [note("metadata", text, advice)]
        return [ok("metadata", "metadata and checksums are kept as extended attributes")]

    async def names(self) -> list[Finding]:
        """Are long names kept, and names apart that differ in little?"""
        return [
            await self._long_name(),
            await self._pair("key-case", "c/Name", "c/name", "upper and lower case", costs=True),
            await self._pair(
                "key-normal-form", "k/caf\u00e9", "k/cafe\u0301", "NFC and NFD forms of a letter", costs=False
            ),
        ]

    async def _long_name(self) -> Finding:
        name = "k/" + "s" * MAX_SEGMENT_BYTES
        advice = "files with such names are named as failed; all others are saved"
        try:
            key = await self._put(name, b"x")
            await self._store.get(key, limit=10)
        except StoreError as error:
            return note(
                "key-segment", f"names of {MAX_SEGMENT_BYTES} bytes are refused ({error.reason})", advice
            )
        return ok("key-segment", f"names of {MAX_SEGMENT_BYTES} bytes are kept")

    async def _pair(self, check: str, first: str, second: str, what: str, *, costs: bool) -> Finding:
        try:
            for name in (first, second):
                await self._put(name, name.encode())
            apart = await self._store.get(self._traces.prefix + first, limit=100) == first.encode()
        except ObjectMissingError:
            apart = False
        except StoreError as error:
            return note(check, f"could not be examined: {error}")
        if apart:
            return ok(check, f"{what} in names are kept apart")
        if not costs:
            return note(check, f"{what} in names are taken for one; asyncbackup writes only one of them")
        advice = "of two files whose names differ in that alone, only one would be kept; use layout packed"
        return note(check, f"{what} in names are taken for one", advice)

    async def _put(self, name: str, body: bytes, metadata: dict[str, str] | None = None) -> str:
        key = self._traces.key(name)
        await self._store.put(key, body, sha256=hashlib.sha256(body).digest(), metadata=metadata)
        return key
