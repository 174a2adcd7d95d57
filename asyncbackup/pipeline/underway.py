"""Objects on their way up whose contents further entries share.

Such an entry is receipted when the object is durable, never earlier, and
fails with it. All of this happens on the event loop.
"""

from __future__ import annotations

import msgspec

from asyncbackup.model import Entry, Extent, Failure, Pending, UploadReceipt


class Sharer(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An entry that waits for a content; ``index`` says which of the object's."""

    entry: Entry
    pending: Pending
    bytes_read: int = 0
    index: int = 0


class Underway:
    """One object. ``extents`` are its contents by index, once they are known: of a built pack
    before it is durable."""

    __slots__ = ("_reason", "_sharers", "extents", "stored")

    def __init__(self) -> None:
        self.extents: tuple[Extent, ...] = ()
        self.stored = False
        self._sharers: list[Sharer] = []
        self._reason = ""

    def share(self, sharer: Sharer) -> UploadReceipt | Failure | None:
        """Let an entry wait for the object; its outcome at once if the object is stored or has failed."""
        if self.stored:
            return self._receipt(sharer)
        if self._reason:
            return _failure(sharer, self._reason)
        self._sharers.append(sharer)
        return None

    def store(self) -> list[UploadReceipt]:
        """Note that the object is durable; the receipts of all that waited."""
        self.stored = True
        return [self._receipt(sharer) for sharer in self._take()]

    def fail(self, reason: str) -> list[Failure]:
        """Note that the object cannot be stored; the failures of all that waited."""
        self._reason = reason
        return [_failure(sharer, reason) for sharer in self._take()]

    def _take(self) -> list[Sharer]:
        sharers, self._sharers = self._sharers, []
        return sharers

    def _receipt(self, sharer: Sharer) -> UploadReceipt:
        return UploadReceipt(
            entry=msgspec.structs.replace(sharer.entry, extent=self.extents[sharer.index]),
            pending=sharer.pending,
            bytes_read=sharer.bytes_read,
        )


class PackUnderway(Underway):
    """A pack: its key relative to the run, and how it is compressed."""

    __slots__ = ("compression", "key")

    def __init__(self, key: str, compression: str) -> None:
        super().__init__()
        self.key = key
        self.compression = compression


def _failure(sharer: Sharer, reason: str) -> Failure:
    return Failure(path=sharer.entry.path, reason=reason, kind=sharer.entry.kind)
