"""Which objects a section has, and of which paths."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asyncbackup.catalog.found import FoundObject, FoundObjects
from asyncbackup.catalog.found_members import FoundMember
from asyncbackup.errors import FormatError, ObjectMissingError
from asyncbackup.format.hidden import HIDDEN
from asyncbackup.format.keys import FILES, LONG, LONG_PATH_SUFFIX, data_prefix, path_of_content_key
from asyncbackup.format.runid import is_run_id
from asyncbackup.model import PACKS, Kind
from asyncbackup.rebuild.description import Described, describe, labelled
from asyncbackup.repository.parallel import in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncbackup.rebuild.summary import RebuildCounters
    from asyncbackup.repository.open import Repository
    from asyncbackup.store.base import ObjectInfo


# Of what tells no path: a pack, an object with a hidden name.
_KEY = re.compile(r"packs/[0-9]{6,12}\.tar(?:\.zst)?|hidden/[0-9a-f]{64}", re.ASCII)


async def collect_objects(
    repository: Repository,
    found: FoundObjects,
    *,
    concurrency: int,
    counters: RebuildCounters,
    go_on: Callable[[], None],
    give_up: Callable[[str, str, bytes | None], None],
) -> None:
    """Put every object of the section into ``found``, those whose keys tell no path after asking for it,
    and note the packs, which are read later.

    ``give_up`` is told (key, reason, path) of every object that is none of a
    run or whose path cannot be found. ``go_on`` is called between pages.
    """
    prefix = data_prefix(repository.section)
    async for page in repository.store.list(prefix):
        go_on()
        counters.objects_listed += len(page)
        objects: list[FoundObject] = []
        long: list[tuple[str, str, int, int]] = []
        packs: list[tuple[str, str, int]] = []
        for info in page:
            try:
                run, key = _run_and_key(info.key.removeprefix(prefix))
                if key.endswith(LONG_PATH_SUFFIX) and key.startswith(LONG):
                    continue  # read together with the object it stands beside
                if key.startswith(PACKS):
                    packs.append((run, key, info.size))
                elif key.startswith((LONG, HIDDEN)):
                    long.append((run, key, info.size, info.modified_ns))
                else:
                    objects.append(_found(info, run, key))
            except FormatError as error:
                give_up(info.key, str(error), None)
        await found.add(objects)
        if long:
            await found.add_long(long)
        if packs:
            await found.members.add_packs(packs)

    async def ask(long_object: tuple[str, str, int, int]) -> tuple[FoundObject, Described] | None:
        run, key, size, modified_ns = long_object
        counters.objects_asked += 1
        try:
            described = await describe(repository, run, key)
        except (FormatError, ObjectMissingError) as error:
            give_up(f"{prefix}{run}/{key}", str(error), None)
            return None
        found_object = FoundObject(
            path=described.entry.path,
            run=run,
            key=key,
            size=size,
            modified_ns=modified_ns,
            is_folder=described.entry.kind is Kind.FOLDER,
        )
        return found_object, described

    async for page_of_long in found.long_objects():
        go_on()
        answers = [a for a in await in_parallel(page_of_long, ask, limit=concurrency) if a is not None]
        await found.add(found_object for found_object, _ in answers)
        # What is hidden takes a read to ask, and has told all there is.
        await found.members.add(
            [
                FoundMember(entry=labelled(told.entry), run=each.run, source=f"{each.run}/{each.key}")
                for each, told in answers
                if each.key.startswith(HIDDEN) and not told.first
            ]
        )


def _run_and_key(key: str) -> tuple[str, str]:
    """The run and the key relative to its folder. Raises ``FormatError`` for what no run put there."""
    run, _, rest = key.partition("/")
    if not is_run_id(run) or not (rest.startswith(FILES) or _is_long(rest) or _KEY.fullmatch(rest)):
        raise FormatError("it is no object of a run")
    return run, rest


def _is_long(key: str) -> bool:
    if not key.startswith(LONG):
        return False
    return path_of_content_key(key.removesuffix(LONG_PATH_SUFFIX)) is None


def _found(info: ObjectInfo, run: str, key: str) -> FoundObject:
    path = path_of_content_key(key)
    assert path is not None, "long keys are kept apart"
    return FoundObject(
        path=path,
        run=run,
        key=key,
        size=info.size,
        modified_ns=info.modified_ns,
        is_folder=key.endswith("/"),
    )
