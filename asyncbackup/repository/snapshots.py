"""Which snapshots a destination holds, and which of them a user means."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.errors import ConfigError
from asyncbackup.format.keys import (
    forgotten_key,
    forgotten_prefix,
    revision_of_snapshot_key,
    snapshots_prefix,
)
from asyncbackup.format.runid import is_run_id, run_time_ns
from asyncbackup.model import RunId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo

    from asyncbackup.repository.open import Repository

LATEST = "latest"

_NAMED_IN_ERRORS = 10
_EMPTY_SHA256 = sha256().digest()


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot as the listing shows it. ``size`` is that of its manifest, as stored;
    ``started_ns`` the start of its run, to the second. ``revision`` is the newest there is."""

    id: RunId
    key: str
    size: int
    started_ns: int
    modified_ns: int = 0
    revision: int = 0


async def list_snapshots(repository: Repository) -> list[SnapshotInfo]:
    """Every snapshot of the section that is not forgotten, oldest first. Two listings, no manifest is read.

    Keys below the prefixes that name no snapshot are passed over.
    """
    manifests = await list_manifests(repository)
    forgotten = await list_forgotten(repository) if manifests else frozenset()
    return [manifest for manifest in manifests if manifest.id not in forgotten]


async def list_manifests(repository: Repository) -> list[SnapshotInfo]:
    """The newest revision of every manifest, those of forgotten snapshots too, oldest snapshot first."""
    found = {manifest.id: manifest for manifest in await list_manifest_revisions(repository)}
    return list(found.values())


async def list_manifest_revisions(repository: Repository) -> list[SnapshotInfo]:
    """Every manifest in every revision that is there, by snapshot and then by revision."""
    found: list[SnapshotInfo] = []
    async for page in repository.store.list(snapshots_prefix(repository.section)):
        for info in page:
            named = revision_of_snapshot_key(repository.section, info.key)
            if named is None:
                continue
            run, revision = named
            found.append(
                SnapshotInfo(
                    id=run,
                    key=info.key,
                    size=info.size,
                    started_ns=run_time_ns(run),
                    modified_ns=info.modified_ns,
                    revision=revision,
                )
            )
    return sorted(found, key=lambda info: (info.id, info.revision))


async def newest_revision(repository: Repository, run: str) -> int:
    """The newest revision of one manifest that a prune wrote anew; 0 where there is none."""
    newest = 0
    async for page in repository.store.list(f"{snapshots_prefix(repository.section)}{run}."):
        for info in page:
            found = revision_of_snapshot_key(repository.section, info.key)
            if found is not None and found[0] == run:
                newest = max(newest, found[1])
    return newest


async def list_forgotten(repository: Repository) -> frozenset[RunId]:
    """The snapshots that are forgotten, whether or not their manifests are still there."""
    prefix = forgotten_prefix(repository.section)
    found: set[RunId] = set()
    async for page in repository.store.list(prefix):
        names = (info.key.removeprefix(prefix) for info in page)
        found.update(RunId(name) for name in names if is_run_id(name))
    return frozenset(found)


async def forget_snapshot(repository: Repository, run: str) -> None:
    """Mark a snapshot as forgotten: it is no longer listed or restored. Raises ``StoreError``."""
    await repository.store.put(forgotten_key(repository.section, run), b"", sha256=_EMPTY_SHA256)


async def resolve_snapshot(
    repository: Repository, text: str, *, now_ns: int | None = None, zone: tzinfo | None = None
) -> RunId:
    """The snapshot that ``text`` names at the destination; see :func:`choose_snapshot`."""
    return choose_snapshot(
        await list_snapshots(repository), text, section=repository.section, now_ns=now_ns, zone=zone
    )


def choose_snapshot(
    snapshots: Sequence[SnapshotInfo],
    text: str,
    *,
    section: str,
    now_ns: int | None = None,
    zone: tzinfo | None = None,
) -> RunId:
    """The one of ``snapshots`` (oldest first) that ``text`` names.

    ``text`` is an id, the beginning of exactly one id, ``latest``, or a time
    (see :func:`~asyncbackup.repository.times.parse_time`), which stands for
    the newest snapshot that began not later.

    Raises ``ConfigError`` naming what exists where none or several fit.
    """
    if not snapshots:
        raise ConfigError(
            f"section {section!r} has no snapshot at its destination; 'asyncbackup run {section}' makes one"
        )
    text = text.strip()
    if text.lower() == LATEST:
        return snapshots[-1].id
    matching = [snapshot.id for snapshot in snapshots if text and snapshot.id.startswith(text)]
    if len(matching) == 1 or text in matching:
        return RunId(text) if text in matching else matching[0]
    if matching:
        raise ConfigError(f"{text!r} fits {len(matching)} snapshots: {_named(matching)}; give more of the id")
    from asyncbackup.repository.times import parse_time

    try:
        end_ns = parse_time(text, now_ns=time.time_ns() if now_ns is None else now_ns, zone=zone)
    except ValueError as error:
        raise ConfigError(f"{error}; section {section!r} has {_all_named(snapshots)}") from None
    if end_ns is None:
        raise ConfigError(
            f"section {section!r} has no snapshot {text!r}, and it is neither 'latest' nor a time like "
            f"2026-11-01, 2026-11-01T12:00 or '3 days ago'; there are {_all_named(snapshots)}"
        )
    earlier = [snapshot.id for snapshot in snapshots if snapshot.started_ns <= end_ns]
    if not earlier:
        raise ConfigError(
            f"section {section!r} has no snapshot as old as {text!r}; there are {_all_named(snapshots)}"
        )
    return earlier[-1]


def _all_named(snapshots: Sequence[SnapshotInfo]) -> str:
    return _named([snapshot.id for snapshot in snapshots])


def _named(ids: Sequence[RunId]) -> str:
    """The newest ids, and how many more there are."""
    shown = ", ".join(ids[-_NAMED_IN_ERRORS:])
    more = len(ids) - _NAMED_IN_ERRORS
    return f"{shown} and {more} older ones" if more > 0 else shown
