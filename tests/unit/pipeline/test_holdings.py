"""What the section holds: asked of the catalog only where it may know more than the run remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncbackup.model import Extent
from asyncbackup.pipeline import holdings
from asyncbackup.pipeline.holdings import Holdings
from asyncbackup.pipeline.underway import Underway

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

EXTENT = Extent(run="20260101T000000Z-0000", key="packs/000001.tar", length=7)


class Contents:
    """What a catalog holds; ``asked`` are the digests that it was asked for."""

    def __init__(self, **held: Extent) -> None:
        self.held = {digest.encode(): extent for digest, extent in held.items()}
        self.asked: list[bytes] = []
        self.looks = 0

    async def find(self, digests: Sequence[bytes], *, encrypted: bool) -> dict[bytes, Extent]:
        self.asked += digests
        return {digest: self.held[digest] for digest in digests if digest in self.held}

    async def is_empty(self) -> bool:
        self.looks += 1
        return not self.held

    async def holds_size(self, size: int) -> bool:
        return False


async def test_what_is_held_is_found_and_what_is_recent_not_asked_for() -> None:
    contents = Contents(a=EXTENT)
    held = Holdings(contents, encrypted=False)
    held.expect(b"b", Underway())
    assert await held.find([b"a", b"b", b"c", b"c"]) == {b"a": EXTENT}
    assert sorted(contents.asked) == [b"a", b"c"]


async def test_a_catalog_without_contents_is_asked_for_none() -> None:
    contents = Contents()
    held = Holdings(contents, encrypted=False)
    assert await held.find([b"a"]) == await held.find([b"b"]) == {}
    assert (contents.asked, contents.looks) == ([], 1)


async def test_what_the_run_has_forgotten_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "KEPT_DIGESTS", 2)
    contents = Contents()
    held = Holdings(contents, encrypted=False)
    assert await held.find([b"a"]) == {}
    for digest in (b"a", b"b", b"c"):
        held.expect(digest, Underway())
    # The recorder has written it by now.
    contents.held[b"a"] = EXTENT
    assert await held.find([b"a", b"b"]) == {b"a": EXTENT}
    assert contents.asked == [b"a"]
