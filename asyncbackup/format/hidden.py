"""Objects with hidden names: their keys, and the head that stands before their content
(docs/format.md, "Hidden names")."""

from __future__ import annotations

import hmac
import struct
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.format.metadata import encode_metadata
from asyncbackup.model import Kind

if TYPE_CHECKING:
    from asyncbackup.format.keyslots import RepositoryKey
    from asyncbackup.model import Entry

HIDDEN = "hidden/"
"""What the keys of hidden objects begin with, relative to their run's folder."""

_KEY_INFO = b"asyncbackup hidden names v1"
_NAME_LABEL = b"asyncbackup hidden name v1"
_KEY_BYTES = 32


class HiddenNames:
    """Gives the keys of a repository's hidden objects. Holds a secret, and does not show it."""

    __slots__ = ("_key",)

    def __init__(self, key: RepositoryKey) -> None:
        # Imported here: settings name the class where no name is hidden, too.
        from cryptography.hazmat.primitives.hashes import SHA512
        from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

        self._key = HKDFExpand(SHA512(), _KEY_BYTES, _KEY_INFO).derive(key.reveal())

    def __repr__(self) -> str:
        return "HiddenNames(…)"

    def key_of(self, path: bytes, *, section: str, run: str) -> str:
        """The key of a path's object, relative to the run's folder."""
        fields = (_NAME_LABEL, section.encode(), run.encode(), path)
        framed = b"".join(struct.pack(">I", len(field)) + field for field in fields)
        return HIDDEN + hmac.digest(self._key, framed, sha256).hex()


def hidden_head(entry: Entry, *, first_path: bytes = b"") -> bytes:
    """What stands before the content of ``entry``: its metadata, whatever their size.

    ``first_path`` makes the object the stand-in of a further name of that path's content.
    """
    metadata = encode_metadata(
        entry, original_size=None, long_path=True, first_path=first_path, unlimited=True
    )
    metadata.setdefault("asyncbackup-path", "")  # the root's
    if entry.kind is Kind.FILE:
        metadata["asyncbackup-size"] = str(entry.size)
    head = msgspec.json.encode(metadata)
    return struct.pack(">I", len(head)) + head
