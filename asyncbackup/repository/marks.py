"""The marks that runs and prunes leave for each other (docs/format.md, "Forgetting and pruning").

Each side first announces itself and then looks for the other, so that of a run
and a prune that begin in the same moment at least one sees the other.
"""

from __future__ import annotations

import logging
import platform
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from asyncbackup import __version__
from asyncbackup.errors import (
    AccessDeniedError,
    CatalogBehindError,
    SectionBusyError,
    StoreError,
    UnsupportedError,
)
from asyncbackup.format.keys import (
    prune_done_key,
    prune_mark_key,
    prunes_prefix,
    run_mark_key,
    runs_prefix,
)
from asyncbackup.format.runid import is_run_id, run_time_ns
from asyncbackup.model import RunId
from asyncbackup.repository.snapshots import forget_snapshot

if TYPE_CHECKING:
    from asyncbackup.catalog.catalog import Catalog
    from asyncbackup.repository.open import Repository

log = logging.getLogger(__name__)

KNOWN_PRUNES = "prune"
"""The catalog's note of the prunes that its contents account for."""

HOUR_NS = 3_600_000_000_000
MIN_AGE_NS = 24 * HOUR_NS
"""A run or prune that never said how it ended counts as dead once its mark is as old as this."""
LOOK_AGAIN_NS = HOUR_NS
"""A run that took longer looks for prunes once more before it commits: its machine may have slept."""

_known = msgspec.json.Decoder(frozenset[str])


class RunMark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="run", tag_field="type"):
    """What ``runs/RUN.json`` says. ``host`` is left out where names are hidden."""

    run: str
    started_ns: int = msgspec.field(name="started")
    host: str = ""
    software: str = ""


