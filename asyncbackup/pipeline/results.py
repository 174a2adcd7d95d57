"""What the stages report to the recorder."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from asyncbackup.model import Entry, Failure, Pack, Pending, UploadReceipt


class Unchanged(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A file that had to be read to see that nothing about it changed but, maybe, its ctime.

    ``entry`` has the ctime of now, and is saved over the row, whose ``pending`` stays.
    """

    entry: Entry
    pending: Pending
    bytes_read: int


class Buried(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An entry of the last snapshot that is gone; with ``subtree`` a folder and all below it."""

    path: bytes
    subtree: bool


class Revived(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An entry that an interrupted run believed gone and that is there, changed or not."""

    path: bytes


class PackStored(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A pack that is durable, with the receipts of all its members."""

    pack: Pack
    receipts: list[UploadReceipt]


Outcome: TypeAlias = UploadReceipt | Failure | Unchanged | Buried | Revived | PackStored
