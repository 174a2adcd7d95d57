"""(e) An object that opens under two keys is refused by one of them: its commitment names a single key."""

from __future__ import annotations

import secrets
import struct
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from asyncbackup.errors import AuthenticationError
from asyncbackup.format.envelope import MAGIC, Opener, context
from asyncbackup.format.keyslots import RepositoryKey, new_master_key
from asyncbackup.format.range_opener import HEAD_SIZE, RangeOpener
from tests.battery.salamander import open_under_both
from tests.unit.format.independent_reader import hkdf_expand, open_sealed

if TYPE_CHECKING:
    from tests.battery.score import Score

PLACE = ("8f14e45fceea167a5a36dedd4bea2543", "home", "home/data/x")
INFO = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"


class Derived:
    """What docs/format.md says follows from a master key, a salt and a header."""

    def __init__(self, key: RepositoryKey, salt: bytes, header: bytes) -> None:
        derived = hkdf_expand(key.reveal(), INFO + salt + context(*PLACE, header), 76)
        self.key, self.nonce, self.commitment = derived[:32], derived[32:44], derived[44:]


def opened(key: RepositoryKey, stored: bytes) -> bytes:
    opener = Opener(key, repository=PLACE[0], section=PLACE[1], object_key=PLACE[2])
    return opener.feed(stored) + opener.finish()


def opened_as_range(key: RepositoryKey, stored: bytes) -> bytes:
    opener = RangeOpener(
        key,
        repository=PLACE[0],
        section=PLACE[1],
        object_key=PLACE[2],
        head=stored[:HEAD_SIZE],
        stored_size=len(stored),
    )
    return opener.open(0, opener.size, stored[HEAD_SIZE:])


def test_only_the_key_that_is_committed_to_opens_it(score: Score) -> None:
    keys = new_master_key(), new_master_key()
    header, salt = MAGIC + struct.pack(">Q", 32), secrets.token_bytes(24)
    first, second = (Derived(key, salt, header) for key in keys)
    chunk = open_under_both((first.key, first.nonce), (second.key, second.nonce))
    # The attack itself works: without a commitment both would be content with it.
    plains = [AESGCM(each.key).decrypt(each.nonce, chunk, None) for each in (first, second)]
    assert plains[0] != plains[1]
    for committed, (mine, others), plain in (
        (first, keys, plains[0]),
        (second, keys[::-1], plains[1]),
    ):
        stored = header + salt + committed.commitment + chunk
        score.archives += 1
        for read in (opened, opened_as_range):
            assert read(mine, stored) == plain
            with pytest.raises(AuthenticationError):
                read(others, stored)
        assert open_sealed(mine.reveal(), *PLACE, stored) == plain
        with pytest.raises(ValueError, match="another key or context"):
            open_sealed(others.reveal(), *PLACE, stored)
