"""The SQLite that this Python is linked with, and the least that does."""

from __future__ import annotations

import sqlite3

from asyncbackup.errors import CatalogError

LEAST_SQLITE = (3, 32, 0)
"""Has upserts, window functions, 32,766 parameters a statement, and ``trusted_schema``, without which a
planted database could run code of its own."""


def check_sqlite() -> None:
    """Raises ``CatalogError`` for an SQLite that is too old. An unknown pragma would pass in silence."""
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        least = ".".join(map(str, LEAST_SQLITE))
        raise CatalogError(
            f"this Python is linked with SQLite {sqlite3.sqlite_version}, asyncbackup needs {least} or "
            "later; use another Python (those of python.org and of uv bring one along)"
        )
