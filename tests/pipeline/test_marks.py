"""How runs and prunes take notice of each other: clocks, long runs, credentials that may not list."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import CatalogBehindError, SectionBusyError
from asyncbackup.format.keys import prune_done_key, prune_mark_key
from asyncbackup.model import RunId
from asyncbackup.repository.marks import (
    HOUR_NS,
    MIN_AGE_NS,
    Listed,
    PruneMark,
    announce_run,
    list_run_marks,
    look_again,
    put_mark,
)
from asyncbackup.repository.open import open_repository
from tests.prunes import at, objects
from tests.servers.proxy import Exchange, FaultProxy
from tests.workbench import Workbench

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint

PRUNE = RunId("20260101T000000Z-0123")
RUN = RunId("20260101T120000Z-4567")
NONE: frozenset[str] = frozenset()


async def leave_prune(bench: Workbench, *, done: bool) -> None:
    async with open_repository(bench.settings, bench.section) as repository:
        mark = PruneMark(prune=PRUNE, started_ns=0)
        await put_mark(repository, prune_mark_key("home", PRUNE), mark)
        if done:
            await put_mark(repository, prune_done_key("home", PRUNE), mark)


async def test_a_run_that_took_long_looks_again_before_its_commit(bench: Workbench) -> None:
    await leave_prune(bench, done=True)
    async with open_repository(bench.settings, bench.section) as repository:
        before = repository.store.requests.copy()
        await look_again(repository, known=NONE, started_ns=0, now_ns=HOUR_NS - 1)
        assert repository.store.requests == before
        await look_again(repository, known=frozenset({PRUNE}), started_ns=0, now_ns=HOUR_NS)
        for now_ns in (HOUR_NS, -1):
            with pytest.raises(CatalogBehindError, match=PRUNE):
                await look_again(repository, known=NONE, started_ns=0, now_ns=now_ns)


async def test_a_prune_is_dead_once_its_id_and_its_object_are_old(bench: Workbench) -> None:
    await leave_prune(bench, done=False)
    async with open_repository(bench.settings, bench.section) as repository:
        # Its id is old, its object is new: the clock of its machine was wrong.
        with pytest.raises(SectionBusyError, match=PRUNE):
            await announce_run(repository, RUN, known=NONE, started_ns=0)
        assert not await list_run_marks(repository), "what was not begun leaves no mark"
        await announce_run(repository, RUN, known=frozenset({PRUNE}), started_ns=0)
        assert list(await list_run_marks(repository)) == [RUN]


@pytest.mark.parametrize(
    ("id_hours", "stored_hours", "stale"), [(25, 25, True), (25, 23, False), (23, 25, False), (24, 24, True)]
)
def test_both_clocks_have_to_say_so(id_hours: int, stored_hours: int, stale: bool) -> None:
    now_ns = 1_800_000_000_000_000_000
    began = time.strftime("%Y%m%dT%H%M%SZ-0123", time.gmtime(now_ns // 10**9 - id_hours * 3600))
    mark = Listed(id=RunId(began), modified_ns=now_ns - stored_hours * HOUR_NS)
    assert mark.is_stale(now_ns=now_ns, min_age_ns=MIN_AGE_NS) == stale


def test_without_a_minimum_age_every_mark_is_old() -> None:
    """Ids of runs that follow each other within a second lie ahead of the clock."""
    mark = Listed(id=RunId("20990101T000000Z-0123"), modified_ns=0)
    assert mark.is_stale(now_ns=0, min_age_ns=0)


async def test_where_nothing_may_be_listed_a_run_goes_on(
    tmp_path: Path, rclone_s3: S3Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(403, b"<Error><Code>AccessDenied</Code><Message>planned</Message></Error>")

    caplog.set_level(logging.INFO)
    async with FaultProxy(rclone_s3.url) as proxy:
        bench = Workbench(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(endpoint_url=proxy.url)
        )
        await bench.initialise()
        bench.write("file")
        proxy.plan("ListObjectsV2", refuse)
        assert (await bench.run()).files_new == 1
    assert "whether there was a prune elsewhere is not checked" in caplog.text


async def test_an_empty_database_accounts_for_what_was_before_it(bench: Workbench) -> None:
    await leave_prune(bench, done=True)
    bench.settings.database_path("home").unlink()
    await bench.initialise()
    bench.write("file")
    assert (await bench.run()).files_new == 1


async def test_a_run_writes_its_mark_before_anything_else(bench: Workbench) -> None:
    await leave_prune(bench, done=False)
    before = objects(bench)
    bench.write("file")
    with pytest.raises(SectionBusyError):
        await bench.run()
    assert objects(bench) == before
    at(bench, prune_mark_key("home", PRUNE)).unlink()
    await bench.run()
