"""Listings: complete, below their prefix alone, in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.contract.backends import Backend, digest

if TYPE_CHECKING:
    from asyncbackup.store.base import Store

EMPTY = digest(b"")


async def _put_all(store: Store, keys: Sequence[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(store.put(key, b"", sha256=EMPTY))


async def _keys(store: Store, prefix: str) -> list[str]:
    return [info.key async for page in store.list(prefix) for info in page]


async def test_an_empty_destination(store: Store) -> None:
    assert await _keys(store, "") == []
    assert await _keys(store, "no/such/folder/") == []


async def test_more_objects_than_a_page_has(store: Store, backend: Backend) -> None:
    # rclone's listings have one page whatever their length, and moto takes 8 ms an object.
    count = 1003 if backend.name in ("local", "seaweed") else 103
    keys = [f"many/{number % 7}/{number:04d}" for number in range(count)]
    await _put_all(store, [*keys, "other"])

    listed = [info async for page in store.list("many/") for info in page]

    assert sorted(info.key for info in listed) == sorted(keys)
    assert {info.size for info in listed} == {0}
    assert all(info.modified_ns > 1_700_000_000 * 10**9 for info in listed)
    await store.delete(keys)
    assert await _keys(store, "") == ["other"]


async def test_a_prefix_need_not_end_at_a_slash(store: Store) -> None:
    keys = ["run/a", "run/ab", "run/ab/c", "run/b", "runs"]
    keys.remove("run/ab")  # A folder cannot hold both run/ab and run/ab/c.
    await _put_all(store, keys)

    assert sorted(await _keys(store, "run")) == ["run/a", "run/ab/c", "run/b", "runs"]
    assert sorted(await _keys(store, "run/")) == ["run/a", "run/ab/c", "run/b"]
    assert sorted(await _keys(store, "run/a")) == ["run/a", "run/ab/c"]
    assert await _keys(store, "run/ab/c") == ["run/ab/c"]
    assert await _keys(store, "run/abc") == []


async def test_a_prefix_is_no_pattern(store: Store) -> None:
    await _put_all(store, ["p*q", "p.q", "p+q", "p q", "p%q"])

    assert await _keys(store, "p*") == ["p*q"]
    assert await _keys(store, "p+") == ["p+q"]
    assert await _keys(store, "p ") == ["p q"]
    assert await _keys(store, "p%") == ["p%q"]


async def test_a_listing_may_be_left_early(store: Store) -> None:
    await _put_all(store, [f"left/{number}" for number in range(5)])

    async for page in store.list("left/"):
        assert page
        break

    assert len(await _keys(store, "left/")) == 5
