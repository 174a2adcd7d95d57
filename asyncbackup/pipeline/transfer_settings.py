"""What the three stages of a transfer need to know of the run; plain values, so that they can travel."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from asyncbackup.format.envelope import sealed_size
from asyncbackup.format.hidden import HiddenNames
from asyncbackup.format.keys import content_key, run_prefix
from asyncbackup.format.keyslots import RepositoryKey
from asyncbackup.model import Entry, Kind, RunId
from asyncbackup.resume import ResumableUpload

MIB = 1024 * 1024
DELTA_FROM_BYTES = 64 * MIB
"""Below, sending a file whole costs less than remembering its parts is worth."""


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What reading small files needs of :class:`TransferSettings`, wherever it is done: no key, unless
    names are hidden."""

    root: bytes
    section: str
    run: RunId
    store_prefix_bytes: int
    sealed: bool
    packed: bool
    pack_below_bytes: int
    zstd_level: int
    run_started: Mapping[str, int]
    hidden: HiddenNames | None = None

    def content_key(self, path: bytes, kind: Kind) -> str:
        """The key of an entry's object, relative to the run's prefix."""
        if self.hidden is not None:
            return self.hidden.key_of(path, section=self.section, run=self.run)
        prefix_bytes = self.store_prefix_bytes + len(run_prefix(self.section, self.run))
        return content_key(path, kind, prefix_bytes=prefix_bytes)


class TransferSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``root`` is the section's folder, ``store_prefix_bytes`` the length of the destination's own
    key prefix (it counts against S3's 1,024). ``key`` is ``None`` where nothing is encrypted.
    ``resumable`` holds the unfinished uploads of earlier runs by path. Of plain files of at least
    ``delta_from_bytes``, parts that did not change are taken over from the earlier object.

    ``packed``: files below ``pack_below_bytes`` go into packs of about ``pack_size_bytes``.
    ``hidden`` gives the keys where names are hidden. ``zstd_level`` is 0 where nothing is
    compressed. ``run_started`` says when each run began, in ns: what was born before, a run
    found already there.
    """

    root: bytes
    section: str
    run: RunId
    repository: str
    store_prefix_bytes: int
    concurrency: int
    part_size_bytes: int
    memory_limit_bytes: int
    key: RepositoryKey | None = None
    resumable: Mapping[bytes, ResumableUpload] = {}
    delta_from_bytes: int = DELTA_FROM_BYTES
    packed: bool = False
    pack_below_bytes: int = 0
    pack_size_bytes: int = 0
    zstd_level: int = 0
    run_started: Mapping[str, int] = {}
    hidden: HiddenNames | None = None

    @property
    def sealed(self) -> bool:
        return self.key is not None

    @property
    def reading(self) -> ReadSettings:
        """What reading small files needs."""
        return ReadSettings(
            root=self.root,
            section=self.section,
            run=self.run,
            store_prefix_bytes=self.store_prefix_bytes,
            sealed=self.sealed,
            packed=self.packed,
            pack_below_bytes=self.pack_below_bytes,
            zstd_level=self.zstd_level,
            run_started=self.run_started,
            hidden=self.hidden,
        )

    def content_key(self, path: bytes, kind: Kind) -> str:
        """The key of an entry's object, relative to the run's prefix."""
        return self.reading.content_key(path, kind)

    def object_key(self, key: str, *, run: str | None = None) -> str:
        """A key relative to the destination, of this run or an earlier one."""
        return run_prefix(self.section, run or self.run) + key

    def stored_size(self, entry: Entry) -> int:
        """The size of the object that will hold the entry's content."""
        return sealed_size(entry.size) if self.sealed else entry.size
