"""The journal of multipart uploads, from which a later run takes up where a killed one was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.catalog.database import WriteLock, translated
from asyncbackup.catalog.part_hashes import find_part_hashes, insert_part_hashes
from asyncbackup.catalog.rows import time_to_sql
from asyncbackup.model import join_path, split_path
from asyncbackup.resume import PartHashes, PartRecord, ResumableUpload

if TYPE_CHECKING:
    from pathlib import Path

    import aiosqlite


class UploadTable:
    """Implements :class:`asyncbackup.resume.UploadJournal` on the catalog."""

    __slots__ = ("_connection", "_lock", "_path")

    def __init__(self, connection: aiosqlite.Connection, lock: WriteLock, path: Path) -> None:
        self._connection = connection
        self._lock = lock
        self._path = path

    async def begun(self, upload: ResumableUpload) -> None:
        """Record an upload before its first part is sent. A path may have several, of different versions."""
        folder, name = split_path(upload.path)
        async with self._lock.transaction() as connection:
            await connection.execute(
                "INSERT INTO uploads "
                "(folder, name, run, key, upload_id, part_size, size, mtime_ns, ctime_ns) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    folder,
                    name,
                    upload.run,
                    upload.key,
                    upload.upload_id,
                    upload.part_size,
                    upload.size,
                    time_to_sql(upload.mtime_ns),
                    time_to_sql(upload.ctime_ns),
                ),
            )

    async def part_sent(self, upload_id: str, part: PartRecord) -> None:
        """Record a part that the store acknowledged."""
        async with self._lock.transaction() as connection:
            await connection.execute(
                "INSERT OR REPLACE INTO parts (upload_id, number, size, etag, sha256) VALUES (?, ?, ?, ?, ?)",
                (upload_id, part.number, part.size, part.etag, part.sha256),
            )

    async def ended(self, upload_id: str, *, made: PartHashes | None = None) -> None:
        """Forget an upload that was completed or aborted, and remember the parts of what it made."""
        async with self._lock.transaction() as connection:
            if made is not None:
                await insert_part_hashes(connection, made)
            await connection.execute("DELETE FROM parts WHERE upload_id = ?", (upload_id,))
            await connection.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    async def parts_of(self, run: str, key: str) -> PartHashes | None:
        """What is remembered of the parts of an object."""
        return await find_part_hashes(self._connection, self._path, run, key)

    async def all(self) -> list[ResumableUpload]:
        """Every recorded upload with its parts in ascending numbers."""
        with translated(self._path):
            uploads = await self._connection.execute_fetchall(
                "SELECT folder, name, run, key, upload_id, part_size, size, mtime_ns, ctime_ns FROM uploads"
            )
            parts = await self._connection.execute_fetchall(
                "SELECT upload_id, number, size, etag, sha256 FROM parts ORDER BY upload_id, number"
            )
        by_upload: dict[str, list[PartRecord]] = {}
        for upload_id, number, size, etag, sha256 in parts:
            by_upload.setdefault(upload_id, []).append(
                PartRecord(number=number, size=size, etag=etag, sha256=sha256)
            )
        return [
            ResumableUpload(
                path=join_path(folder, name),
                run=run,
                key=key,
                upload_id=upload_id,
                part_size=part_size,
                size=size,
                mtime_ns=int(mtime_ns),
                ctime_ns=int(ctime_ns),
                parts=tuple(by_upload.get(upload_id, ())),
            )
            for folder, name, run, key, upload_id, part_size, size, mtime_ns, ctime_ns in uploads
        ]
