"""From a snapshot's manifest to the stored selection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncbackup.catalog.selection import Candidate, Selection
from asyncbackup.errors import Interrupted
from asyncbackup.model import Entry, RunId, split_path
from asyncbackup.repository.manifests import read_manifest
from asyncbackup.restore.filter import Choice, EntryFilter

if TYPE_CHECKING:
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.repository.open import Repository

_PLACE_BYTES = 16


async def select(
    repository: Repository,
    run: RunId,
    filter_: EntryFilter,
    selection: Selection,
    *,
    gate: ThreadGate,
    stop: StopRequest,
) -> None:
    """Store what the filter chooses of a snapshot, with the folders that lead there.

    Raises ``ConfigError`` for a path that the snapshot does not have,
    ``Interrupted``, ``FormatError`` and ``StoreError``.
    """
    selected = 0
    async with aclosing(read_manifest(repository, run)) as batches:
        async for batch in batches:
            if stop.requested:
                raise Interrupted("interrupted while the files were being selected; nothing was restored yet")
            candidates = await gate.run(_candidates, batch, filter_)
            selected += sum(candidate.selected for candidate in candidates)
            await selection.add(candidates)
    filter_.check_matched(selected=selected, snapshot=run, section=repository.section)
    await selection.seal(filtered=not filter_.takes_all)


async def relocate(
    repository: Repository, run: RunId, filter_: EntryFilter, selection: Selection, *, gate: ThreadGate
) -> int:
    """Find out where contents that could not be had lie by now; a prune may have written their packs anew.

    Gives how many have moved. Raises as :func:`select` does.
    """
    moved, number = 0, 1
    async with aclosing(read_manifest(repository, run)) as batches:
        async for batch in batches:
            entries = [each.entry for each in await gate.run(_candidates, batch, filter_)]
            moved += await selection.relocate(entries, first=number)
            number += len(entries)
    return moved


def _candidates(entries: Sequence[Entry], filter_: EntryFilter) -> list[Candidate]:
    if filter_.takes_all:
        return [Candidate(entry=entry, selected=True) for entry in entries]
    candidates: list[Candidate] = []
    known_folder, known_place = b"", _place(b"")
    for entry in entries:
        choice = filter_.choose(entry)
        if choice is Choice.OUT:
            continue
        folder, _ = split_path(entry.path)
        if folder != known_folder:
            known_folder, known_place = folder, _place(folder)
        candidates.append(
            Candidate(
                entry=entry,
                selected=choice is Choice.SELECTED,
                own_place=_place(entry.path),
                parent_place=known_place if entry.path else None,
            )
        )
    return candidates


def _place(path: bytes) -> bytes:
    return hashlib.blake2b(path, digest_size=_PLACE_BYTES).digest()
