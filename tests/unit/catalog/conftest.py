"""A catalog of one's own for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncbackup.catalog.catalog import Catalog
from tests.unit.catalog.entries import IDENTITY


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the catalog lies; its folder does not exist yet."""
    return tmp_path / "state" / "home.sqlite3"


@pytest.fixture
async def catalog(database: Path) -> AsyncIterator[Catalog]:
    """A new, open catalog."""
    async with Catalog.create(database, IDENTITY) as catalog:
        yield catalog
