"""The first step of a section: its database, and the repository at its destination."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.catalog import Catalog, CatalogIdentity
from asyncbackup.errors import CatalogError, CatalogMissingError
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.marks import KNOWN_PRUNES, account_for_prunes, encode_known
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.snapshots import list_snapshots

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.config import SectionSettings, Settings


class CreatedDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """A new database. ``snapshots`` is how many of the section the destination already holds:
    the empty database knows none of them."""

    database: Path
    repository: str
    repository_created: bool
    snapshots: int


async def create_database(
    settings: Settings,
    section: SectionSettings,
    *,
    only_without_snapshots: bool = False,
    on_retry: Callable[[str], None] | None = None,
) -> CreatedDatabase:
    """Create the section's database, and the repository at its destination if there is none.

    With ``only_without_snapshots`` a destination that holds snapshots of the
    section makes it a ``CatalogMissingError``: the database that knew them is
    lost, and shall not be replaced by an empty one unasked.

    Raises ``CatalogError`` where there is a database already; nothing is
    changed then. Further as :func:`~asyncbackup.repository.create.create_repository`.
    """
    database = settings.database_path(section.name)
    if database.exists():
        raise CatalogError(
            f"there is a database already: {database}; nothing was changed. If it is damaged or outdated, "
            f"'asyncbackup syncdb_remote {section.name}' rebuilds it"
        )
    made = await create_repository(settings, section, on_retry=on_retry)
    async with open_repository(
        settings, section, cached_descriptor=made.descriptor, on_retry=on_retry
    ) as repository:
        snapshots = len(await list_snapshots(repository))
        # An empty database relies on nothing, so it accounts for all prunes that are over.
        prunes = await account_for_prunes(repository, None)
    if snapshots and only_without_snapshots:
        raise CatalogMissingError(
            f"{section.destination} holds {snapshots} snapshots of section {section.name!r}, but their "
            f"database {database} is missing; rebuild it with 'asyncbackup syncdb_remote', or choose another "
            "destination if they are of another folder"
        )
    identity = CatalogIdentity(section.name, section.destination, made.repository_id)
    async with Catalog.create(database, identity) as catalog:
        await catalog.write_meta("descriptor", made.descriptor)
        await catalog.write_meta(KNOWN_PRUNES, encode_known(prunes))
    return CreatedDatabase(
        database=database,
        repository=made.repository_id,
        repository_created=made.created,
        snapshots=snapshots,
    )
