"""What a run would look at, counted so that memory does not grow with the tree."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.model import Action

if TYPE_CHECKING:
    from asyncbackup.model import Change
    from asyncbackup.plan.sample import Sampler

_STEPS_PER_DOUBLING = 4


class SizeGroup(msgspec.Struct, kw_only=True):
    """Files of about one size: none is more than a quarter larger than another. ``parts`` is of each,
    stored plain; 1 is a single PUT."""

    small: bool
    parts: int
    count: int = 0
    bytes: int = 0

    @property
    def mean_bytes(self) -> float:
        return self.bytes / self.count


class Shape:
    """Counts changes. ``small`` files are those below ``pack_below_bytes``, which share packs.

    ``links`` are further names of a file, ``small_links`` those of a small one, ``link_bytes`` what
    the others would take as copies, ``small_link_bytes`` these. Entries of which only
    metadata changed are uploaded to no place, and counted as ``unsent``.
    """

    def __init__(
        self, *, pack_below_bytes: int, part_size_bytes: int, sampler: Sampler | None = None
    ) -> None:
        self.folders = 0
        self.symlinks = 0
        self.links = 0
        self.small_links = 0
        self.link_bytes = 0
        self.small_link_bytes = 0
        self.unsent = 0
        self._pack_below_bytes = pack_below_bytes
        self._part_size_bytes = part_size_bytes
        self._sampler = sampler
        self._groups: dict[tuple[bool, int, int], SizeGroup] = {}

    def add(self, change: Change) -> None:
        """One change of a dry run."""
        entry = change.entry
        if change.action in (Action.METADATA, Action.MOVED):
            # What moved is taken over from where it was: a reference in a pack at the most.
            self.unsent += 1
        elif stat.S_ISDIR(entry.mode):
            self.folders += 1
        elif stat.S_ISLNK(entry.mode):
            self.symlinks += 1
        elif change.action is Action.LINK:
            self.links += 1
            if entry.size < self._pack_below_bytes:
                self.small_links += 1
                self.small_link_bytes += entry.size
            else:
                self.link_bytes += entry.size
        else:
            self.add_file(entry.path, entry.size)

    def add_file(self, path: bytes, size: int) -> None:
        """A file whose content a run would upload."""
        small = size < self._pack_below_bytes
        parts = max(1, -(-size // self._part_size_bytes))
        exponent = size.bit_length()
        step = size * _STEPS_PER_DOUBLING >> max(0, exponent - 1)
        key = (small, parts, exponent * 2 * _STEPS_PER_DOUBLING + step)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = SizeGroup(small=small, parts=parts)
        group.count += 1
        group.bytes += size
        if self._sampler is not None:
            self._sampler.offer(path, size, small=small)

    def groups(self, *, small: bool | None = None) -> Iterator[SizeGroup]:
        """The files, all of them or those that are (not) small, in an order of sizes."""
        ordered = (self._groups[key] for key in sorted(self._groups))
        return (group for group in ordered if small is None or group.small is small)

    @property
    def files(self) -> int:
        return sum(group.count for group in self._groups.values())

    @property
    def bytes(self) -> int:
        """What the contents have together, before compression and sealing."""
        return sum(group.bytes for group in self._groups.values())

    @property
    def entries(self) -> int:
        """All that a manifest would have a line for."""
        return self.files + self.folders + self.symlinks + self.links + self.unsent
