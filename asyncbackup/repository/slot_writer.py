"""Replacing the descriptor, the one object of a repository that is ever written a second time.

The store has no conditional overwrite. So a change is a function that is
applied to the descriptor read just before, and the object is read back
afterwards: who finds somebody else's descriptor there applies the change to
that one. What remains is a writer that read before this one wrote and writes
after this one looked back: between its two requests, some milliseconds.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from asyncbackup.errors import StoreError
from asyncbackup.format.descriptor import Descriptor, encode_descriptor
from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.repository.open import fetch_descriptor, read_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.store.base import Store

ATTEMPTS = 5


async def replace_descriptor(store: Store, change: Callable[[Descriptor], Descriptor]) -> Descriptor:
    """Write what ``change`` makes of the descriptor, and give what then lies at the destination.

    ``change`` is called with the newest descriptor, more than once if others
    write at the same time; it gives back its argument where there is nothing
    to do (any more). A kill at any point leaves the old or the new one.

    Raises what ``change`` raises, ``FormatError`` and ``StoreError``.
    """
    for _ in range(ATTEMPTS):
        found = read_descriptor(await fetch_descriptor(store))
        wanted = change(found)
        if wanted == found:
            return found
        data = encode_descriptor(wanted)
        await store.put(DESCRIPTOR_KEY, data, sha256=sha256(data).digest())
    found = read_descriptor(await fetch_descriptor(store))
    if change(found) == found:
        return found
    raise StoreError(
        "PutObject",
        DESCRIPTOR_KEY,
        "others change the key slots at the same time; look with 'asyncbackup key list' and try again",
        code="Conflict",
    )
