"""One verification: from the manifests of some snapshots to a summary of what is damaged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.catalog.expected import ExpectedObject, ExpectedObjects, State, Verdict
from asyncbackup.destination import is_remote
from asyncbackup.errors import Interrupted
from asyncbackup.flow.stop import StopRequest
from asyncbackup.format.keys import data_prefix
from asyncbackup.format.manifest import Deleted
from asyncbackup.repository.parallel import in_parallel
from asyncbackup.units import plural
from asyncbackup.verify.chains import OTHER_SUMS, Chains, DamagedManifestError
from asyncbackup.verify.checks import Compared, Look, echoes_checksums, look_at
from asyncbackup.verify.content import READER_BYTES, read_object
from asyncbackup.verify.listing import compare_with_listing
from asyncbackup.verify.packs import read_pack
from asyncbackup.verify.summary import (
    DAMAGES_IN_SUMMARY,
    PATHS_IN_DAMAGE,
    Damage,
    VerifyCounters,
    VerifySummary,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from asyncbackup.model import Entry, RunId
    from asyncbackup.repository.open import Repository

PROBE_OBJECTS = 16
"""If none of the first so many objects comes with a checksum, the endpoint keeps none."""


async def verify(
    repository: Repository,
    expected: ExpectedObjects,
    *,
    snapshots: Sequence[RunId],
    revisions: Mapping[RunId, int],
    read_percent: float = 0.0,
    all_snapshots: bool = False,
    concurrency: int = 16,
    memory_limit_bytes: int = 64 * 1024 * 1024,
    counters: VerifyCounters | None = None,
    stop: StopRequest | None = None,
    on_damage: Callable[[Damage], None] | None = None,
    check_undisturbed: Callable[[], Awaitable[None]],
) -> VerifySummary:
    """Check that every object of ``snapshots`` is at the destination, whole and unchanged.

    Existence and size come from one listing, checksums from a HEAD an object.
    Where the endpoint keeps none, objects are read, and a note says so. Above
    that, ``read_percent`` of all objects, chosen at random, are read and
    compared with their SHA-256 (after opening and expanding them). Packs are
    objects; one with which anything is wrong is read in any case, to tell
    which of its contents are lost.

    ``revisions`` are the newest ones of all manifests. ``all_snapshots`` says
    that the section has no others, so that objects that none of them refers to
    can be counted.

    ``check_undisturbed`` is awaited before anything is called damaged, and may
    raise if somebody changed the section meanwhile.

    ``on_damage`` is told of every damaged object, and ``expected``, which has to
    be empty, holds them afterwards. Memory stays the same whatever the number of
    objects. Raises ``StoreError`` for what concerns the store as a whole,
    ``KeyUnlockError``, ``CatalogError``, and ``Interrupted`` after a requested
    stop.
    """
    return await _Verification(
        repository,
        expected,
        Chains(repository, revisions),
        read_percent=read_percent,
        all_snapshots=all_snapshots,
        concurrency=concurrency,
        readers=max(1, min(concurrency, memory_limit_bytes // READER_BYTES)),
        counters=counters or VerifyCounters(),
        stop=stop or StopRequest(),
        on_damage=on_damage or (lambda damage: None),
        check_undisturbed=check_undisturbed,
    ).run(snapshots)


class _Verification:
    """The state of one verification. The public way in is :func:`verify`."""

    def __init__(
        self,
        repository: Repository,
        expected: ExpectedObjects,
        chains: Chains,
        *,
        read_percent: float,
        all_snapshots: bool,
        concurrency: int,
        readers: int,
        counters: VerifyCounters,
        stop: StopRequest,
        on_damage: Callable[[Damage], None],
        check_undisturbed: Callable[[], Awaitable[None]],
    ) -> None:
        self._repository = repository
        self._expected = expected
        self._chains = chains
        self._read_percent = read_percent
        self._all_snapshots = all_snapshots
        self._concurrency = concurrency
        self._readers = readers
        self._counters = counters
        self._stop = stop
        self._on_damage = on_damage
        self._check_undisturbed = check_undisturbed
        self._damaged: list[Damage] = []
        self._manifests: dict[str, tuple[str, list[RunId]]] = {}
        """Damaged manifests: what is wrong with each, and the snapshots that rest on it."""
        self._sound: list[RunId] = []
        self._broken: list[RunId] = []
        self._tally: Counter[str] = Counter()
        """How many objects each note speaks of."""
        self._notes: list[str] = []
        self._echoes: bool | None = None
        """Whether the endpoint's checksums are echoes; ``None`` until one could tell."""
        self._asking = asyncio.Lock()
        self._began = time.monotonic()

    async def run(self, snapshots: Sequence[RunId]) -> VerifySummary:
        self._counters.snapshots_total = len(snapshots)
        for run in snapshots:
            await self._expect(run)
        await self._expected.describe_packs()
        objects, size = await self._expected.totals()
        self._counters.objects_total = objects
        if objects or self._all_snapshots:
            await self._compare_with_listing()
        if self._read_percent > 0:
            await self._expected.choose_to_read(self._read_percent)
        await self._compare_checksums()
        await self._read_objects()
        if self._manifests or await self._expected.count(State.DAMAGED):
            await self._check_undisturbed()
        for key, (reason, runs) in self._manifests.items():
            self._tell(Damage(key=key, reason=reason, snapshots=tuple(runs)))
        if self._read_percent >= 100:
            await self._compare_sums()
        await self._report()
        self._note_tally()
        counters = self._counters
        return VerifySummary(
            section=self._repository.section,
            snapshots=len(snapshots),
            objects=objects,
            bytes=size,
            objects_read=counters.objects_read,
            bytes_read=counters.bytes_read,
            damaged_objects=counters.damaged_objects,
            damaged=tuple(self._damaged),
            broken_snapshots=tuple(self._broken),
            requests=dict(self._repository.store.requests),
            elapsed_seconds=round(time.monotonic() - self._began, 3),
            notes=tuple(self._notes),
        )

    async def _expect(self, run: RunId) -> None:
        """Note every object that a snapshot adds to those of the ones before; one whose manifests cannot
        be read to their end counts for nothing."""
        self._counters.current_snapshot = run
        try:
            async with aclosing(self._chains.entries(run, on_packs=self._expected.stage_packs)) as batches:
                async for batch in batches:
                    self._go_on()
                    await self._expected.stage(batch)
        except DamagedManifestError as damage:
            await self._expected.discard()
            self._note_manifest(damage.key, damage.reason, run)
            self._broken.append(run)
        else:
            if undescribed := await self._expected.accept():
                self._note_manifest(
                    self._chains.key(run), f"it does not describe the pack {undescribed} that it needs", run
                )
            if not self._chains.adds_up(run):
                self._note_manifest(self._chains.key(run), OTHER_SUMS, run)
                self._broken.append(run)
            self._sound.append(run)
        self._counters.snapshots_read += 1
        self._counters.current_snapshot = None

    def _note_manifest(self, key: str, reason: str, run: RunId) -> None:
        self._manifests.setdefault(key, (reason, []))[1].append(run)

    async def _compare_with_listing(self) -> None:
        listing = await compare_with_listing(
            self._repository, self._expected, concurrency=self._concurrency, go_on=self._go_on
        )
        if listing.folders_not_kept:
            self._notes.append(
                f"the endpoint keeps no objects for folders; {plural(listing.folders_not_kept, 'folder')} "
                "in the manifests alone"
            )
        every_manifest = len(self._sound) == self._counters.snapshots_total
        if self._all_snapshots and every_manifest and listing.unexpected:
            self._notes.append(
                f"{plural(listing.unexpected, 'object')} in no snapshot: of forgotten ones, uploaded by "
                "interrupted runs, or stand-ins of hard links"
            )
        damaged = await self._expected.count(State.DAMAGED)
        self._counters.objects_checked = damaged + await self._expected.count(State.SOUND)

    async def _compare_checksums(self) -> None:
        """Compare what is not chosen for reading by HEAD, where that tells anything."""
        kept = is_remote(self._repository.store.url)
        probed = 0
        async for objects in self._expected.in_state(State.EXPECTED):
            self._go_on()
            looks: list[Look | None] = []
            while len(looks) < len(objects) and kept:
                step = PROBE_OBJECTS - probed if probed < PROBE_OBJECTS else len(objects)
                some = objects[len(looks) : len(looks) + step]
                looks += await in_parallel(some, self._look, limit=self._concurrency)
                probed += len(some)
                kept = probed < PROBE_OBJECTS or self._tally["kept"] > 0
            looks += [None] * (len(objects) - len(looks))
            verdicts = [self._judge(each, look) for each, look in zip(objects, looks, strict=True)]
            await self._settle(verdicts)
        if self._tally["not kept"]:
            self._note_missing_checksums()

    async def _look(self, expected: ExpectedObject) -> Look:
        look = await look_at(self._repository, expected)
        if look.compared not in (Compared.EQUAL, Compared.DIFFERS):
            return look
        # Of a multipart object no writer sends the checksum along: it cannot be an echo.
        if not expected.part_size and await self._is_echo(expected):
            return msgspec.structs.replace(look, compared=Compared.NOTHING_KEPT)
        self._tally["kept"] += 1
        return look

    async def _is_echo(self, expected: ExpectedObject) -> bool:
        async with self._asking:
            if self._echoes is None and expected.length > 1:
                self._echoes = await echoes_checksums(self._repository, expected)
            return self._echoes is not False

    def _judge(self, expected: ExpectedObject, look: Look | None) -> Verdict:
        if look is not None and look.damage:
            return Verdict(key=expected.key, state=State.DAMAGED, reason=look.damage)
        if look is not None and look.compared is Compared.EQUAL:
            return Verdict(key=expected.key, state=State.SOUND)
        if look is not None and look.compared is Compared.DIFFERS:
            # Reading tells damage from an endpoint that counts differently.
            return Verdict(key=expected.key, state=State.TO_READ)
        if look is None or look.compared is Compared.NOTHING_KEPT:
            self._tally["not kept"] += 1
        if self._read_percent > 0:
            self._tally["size only"] += 1
            return Verdict(key=expected.key, state=State.SOUND)
        return Verdict(key=expected.key, state=State.TO_READ)

    async def _read_objects(self) -> None:
        async for objects in self._expected.in_state(State.TO_READ):
            self._go_on()
            await self._settle(await in_parallel(objects, self._read, limit=self._readers))

    async def _read(self, expected: ExpectedObject) -> Verdict:
        if self._stop.requested:
            return Verdict(key=expected.key, state=State.TO_READ)
        if expected.pack:
            reading = await read_pack(self._repository, expected, self._expected, self._counters)
        else:
            reading = await read_object(self._repository, expected, self._counters)
        if reading.damage:
            return Verdict(key=expected.key, state=State.DAMAGED, reason=reading.damage, whole=reading.whole)
        self._tally["archived"] += reading.archived
        self._tally["not opened"] += not reading.opened
        self._tally["not compared"] += not reading.compared
        return Verdict(key=expected.key, state=State.SOUND)

    async def _settle(self, verdicts: list[Verdict]) -> None:
        self._go_on()
        await self._expected.settle(verdicts)
        self._counters.objects_checked += sum(verdict.state != State.TO_READ for verdict in verdicts)

    async def _compare_sums(self) -> None:
        """Compare what differences add up to, merged with what they rest on, with what they say."""
        chains = self._sound_chains()
        sums = self._expected.sums
        differences = {link for chain in chains.values() for link in chain[:-1]}
        for run in sorted(differences):
            async with aclosing(self._lines(run)) as batches:
                async for lines in batches:
                    await sums.name([path for path, _ in lines])
        if not differences:
            return
        for run in _links_of(chains):
            async with aclosing(self._lines(run)) as batches:
                async for lines in batches:
                    await sums.note(run, lines)
        for run, chain in chains.items():
            self._go_on()
            if run in self._broken:
                continue  # said already
            if await sums.of(chain, self._chains.sums(chain[-1])) != self._chains.sums(run):
                self._tell(Damage(key=self._chains.key(run), reason=OTHER_SUMS, snapshots=(run,)))
                self._broken.append(run)

    def _sound_chains(self) -> dict[RunId, list[RunId]]:
        """The manifests of every snapshot that can be read."""
        return {run: self._chains.chain(run) for run in self._sound}

    async def _lines(self, run: RunId) -> AsyncGenerator[list[tuple[bytes, Entry | None]], None]:
        """What one manifest says of paths, ``None`` that they are deleted."""
        async with aclosing(self._chains.lines(run)) as batches:
            async for batch in batches:
                self._go_on()
                yield [(item.path, None if isinstance(item, Deleted) else item) for item in batch]

    async def _report(self) -> None:
        """Name damaged objects with the paths and snapshots they carry: a second look at the manifests."""
        if not await self._expected.count(State.DAMAGED):
            return
        damage = self._expected.damage
        chains = self._sound_chains()
        for run in _links_of(chains):
            async with aclosing(self._lines(run)) as batches:
                async for lines in batches:
                    await damage.note_lines(run, lines)
        for run, chain in chains.items():
            self._go_on()
            await damage.note_snapshot(run, chain)
        prefix = data_prefix(self._repository.section)
        async for page in damage.objects(paths_each=PATHS_IN_DAMAGE):
            for found in page:
                self._tell(
                    Damage(
                        key=prefix + found.key,
                        reason=found.reason,
                        files=found.files,
                        paths=found.paths,
                        snapshots=found.snapshots,
                    )
                )

    def _tell(self, damage: Damage) -> None:
        self._counters.damaged_objects += 1
        if len(self._damaged) < DAMAGES_IN_SUMMARY:
            self._damaged.append(damage)
        self._on_damage(damage)

    def _note_missing_checksums(self) -> None:
        url = self._repository.store.url
        read = self._read_percent <= 0
        if not is_remote(url):
            what = "a folder keeps no checksums that are checked against the bytes"
        elif self._echoes:
            what = "the endpoint repeats the checksums it is sent and does not check them"
        elif self._tally["kept"]:
            what = f"{plural(self._tally['not kept'], 'object')} without a checksum at the endpoint"
        else:
            what = "the endpoint keeps no checksums"
        done = "those objects were read instead" if read else "where not read, they were compared by size"
        self._notes.append(f"{what}; {done}")

    def _note_tally(self) -> None:
        for what, sentence in (
            ("archived", "archived, and not to be read without restoring it first: {}"),
            ("not opened", "encrypted, and compared as stored since the section has no key: {}"),
            ("not compared", "without digest or checksum in any manifest, and compared by size: {}"),
        ):
            if count := self._tally[what]:
                self._notes.append(sentence.format(plural(count, "object")))

    def _go_on(self) -> None:
        if self._stop.requested:
            raise Interrupted("stopped as asked; nothing was changed")


def _links_of(chains: Mapping[RunId, list[RunId]]) -> list[RunId]:
    """Every manifest of some chains, once, in the order of the runs."""
    return sorted({link for chain in chains.values() for link in chain})
