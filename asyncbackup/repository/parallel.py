"""Doing the same for many things at once, a bounded number at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from asyncbackup.flow.groups import single_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")


async def in_parallel(items: Sequence[T], call: Callable[[T], Awaitable[R]], *, limit: int) -> list[R]:
    """What ``call`` gives for each of ``items``, in their order; at most ``limit`` calls at once.

    The first call that raises ends the others and is raised.
    """
    results: dict[int, R] = {}
    left = iter(enumerate(items))

    async def work() -> None:
        for place, item in left:
            results[place] = await call(item)

    with single_error():
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(items))):
                group.create_task(work())
    return [results[place] for place in range(len(items))]
