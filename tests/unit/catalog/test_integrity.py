"""Damage to the closed file of a catalog is noticed, whatever it hit; another copy of it is not damage."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.catalog.integrity import sum_path
from asyncbackup.errors import CatalogError
from tests.unit.catalog.entries import IDENTITY, fill, pending_of


def opened(database: Path) -> AbstractAsyncContextManager[Catalog]:
    return Catalog.open(database, section=IDENTITY.section, destination=IDENTITY.destination)


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    path = tmp_path / "home.sqlite3"
    async with Catalog.create(path, IDENTITY) as catalog:
        await fill(catalog, *(b"%d" % number for number in range(200)))
    return path


async def test_one_bit_anywhere_is_noticed_and_the_sum_stays(database: Path) -> None:
    whole = database.read_bytes()
    for position in range(4096, len(whole), 997):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        database.write_bytes(flipped)
        for _ in range(2):
            with pytest.raises(CatalogError, match=r"damaged .*syncdb_remote"):
                async with opened(database):
                    pass
    database.write_bytes(whole)
    async with opened(database) as catalog:
        assert len(await pending_of(catalog)) == 200


async def test_sha256sum_understands_it(database: Path) -> None:
    first, second = sum_path(database).read_text().splitlines()
    assert first == f"{hashlib.sha256(database.read_bytes()).hexdigest()}  home.sqlite3"
    assert second.startswith("# closed ")
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "--check", "--quiet", sum_path(database).name], cwd=database.parent, check=True
        )


async def test_an_older_copy_is_no_damage(database: Path, tmp_path: Path) -> None:
    shutil.copy(database, tmp_path / "old")
    async with opened(database) as catalog:
        await fill(catalog, b"later")
    shutil.copy(tmp_path / "old", database)
    async with opened(database) as catalog:
        assert b"later" not in await pending_of(catalog)


async def test_while_it_is_open_there_is_no_sum(database: Path) -> None:
    async with opened(database):
        assert not sum_path(database).exists()
    assert sum_path(database).exists()


async def test_who_only_reads_leaves_everything_as_it_was(database: Path) -> None:
    before = (database.read_bytes(), sum_path(database).read_bytes())
    async with opened(database) as catalog:
        await pending_of(catalog)
    assert (database.read_bytes(), sum_path(database).read_bytes()) == before


async def test_the_lock_outlives_the_comparison(database: Path) -> None:
    async with opened(database):
        other = sqlite3.connect(database, timeout=0)
        try:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        finally:
            other.close()
        code = f"import sqlite3; sqlite3.connect({str(database)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
        tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "locked" in tried.stderr


async def test_only_the_owner_may_read_the_sum(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        async with Catalog.create(tmp_path / "home.sqlite3", IDENTITY):
            pass
    finally:
        os.umask(previous)
    assert sum_path(tmp_path / "home.sqlite3").stat().st_mode & 0o777 == 0o600


async def test_no_descriptor_is_left_open(database: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with opened(database) as catalog:
        await fill(catalog, b"later")
    database.write_bytes(database.read_bytes()[:-1] + b"\x5a")
    with pytest.raises(CatalogError):
        async with opened(database):
            pass
    assert set(os.listdir("/proc/self/fd")) == before
