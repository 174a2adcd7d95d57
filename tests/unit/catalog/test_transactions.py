"""Transactions of one connection: whole or not at all, one at a time, whatever is cancelled."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import CatalogError, SectionBusyError
from asyncbackup.model import Pending
from tests.unit.catalog.entries import entry, fill, pending_of
from tests.unit.flow.turns import settle

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog


async def test_an_exception_undoes_the_whole_block(catalog: Catalog) -> None:
    async def half() -> None:
        async with catalog._lock.transaction() as connection:
            await connection.execute("INSERT INTO meta VALUES ('half', x'00')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await half()
    assert await catalog.read_meta("half") is None
    await catalog.write_meta("half", b"whole")
    assert await catalog.read_meta("half") == b"whole"


async def test_transactions_of_several_tasks_do_not_mix(catalog: Catalog) -> None:
    first_is_in = asyncio.Event()
    go_on = asyncio.Event()

    async def first() -> None:
        async with catalog._lock.transaction() as connection:
            await connection.execute("INSERT INTO meta VALUES ('first', x'01')")
            first_is_in.set()
            await go_on.wait()
            raise ZeroDivisionError

    failing = asyncio.create_task(first())
    await first_is_in.wait()
    second = asyncio.create_task(catalog.write_meta("second", b"2"))
    await settle()
    assert not second.done()
    go_on.set()
    with pytest.raises(ZeroDivisionError):
        await failing
    await second
    assert await catalog.read_meta("first") is None
    assert await catalog.read_meta("second") == b"2"


async def test_saving_entries_is_whole_or_nothing(catalog: Catalog) -> None:
    impossible = msgspec.structs.replace(entry(b"b"), size=None)
    with pytest.raises(CatalogError):
        await catalog.entries.save([(entry(b"a"), Pending.NEW), (impossible, Pending.NEW)])
    assert await pending_of(catalog) == {}


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_any_turn_the_next_transaction_is_undisturbed(
    catalog: Catalog, turns: int
) -> None:
    """The connection's thread goes on with what it was given, whoever waits for it or not."""
    task = asyncio.create_task(fill(catalog, b"a", b"b"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert list(await pending_of(catalog)) in ([], [b"a", b"b"]), "half a transaction"
    await fill(catalog, b"c")
    assert b"c" in await pending_of(catalog)


async def test_cancelled_while_its_begin_is_under_way(catalog: Catalog) -> None:
    """The thread is kept busy, so the BEGIN is surely queued and not yet run."""
    blocker = asyncio.create_task(keep_busy(catalog))
    await settle()
    task = asyncio.create_task(fill(catalog, b"a"))
    await settle()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    await blocker
    await fill(catalog, b"b")
    assert list(await pending_of(catalog)) == [b"b"]


async def keep_busy(catalog: Catalog) -> None:
    await catalog._connection.execute_fetchall(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
        "SELECT max(i) FROM n"
    )


async def test_a_waiting_transaction_that_is_cancelled_gives_its_turn_away(catalog: Catalog) -> None:
    async with catalog._lock.transaction():
        waiting = [asyncio.create_task(catalog.write_meta(name, b"x")) for name in ("a", "b")]
        await settle()
        waiting[0].cancel()
        await settle()
    await waiting[1]
    assert await catalog.read_meta("a") is None
    assert await catalog.read_meta("b") == b"x"


async def test_a_full_disk_is_called_that_and_costs_only_the_transaction(catalog: Catalog) -> None:
    await fill(catalog, b"a")
    pages = next(iter(await catalog._connection.execute_fetchall("PRAGMA page_count")))[0]
    await catalog._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(CatalogError, match=r"no space left for .*home\.sqlite3; free some"):
        await fill(catalog, *(b"%05d" % number for number in range(1000)))
    await catalog._connection.execute("PRAGMA max_page_count = 100000")
    assert list(await pending_of(catalog)) == [b"a"]
    await fill(catalog, b"b")


async def test_where_sqlite_itself_gave_the_transaction_up_the_reason_stays(catalog: Catalog) -> None:
    async def fail() -> None:
        async with catalog._lock.transaction() as connection:
            await connection.execute("ROLLBACK")  # as SQLite does after some errors
            raise sqlite3.DatabaseError("disk image is malformed")

    with pytest.raises(CatalogError, match="is damaged"):
        await fail()
    await fill(catalog, b"a")


@pytest.mark.parametrize(
    ("code", "expected", "text"),
    [
        (sqlite3.SQLITE_BUSY, SectionBusyError, "another run holds"),
        (sqlite3.SQLITE_LOCKED, SectionBusyError, "another run holds"),
        (sqlite3.SQLITE_FULL, CatalogError, "no space left"),
        (sqlite3.SQLITE_IOERR, CatalogError, "check the folder's permissions and its disk"),
        (sqlite3.SQLITE_BUSY | 2 << 8, SectionBusyError, "another run holds"),
    ],
)
async def test_what_sqlite_says_is_said_in_our_words(
    catalog: Catalog, code: int, expected: type[Exception], text: str
) -> None:
    error = sqlite3.OperationalError("no matter")
    error.sqlite_errorcode = code
    with pytest.raises(expected, match=text):
        async with catalog._lock.transaction():
            raise error
