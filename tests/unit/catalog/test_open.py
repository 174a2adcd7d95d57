"""Creating and opening a catalog: who may, and what is said to those who may not."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.integrity import sum_path
from asyncbackup.catalog.schema import APPLICATION_ID
from asyncbackup.errors import CatalogError, CatalogMissingError, SectionBusyError
from tests.unit.catalog.entries import IDENTITY, fill, pending_of
from tests.unit.unprivileged import as_nobody, open_folder_for_all

HOLDER = """
import asyncio, sys
from pathlib import Path
from asyncbackup.catalog.catalog import Catalog

async def main():
    async with Catalog.open(Path(sys.argv[1]), section="home", destination="file:///mnt/backups"):
        print("held", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


def opened(
    database: Path, *, section: str = "home", destination: str = IDENTITY.destination
) -> AbstractAsyncContextManager[Catalog]:
    return Catalog.open(database, section=section, destination=destination)


async def refused(database: Path, error: type[Exception] = CatalogError) -> str:
    """The message of the error with which opening fails."""
    with pytest.raises(error) as caught:
        async with opened(database):
            pass
    return str(caught.value)


async def create(database: Path) -> None:
    async with Catalog.create(database, IDENTITY):
        pass


async def test_what_was_created_can_be_opened_again(database: Path) -> None:
    async with Catalog.create(database, IDENTITY) as catalog:
        await fill(catalog, b"", b"a")
        await catalog.write_meta("descriptor", b"\x00\xff")
    async with opened(database) as catalog:
        assert catalog.identity == IDENTITY
        assert list(await pending_of(catalog)) == [b"", b"a"]
        assert await catalog.read_meta("descriptor") == b"\x00\xff"
        assert await catalog.read_meta("nothing") is None
        await catalog.write_meta("descriptor", b"new")
        assert await catalog.read_meta("descriptor") == b"new"


async def test_a_missing_database_is_not_made_and_the_ways_out_are_named(database: Path) -> None:
    message = await refused(database, CatalogMissingError)
    assert str(database) in message
    assert "initdb" in message
    assert "syncdb_remote" in message
    assert not database.parent.exists()


async def test_a_database_is_never_overwritten(database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"precious")
    with pytest.raises(CatalogError, match="never overwritten"):
        await create(database)
    assert database.read_bytes() == b"precious"


async def test_only_the_owner_may_read_it_whatever_the_umask(database: Path) -> None:
    before = os.umask(0)
    try:
        async with Catalog.create(database, IDENTITY) as catalog:
            await fill(catalog, b"a")
            files = sorted(database.parent.iterdir())
            assert database in files
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(database.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


async def test_closed_it_is_one_file_and_its_sum(database: Path) -> None:
    await create(database)
    assert sorted(file.name for file in database.parent.iterdir()) == ["home.sqlite3", "home.sqlite3.sha256"]


async def test_a_second_connection_meets_the_lock_at_once(database: Path, catalog: Catalog) -> None:
    message = await refused(database, SectionBusyError)
    assert "another run holds" in message
    await fill(catalog, b"still works")


async def test_the_section_is_free_again_after_closing(database: Path) -> None:
    await create(database)
    for _ in range(2):
        async with opened(database):
            await refused(database, SectionBusyError)


async def test_a_failing_run_frees_the_section_too(database: Path) -> None:
    await create(database)
    with pytest.raises(ZeroDivisionError):
        async with opened(database):
            raise ZeroDivisionError
    async with opened(database):
        pass


async def test_another_process_holds_it_until_it_is_killed(database: Path) -> None:
    await create(database)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        await refused(database, SectionBusyError)
        holder.kill()
        holder.wait()
    async with opened(database) as catalog:
        await fill(catalog, b"a")


@pytest.mark.parametrize(
    ("section", "destination", "found", "wanted"),
    [
        ("work", "file:///mnt/backups", "'home'", "'work'"),
        ("home", "file:///mnt/other", "'file:///mnt/backups'", "'file:///mnt/other'"),
    ],
)
async def test_the_database_of_something_else_is_refused(
    database: Path, section: str, destination: str, found: str, wanted: str
) -> None:
    await create(database)
    with pytest.raises(CatalogError) as caught:
        async with opened(database, section=section, destination=destination):
            pass
    assert found in str(caught.value)
    assert wanted in str(caught.value)
    async with opened(database):
        pass


def make_foreign(database: Path) -> None:
    database.parent.mkdir()
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE albums (title TEXT)")
    connection.commit()
    connection.close()


async def test_the_database_of_another_program_is_refused_and_left_as_it_is(database: Path) -> None:
    make_foreign(database)
    before = database.read_bytes()
    assert "not a database of asyncbackup" in await refused(database)
    assert database.read_bytes() == before
    assert len(list(database.parent.iterdir())) == 1


async def test_a_newer_schema_says_so(database: Path) -> None:
    await create(database)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    message = await refused(database)
    assert "schema version 99" in message
    assert "upgrade" in message


@pytest.mark.parametrize("content", [b"x", b"not a database" * 1000], ids=["short", "text"])
async def test_no_database_at_all(database: Path, content: bytes) -> None:
    database.parent.mkdir()
    database.write_bytes(content)
    message = await refused(database)
    assert str(database) in message
    assert database.read_bytes() == content


async def test_an_empty_file_is_what_a_killed_creation_left_and_counts_as_none(database: Path) -> None:
    database.parent.mkdir()
    database.touch(mode=0o600)
    assert "initdb" in await refused(database, CatalogMissingError)
    await create(database)
    async with opened(database):
        pass


async def test_two_creations_at_once_make_one_database(database: Path) -> None:
    results = await asyncio.gather(*(create(database) for _ in range(4)), return_exceptions=True)
    assert results.count(None) >= 1
    for result in results:
        assert result is None or isinstance(result, CatalogError | SectionBusyError)
    async with opened(database):
        pass


async def test_a_damaged_database_names_the_way_out(database: Path) -> None:
    async with Catalog.create(database, IDENTITY) as catalog:
        await fill(catalog, *(b"%d" % number for number in range(2000)))
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x5a" * (size - 4096))
    message = await refused(database)
    assert "damaged" in message
    assert "syncdb_remote" in message


@pytest.mark.parametrize("text", [b"WITHOUT ROWID", b"trigger", b"entries_pendingentries"])
async def test_a_damaged_schema_names_the_way_out(database: Path, text: bytes) -> None:
    """SQLite quotes what it cannot read, and one flipped bit makes that no text."""
    await create(database)
    sum_path(database).unlink()
    content = database.read_bytes()
    damaged = content.replace(text, text[:-3] + bytes([text[-3] ^ 0x80]) + text[-2:])
    assert damaged != content
    database.write_bytes(damaged)
    message = await refused(database)
    assert message.startswith(f"{database} is damaged (")
    assert "move it away and rebuild it with 'asyncbackup syncdb_remote'" in message


async def test_damage_found_later_is_named_as_well(database: Path) -> None:
    async with Catalog.create(database, IDENTITY) as catalog:
        await fill(catalog, *(b"%d" % number for number in range(2000)))
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\x5a" * (size // 2))
    sum_path(database).unlink()  # as after a run that was killed
    async with opened(database) as catalog:
        with pytest.raises(CatalogError, match="syncdb_remote"):
            await pending_of(catalog)


NO_TEXT = b'{"section": "home", "destination": "\xfa", "repository": ""}'


@pytest.mark.parametrize("identity", [None, b"{", b"{}", b'{"section": 1}', NO_TEXT])
async def test_a_database_that_does_not_know_whose_it_is(database: Path, identity: bytes | None) -> None:
    await create(database)
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("DELETE FROM meta WHERE name = 'identity'")
        if identity is not None:
            connection.execute("INSERT INTO meta VALUES ('identity', ?)", (identity,))
    connection.close()
    sum_path(database).unlink()  # as after a run that was killed
    message = await refused(database)
    assert "no identity" in message
    assert "syncdb_remote" in message


async def test_a_folder_in_place_of_the_database(database: Path) -> None:
    database.mkdir(parents=True)
    assert str(database) in await refused(database)
    with pytest.raises(CatalogError):
        await create(database)
    assert database.is_dir()


async def test_a_state_folder_that_cannot_be_written() -> None:
    with open_folder_for_all() as base:
        (base / "state").mkdir(mode=0o500)
        with as_nobody(), pytest.raises(CatalogError, match="writable state_dir"):
            await create(base / "state" / "home.sqlite3")


async def test_a_state_folder_that_cannot_be_entered() -> None:
    with open_folder_for_all() as base:
        (base / "state").mkdir(mode=0o000)
        with as_nobody():
            assert "Permission denied" in await refused(base / "state" / "home.sqlite3")


async def test_a_database_that_may_not_be_written() -> None:
    with open_folder_for_all() as base:
        database = base / "home.sqlite3"
        await create(database)
        database.chmod(0o444)
        with as_nobody():
            assert "permission denied" in await refused(database)


async def test_a_creation_cancelled_at_any_moment_leaves_nothing_or_a_whole_database(tmp_path: Path) -> None:
    finished = 0
    for turns in (int(1.2**step) for step in range(100)):
        database = tmp_path / str(turns) / "home.sqlite3"
        task = asyncio.create_task(create(database))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            if not database.exists() or database.stat().st_size == 0:
                await asyncio.wait_for(create(database), 30)
            async with opened(database):
                pass
        else:
            finished += 1
            if finished == 3:
                return
    pytest.fail("creating never came to its end")


def test_the_application_id_is_that_of_the_documentation() -> None:
    assert APPLICATION_ID.to_bytes(4, "big") == b"ABKP"


async def test_of_several_that_open_at_once_one_gets_it(database: Path) -> None:
    await create(database)
    done = asyncio.Event()
    refusals = 0

    async def hold() -> None:
        nonlocal refusals
        try:
            async with opened(database):
                await done.wait()
        except SectionBusyError:
            refusals += 1
            if refusals == 3:
                done.set()

    # Ends only if three of the four are refused while the fourth holds it.
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(hold())
    assert refusals == 3
