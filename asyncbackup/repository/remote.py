"""What a destination holds, read from the destination and not from the database."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncbackup.repository.manifests import read_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncbackup.model import Entry, RunId
    from asyncbackup.repository.open import Repository


async def list_remote(repository: Repository, snapshot: RunId) -> AsyncGenerator[list[Entry], None]:
    """Every entry of a snapshot in the order of (folder, name), in batches.

    The manifest is read and no object of a run; whether those are there is
    what ``verify`` finds out. Close it (``contextlib.aclosing``) when leaving
    it early. Raises as :func:`~asyncbackup.repository.manifests.read_manifest` does.
    """
    async with aclosing(read_manifest(repository, snapshot)) as entries:
        async for batch in entries:
            yield batch