class PruneMark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="prune", tag_field="type"):
    """What ``prunes/ID.json`` and ``ID.done`` say."""

    prune: str
    started_ns: int = msgspec.field(name="started")
    host: str = ""
    software: str = ""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One mark as a listing shows it. ``done`` is of prunes alone."""

    id: RunId
    modified_ns: int
    done: bool = False

    def is_stale(self, *, now_ns: int, min_age_ns: int) -> bool:
        """Whether it is so old that who wrote it is taken for dead.

        Both clocks have to say so: its writer's, which is in the id, and the store's. Without a
        minimum every one is: ids may lie some seconds ahead.
        """
        return not min_age_ns or now_ns - max(run_time_ns(self.id), self.modified_ns) >= min_age_ns


async def list_run_marks(repository: Repository) -> dict[RunId, Listed]:
    """The marks of runs that began, also of those that ended."""
    prefix = runs_prefix(repository.section)
    found: dict[RunId, Listed] = {}
    async for page in repository.store.list(prefix):
        for info in page:
            name = info.key.removeprefix(prefix)
            if name.endswith(".json") and is_run_id(run := name.removesuffix(".json")):
                found[RunId(run)] = Listed(id=RunId(run), modified_ns=info.modified_ns)
    return found


async def list_prunes(repository: Repository) -> dict[RunId, Listed]:
    """The prunes that left a mark. One is ``done`` once it said so."""
    prefix = prunes_prefix(repository.section)
    found: dict[RunId, Listed] = {}
    async for page in repository.store.list(prefix):
        for info in page:
            name, _, kind = info.key.removeprefix(prefix).rpartition(".")
            if kind not in {"json", "done"} or not is_run_id(name):
                continue
            earlier = found.get(RunId(name))
            found[RunId(name)] = Listed(
                id=RunId(name),
                modified_ns=max(info.modified_ns, earlier.modified_ns if earlier else 0),
                done=kind == "done" or (earlier is not None and earlier.done),
            )
    return found


async def known_prunes(catalog: Catalog) -> frozenset[str]:
    """The prunes that the contents of ``catalog`` account for."""
    value = await catalog.read_meta(KNOWN_PRUNES)
    return _known.decode(value) if value is not None else frozenset()


def encode_known(prunes: frozenset[str]) -> bytes:
    """What :func:`known_prunes` reads back."""
    return msgspec.json.encode(sorted(prunes))


def check_none_under_way(
    repository: Repository,
    prunes: dict[RunId, Listed],
    *,
    known: frozenset[str],
    now_ns: int,
    min_age_ns: int = MIN_AGE_NS,
) -> None:
    """Raises ``SectionBusyError`` beside a prune that nobody here began and that may still be at work."""
    for prune in prunes.values():
        if prune.done or prune.id in known or prune.is_stale(now_ns=now_ns, min_age_ns=min_age_ns):
            continue
        raise SectionBusyError(
            f"prune {prune.id} of section {repository.section!r} is under way on another machine; wait for "
            "it to end. If it was killed, 'asyncbackup prune' there ends it; "
            f"{min_age_ns // HOUR_NS} hours after its begin it counts as dead"
        )


async def account_for_prunes(repository: Repository, catalog: Catalog | None) -> frozenset[str]:
    """The prunes that a database read from the manifests from now on accounts for.

    To be asked for *before* the manifests are read, and kept as ``KNOWN_PRUNES``.
    Raises ``SectionBusyError`` beside a prune that is under way elsewhere.
    """
    try:
        prunes = await list_prunes(repository)
    except (AccessDeniedError, UnsupportedError) as error:
        log.info("prunes of section %s cannot be looked for: %s", repository.section, error)
        return frozenset()
    known = frozenset() if catalog is None else await known_prunes(catalog)
    check_none_under_way(repository, prunes, known=known, now_ns=time.time_ns())
    return frozenset(prunes)


async def announce_run(
    repository: Repository, run: RunId, *, known: frozenset[str], started_ns: int, hide_host: bool = False
) -> None:
    """Say that ``run`` begins, then make sure that no prune took from it what its database relies on.

    ``known`` are the prunes that the database accounts for. Raises
    ``CatalogBehindError`` where there was another one, ``SectionBusyError``
    beside one that is under way elsewhere (the mark is then taken back),
    ``ObjectExistsError`` where a run of another machine has this id, and
    further ``StoreError``.
    """
    host = "" if hide_host else platform.node()
    mark = RunMark(run=run, started_ns=started_ns, host=host, software=f"asyncbackup {__version__}")
    await put_mark(repository, run_mark_key(repository.section, run), mark, if_absent=True)
    try:
        await check_for_prunes(repository, known=known)
    except (CatalogBehindError, SectionBusyError):
        await withdraw(repository, run_mark_key(repository.section, run))
        raise


async def look_again(repository: Repository, *, known: frozenset[str], started_ns: int, now_ns: int) -> None:
    """Before the commit of a run that took long: has it been taken for dead meanwhile?

    Raises as :func:`announce_run`. A run that took less than an hour sends nothing.
    """
    if not 0 <= now_ns - started_ns < LOOK_AGAIN_NS:
        await check_for_prunes(repository, known=known)


async def look_back(
    repository: Repository, run: RunId, *, known: frozenset[str], started_ns: int, now_ns: int
) -> None:
    """After the commit of a run that took long: was it taken for dead between its last look and now?

    A prune that did may have deleted what the snapshot needs, so it is forgotten before anybody relies
    on it. Raises as :func:`look_again`.
    """
    try:
        await look_again(repository, known=known, started_ns=started_ns, now_ns=now_ns)
    except (CatalogBehindError, SectionBusyError):
        await forget_snapshot(repository, run)
        raise


async def check_for_prunes(
    repository: Repository, *, known: frozenset[str], min_age_ns: int = MIN_AGE_NS
) -> None:
    """Raises ``CatalogBehindError`` or ``SectionBusyError`` if there is a prune that is not ``known``.

    Where the credentials may not list, nothing is checked, and that is said.
    """
    try:
        prunes = await list_prunes(repository)
    except (AccessDeniedError, UnsupportedError) as error:
        log.info("whether there was a prune elsewhere is not checked: %s", error)
        return
    check_none_under_way(repository, prunes, known=known, now_ns=time.time_ns(), min_age_ns=min_age_ns)
    if unknown := sorted(prunes.keys() - known):
        raise CatalogBehindError(
            f"prune {unknown[-1]} on another machine may have deleted objects that the database of section "
            f"{repository.section!r} relies on; rebuild it with "
            f"'asyncbackup syncdb_remote {repository.section}'"
        )


async def put_mark(
    repository: Repository, key: str, mark: RunMark | PruneMark, *, if_absent: bool = False
) -> None:
    """Write one mark. With ``if_absent`` one that is there raises ``ObjectExistsError``, where the store
    can tell."""
    fields = msgspec.to_builtins(mark)
    kind = fields.pop("type")
    body = msgspec.json.encode({"type": kind, "format": 1, **fields})
    await repository.store.put(key, body, sha256=sha256(body).digest(), if_absent=if_absent)


async def withdraw(repository: Repository, *keys: str) -> None:
    """Take marks back that nobody shall wait for. Where that may not be, they stay until they are stale."""
    try:
        await repository.store.delete(keys)
    except StoreError as error:
        log.info("%s stays: %s", keys[0], error)


def prune_keys(section: str, prune: str) -> tuple[str, str]:
    """Both marks of a prune."""
    return prune_mark_key(section, prune), prune_done_key(section, prune)
