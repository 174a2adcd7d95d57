"""The commit of a snapshot: its manifest, in full or as a difference, and then the catalog's marks.

The order is that of docs/design.md, "Order of writes": everything that the
manifest refers to is durable before; once the manifest is there, so is the snapshot.
"""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING

import msgspec

from asyncbackup import __version__
from asyncbackup.catalog.history import SnapshotPlan
from asyncbackup.catalog.listings import SavedListings
from asyncbackup.catalog.rows import entry_of_row
from asyncbackup.format.escape import escape_path
from asyncbackup.format.manifest import ManifestHeader, ManifestTrailer
from asyncbackup.model import RunId
from asyncbackup.repository.manifest_upload import ManifestUpload
from asyncbackup.repository.vouching import may_have_base, plain_manifests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.config import SectionSettings
    from asyncbackup.model import Failure
    from asyncbackup.repository.open import Repository


class WrittenManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that is at the destination and not yet noted in the catalog; ``size`` is as stored."""

    run: RunId
    host: str
    plan: SnapshotPlan
    size: int


async def write_manifest(
    repository: Repository,
    catalog: Catalog,
    section: SectionSettings,
    run: RunId,
    *,
    started_ns: int,
    failures: Sequence[Failure],
) -> WrittenManifest:
    """Make the snapshot appear. Nothing of the tree may be saved any more until :func:`settle`.

    A difference costs what changed since its base; the tree's totals are the
    catalog's, which no run has to count. Raises ``StoreError``, ``CatalogError``.
    """
    history = catalog.history
    plan = await history.plan() if await may_have_base(repository, catalog) else SnapshotPlan()
    totals = await history.totals()
    header = ManifestHeader(
        snapshot=run,
        section=section.name,
        repository=repository.repository_id,
        started_ns=started_ns,
        host=platform.node(),
        source=escape_path(os.fsencode(section.path)),
        software=f"asyncbackup {__version__}",
        base=plan.base,
        depth=plan.depth,
        plain=await plain_manifests(repository, catalog) or msgspec.UNSET,
    )
    async with ManifestUpload(repository, header) as upload:
        if plan.base is None:
            # All rows pass by here, so this is where digests of listings cost least.
            saved = SavedListings(catalog.listings)
            async for rows in catalog.entries.rows_in_order():
                await upload.add([entry_of_row(row) for row in rows])
                await saved.add(rows)
            await saved.finish()
        else:
            async for items in history.changes(plan):
                await upload.add(items)
        async for packs in history.packs(plan):
            await upload.add_packs(packs)
        receipt = await upload.commit(
            ManifestTrailer(
                finished_ns=time.time_ns(),
                files=totals.files,
                folders=totals.folders,
                symlinks=totals.symlinks,
                bytes=totals.bytes,
                failures=tuple(failures),
            )
        )
    return WrittenManifest(run=run, host=header.host, plan=plan, size=receipt.size)


async def settle(catalog: Catalog, written: WrittenManifest) -> None:
    """Note in the catalog that the snapshot is there."""
    await catalog.history.commit(written.run, written.plan)
