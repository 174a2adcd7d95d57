"""Where contents lie, and what is said of those that are not what was saved."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from asyncbackup.format.envelope import sealed_size
from asyncbackup.model import Entry, Extent
from asyncbackup.restore.content import Checker, Content, content_of
from asyncbackup.restore.outcome import ContentError
from tests.unit.restore.backup import file_entry

RUN = "20260921T141320Z-da77"
KEY = f"home/data/{RUN}/files/f"


def entry_with(size: int, **extent: Any) -> Entry:
    return file_entry("f", size=size, extent=Extent(run=RUN, key="files/f", **extent))


def test_the_key_is_that_of_the_run_that_uploaded_it() -> None:
    assert content_of(entry_with(7, length=7), "home", can_open=False) == Content(KEY, 0, 7, False)
    sealed = entry_with(7, length=sealed_size(7), encrypted=True)
    assert content_of(sealed, "home", can_open=True) == Content(KEY, 0, sealed_size(7), True)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (file_entry("f", size=1), "does not say where"),
        (entry_with(7, length=8), "said to hold 8 bytes, not 7"),
        (entry_with(7, length=7, offset=-1), "said to hold 7 bytes"),
        (entry_with(7, length=7, encrypted=True), "is encrypted, and the section is not"),
    ],
)
def test_contradictions_are_found_before_anything_is_downloaded(entry: Entry, reason: str) -> None:
    with pytest.raises(ContentError, match=reason):
        content_of(entry, "home", can_open=False)


def test_sizes_that_nothing_can_be_sealed_in() -> None:
    entry = entry_with(2**60, length=7, encrypted=True)
    with pytest.raises(ContentError, match="cannot be sealed"):
        content_of(entry, "home", can_open=True)


def checker_of(content: bytes, **fields: Any) -> Checker:
    entry = file_entry("f", **{"size": len(content), "sha256": hashlib.sha256(content).digest()} | fields)
    return Checker(entry, KEY, None)


def test_the_right_content_passes_however_it_is_cut() -> None:
    checker = checker_of(b"abcdef")
    assert checker.feed(b"ab") + checker.feed(b"") + checker.feed(b"cdef") + checker.finish() == b"abcdef"


@pytest.mark.parametrize(
    ("received", "reason", "damaged"),
    [
        (b"abcdeF", "differs from the snapshot's", True),
        (b"abcde", "holds 5 bytes of content, not 6", True),
        (b"abcdefg", "holds more than 6 bytes", False),
    ],
)
def test_every_other_content_is_refused(received: bytes, reason: str, damaged: bool) -> None:
    checker = checker_of(b"abcdef")
    with pytest.raises(ContentError, match=reason) as caught:
        _ = checker.feed(received) + checker.finish()
    assert KEY in caught.value.reason
    assert caught.value.damaged is damaged


def test_without_a_digest_the_size_still_counts() -> None:
    checker = checker_of(b"abcdef", sha256=b"")
    checker.feed(b"ABCDEF")
    assert checker.finish() == b""
