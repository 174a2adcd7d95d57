"""The passes of a restore over its stored selection.

1. In the manifest's order: folders are made, symlinks made, files with objects of their own downloaded.
2. In the order in which they lie in packs: all other files, many to a request.
3. Further names of files are linked to the first one.
4. In reverse order, so deepest first: folders get their metadata.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncbackup.catalog.selection import Role, SelectedEntry, State
from asyncbackup.errors import Interrupted
from asyncbackup.flow.hops import hop
from asyncbackup.restore.metadata import Note
from asyncbackup.restore.outcome import Outcome
from asyncbackup.restore.overwrite import Overwrite
from asyncbackup.restore.spans import Job, SpanPlanner, spans_of

if TYPE_CHECKING:
    from asyncbackup.catalog.selection import Selection
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.flow.workers import ThreadGate
    from asyncbackup.restore.builder import Builder, Prepared
    from asyncbackup.restore.tally import Tally
    from asyncbackup.restore.transfer import Transfer

_UNFINISHED_FOLDERS = (State.TODO, State.MADE)


class Restorer:
    """Runs the passes. Ends with ``Interrupted`` once a stop is requested and what was under way is done."""

    def __init__(
        self,
        selection: Selection,
        builder: Builder,
        transfer: Transfer,
        gate: ThreadGate,
        tally: Tally,
        stop: StopRequest,
        *,
        section: str,
        can_open: bool,
        span_bytes: int,
    ) -> None:
        self._selection = selection
        self._builder = builder
        self._transfer = transfer
        self._gate = gate
        self._tally = tally
        self._stop = stop
        self._section = section
        self._can_open = can_open
        self._span_bytes = span_bytes

    async def run(self) -> None:
        """All passes. Raises ``Interrupted`` and whatever ends a restore as a whole."""
        async with aclosing(self._jobs()) as pages:
            await self._transfer.run(pages)
        self._check_stop()
        # From here on the selection's own states are read.
        await self._tally.flush()
        await self._link()
        await self._tally.flush()
        await self._finish_folders()
        await self._tally.flush()

    def _stopping(self) -> bool:
        return self._stop.requested

    def _check_stop(self) -> None:
        if self._stopping():
            raise Interrupted("interrupted; restore again with the same arguments, and it goes on from here")

    async def _jobs(self) -> AsyncGenerator[Sequence[Job], None]:
        """Pages of what is to download; everything else of the page is in place by then."""
        roles = (Role.FOLDER, Role.FILE, Role.SYMLINK)
        async with aclosing(self._selection.pages(roles, packed=False)) as pages:
            async for page in pages:
                if self._stopping():
                    return
                yield await self._to_download(await self._leave_folders(page))
        planner = SpanPlanner(self._section, can_open=self._can_open, span_bytes=self._span_bytes)
        async with aclosing(self._selection.packed_pages()) as pages:
            async for page in pages:
                if self._stopping():
                    return
                yield planner.add(await self._to_download(page))
        yield planner.finish()

    async def _to_download(self, rows: Sequence[SelectedEntry]) -> list[SelectedEntry]:
        """The files among the rows that have to be downloaded; the rest is in place."""
        prepared = await self._prepare(rows)
        unsure: set[int] = set()
        for row in prepared.unsure:
            if self._stopping():
                return []
            if await hop(self._gate, self._builder.content_in_place, row):
                await self._tally.add([Outcome(row=row, state=State.DONE, resumed=True)])
            else:
                unsure.add(row.id)
        if not unsure:
            return prepared.files
        wanted = unsure.union(row.id for row in prepared.files)
        return [row for row in rows if row.id in wanted]

    async def _prepare(self, rows: Sequence[SelectedEntry]) -> Prepared:
        prepared = await hop(self._gate, self._builder.prepare, rows)
        self._tally.note(Note.UNDESCRIBED, prepared.folders_made)
        await self._tally.add(prepared.outcomes)
        return prepared

    async def _leave_folders(self, page: Sequence[SelectedEntry]) -> list[SelectedEntry]:
        """The page without the folders that exist and are not to be touched.

        What existed is noted before anything is made: a restore that goes on
        could not tell any more.
        """
        never = self._builder.overwrite is Overwrite.NEVER
        doubtful = [
            row
            for row in page
            if row.role is Role.FOLDER and row.state is State.TODO and (never or row.implied)
        ]
        if not doubtful:
            return [row for row in page if not _is_left(row)]
        existing = {row.id for row in await hop(self._gate, self._builder.existing_folders, doubtful)}
        await self._selection.mark(
            [(row.id, State.SKIPPED if row.id in existing else State.MADE) for row in doubtful]
        )
        return [row for row in page if row.id not in existing and not _is_left(row)]

    async def _link(self) -> None:
        async with aclosing(self._selection.pages((Role.LINK,))) as pages:
            async for page in pages:
                await self._link_page(page)

    async def _link_page(self, page: Sequence[SelectedEntry]) -> None:
        """Link a page of names. A name whose leader is not there gets the content itself and
        becomes the leader of those after it."""
        todo = list(page)
        while todo:
            self._check_stop()
            leaders = await self._selection.rows(row.leader for row in todo if row.leader is not None)
            pairs = [(row, leaders[row.leader]) for row in todo if row.leader is not None]
            linked = await hop(self._gate, self._builder.link, pairs)
            self._tally.note(Note.UNDESCRIBED, linked.folders_made)
            await self._tally.add(linked.outcomes)
            heirs = list({row.leader: row for row in reversed(linked.orphans)}.values())
            for row in heirs:
                await self._selection.promote(row, adopt=True)
            for row in linked.unlinkable:
                await self._selection.promote(row, adopt=False)
            self._tally.note(Note.LINK_COPIED, len(linked.unlinkable))
            await self._restore_contents([*heirs, *linked.unlinkable])
            await self._tally.flush()
            heir_ids = {row.id for row in heirs}
            left = await self._selection.rows(row.id for row in linked.orphans if row.id not in heir_ids)
            todo = [left[number] for number in sorted(left)]

    async def _restore_contents(self, rows: Sequence[SelectedEntry]) -> None:
        if not rows:
            return
        prepared = await self._prepare(rows)

        packed = [row for row in prepared.files if _is_packed(row)]
        spans, singles = spans_of(packed, self._section, can_open=self._can_open, span_bytes=self._span_bytes)

        async def page() -> AsyncIterator[Sequence[Job]]:
            yield [row for row in prepared.files if not _is_packed(row)]
            yield [*spans, *singles]

        await self._transfer.run(page())
        self._check_stop()

    async def _finish_folders(self) -> None:
        pages = self._selection.pages((Role.FOLDER,), states=_UNFINISHED_FOLDERS, reverse=True)
        async with aclosing(pages):
            async for page in pages:
                self._check_stop()
                await self._tally.add(await hop(self._gate, self._builder.finish_folders, page))


def _is_left(row: SelectedEntry) -> bool:
    return row.role is Role.FOLDER and row.state is State.SKIPPED


def _is_packed(row: SelectedEntry) -> bool:
    return row.entry.extent is not None and row.entry.extent.in_pack
