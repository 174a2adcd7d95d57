"""Changing the secrets of a repository: which open it afterwards, and what others lose by it: nothing."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.errors import ConfigError, KeyUnlockError, RepositoryMissingError, StoreError
from asyncbackup.format.descriptor import (
    FLOOR,
    MAX_SLOTS,
    Descriptor,
    KeySlot,
    decode_descriptor,
    encode_descriptor,
)
from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.format.keyslots import key_file_slot, new_master_key, open_slot, passphrase_slot
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.key_slots import KeySlots
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.secrets import Secret
from asyncbackup.repository.slot_writer import replace_descriptor
from asyncbackup.store.open import open_store
from tests.pipeline.repository_fixtures import FIRST, PASSPHRASE, repository_at, save, settings_for
from tests.servers.proxy import Exchange, FaultProxy, answering, error_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from asyncbackup.config import SectionSettings, Settings
    from asyncbackup.store.base import Store
    from tests.servers import S3Endpoint


class Bench:
    """An encrypted repository in a folder; ``opens`` tells whether a pass phrase opens it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.destination = folder / "destination"
        self.destination.mkdir()
        self.settings, self.section = settings_for(folder, f"file://{self.destination}", encrypted=True)

    @asynccontextmanager
    async def slots(self, passphrase: str = PASSPHRASE) -> AsyncIterator[KeySlots]:
        self.configure(passphrase)
        async with KeySlots.open(self.settings, self.section, cost=FLOOR) as slots:
            yield slots

    def configure(self, passphrase: str) -> None:
        (self.folder / "passphrase").write_text(passphrase + "\n")

    async def opens(self, passphrase: str) -> bool:
        self.configure(passphrase)
        return await opens(self.settings, self.section)

    def descriptor(self) -> Descriptor:
        return decode_descriptor((self.destination / DESCRIPTOR_KEY).read_bytes())


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    await create_repository(bench.settings, bench.section, cost=FLOOR)
    return bench


async def opens(settings: Settings, section: SectionSettings) -> bool:
    try:
        async with open_repository(settings, section) as repository:
            return repository.key is not None
    except KeyUnlockError:
        return False


def passphrase(text: str) -> Secret:
    return Secret(origin=f"the pass phrase {len(text)}", passphrase=text.encode())


async def test_an_added_secret_opens_what_was_sealed_before(bench: Bench) -> None:
    async with repository_at(bench.settings, bench.section) as repository:
        await save(repository, FIRST, {b"a": b"content"})
        before = repository.key
    objects = {path: path.stat().st_mtime_ns for path in (bench.destination / "home").rglob("*")}
    async with bench.slots() as slots:
        change = await slots.add(passphrase("second"), label="in the safe")
    assert [(slot.label, slot.configured) for slot in change.slots] == [("", True), ("in the safe", False)]
    assert change.added == change.slots[1].id
    bench.configure("second")
    async with open_repository(bench.settings, bench.section) as repository:
        assert before is not None
        assert repository.key is not None
        assert repository.key.reveal() == before.reveal()
    assert await bench.opens(PASSPHRASE)
    assert {path: path.stat().st_mtime_ns for path in (bench.destination / "home").rglob("*")} == objects


async def test_a_key_file_opens_beside_a_pass_phrase(bench: Bench) -> None:
    content = os.urandom(32)
    async with bench.slots() as slots:
        change = await slots.add(Secret(origin="--new-key-file", key_file=content))
    assert [slot.kind for slot in change.slots] == ["passphrase", "key-file"]
    path = bench.folder / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    encryption = msgspec.structs.replace(bench.section.encryption, passphrase_file=None, key_file=path)
    bench.section = msgspec.structs.replace(bench.section, encryption=encryption)
    async with KeySlots.open(bench.settings, bench.section) as slots:
        assert [slot.configured for slot in await slots.list()] == [False, True]


async def test_the_list_says_which_slot_the_configuration_opens(bench: Bench) -> None:
    async with bench.slots() as slots:
        await slots.add(passphrase("second"))
    async with bench.slots("second") as slots:
        assert [slot.configured for slot in await slots.list()] == [False, True]
    async with bench.slots("none of them") as slots:
        assert [slot.configured for slot in await slots.list()] == [False, False]


async def test_rotating_leaves_the_new_secret_alone(bench: Bench) -> None:
    async with bench.slots() as slots:
        await slots.add(passphrase("another's"))
    async with bench.slots() as slots:
        change = await slots.rotate(passphrase("new"))
    assert [slot.configured for slot in change.slots] == [False, True]
    assert not await bench.opens(PASSPHRASE)
    assert await bench.opens("new")
    assert await bench.opens("another's")


async def test_rotating_removes_every_slot_of_the_old_secret(bench: Bench) -> None:
    async with open_repository(bench.settings, bench.section) as repository:
        assert repository.key is not None
        double = passphrase_slot(
            repository.key,
            PASSPHRASE.encode(),
            repository=repository.repository_id,
            created_ns=1,
            cost=FLOOR,
        )
        await replace_descriptor(repository.store, adding(double))
    async with bench.slots() as slots:
        change = await slots.rotate(passphrase("new"))
    assert len(change.removed) == 2
    assert not await bench.opens(PASSPHRASE)


async def test_a_removed_secret_opens_nothing(bench: Bench) -> None:
    async with bench.slots() as slots:
        added = (await slots.add(passphrase("second"))).added
    async with bench.slots() as slots:
        change = await slots.remove(added[:6])
    assert change.removed == (added,)
    assert not await bench.opens("second")
    assert await bench.opens(PASSPHRASE)


async def test_the_configured_slot_is_removed_only_on_demand(bench: Bench) -> None:
    mine = bench.descriptor().slots[0].id
    async with bench.slots() as slots:
        await slots.add(passphrase("second"))
    async with bench.slots() as slots:
        with pytest.raises(ConfigError, match=rf"{mine} is the one that section 'home' uses; 'key rotate'"):
            await slots.remove(mine)
        assert len(bench.descriptor().slots) == 2
        change = await slots.remove(mine, even_configured=True)
    assert [slot.configured for slot in change.slots] == [False]
    assert not await bench.opens(PASSPHRASE)
    assert await bench.opens("second")


async def test_the_last_slot_is_never_removed(bench: Bench) -> None:
    mine = bench.descriptor().slots[0].id
    async with bench.slots() as slots:
        with pytest.raises(ConfigError, match="the last key slot is never removed"):
            await slots.remove(mine, even_configured=True)
    assert await bench.opens(PASSPHRASE)


async def test_a_secret_that_opens_a_slot_already_is_refused(bench: Bench) -> None:
    before = bench.descriptor()
    async with bench.slots() as slots:
        for change in (slots.add, slots.rotate):
            with pytest.raises(ConfigError, match=rf"opens key slot {before.slots[0].id} already"):
                await change(passphrase(PASSPHRASE))
    assert bench.descriptor() == before


async def test_a_wrong_secret_changes_nothing(bench: Bench) -> None:
    before = bench.descriptor()
    async with bench.slots("wrong") as slots:
        for attempt in (
            slots.add(passphrase("second")),
            slots.rotate(passphrase("second")),
            slots.remove(before.slots[0].id, even_configured=True),
        ):
            with pytest.raises(KeyUnlockError, match="passphrase_file: the given pass phrase opens none"):
                await attempt
    assert bench.descriptor() == before


async def test_names_that_fit_no_slot_or_several(bench: Bench) -> None:
    async with open_repository(bench.settings, bench.section) as repository:
        first = bench.descriptor().slots[0].id
        prefix = "0" if first[0] != "0" else "1"
        twins = tuple(
            msgspec.structs.replace(bench.descriptor().slots[0], id=f"{prefix}{number:015x}")
            for number in range(2)
        )
        await replace_descriptor(repository.store, adding(*twins))
    async with bench.slots() as slots:
        with pytest.raises(ConfigError, match=f"'{prefix}' fits 2 key slots: .*give more of the id"):
            await slots.remove(prefix)
        with pytest.raises(ConfigError, match=f"there is no key slot 'xyz'; there are {first}"):
            await slots.remove("xyz")
        with pytest.raises(ConfigError, match="there is no key slot ''"):
            await slots.remove("")


async def test_there_are_32_slots_at_most(bench: Bench) -> None:
    async with open_repository(bench.settings, bench.section) as repository:
        assert repository.key is not None
        for number in range(MAX_SLOTS - 1):
            slot = key_file_slot(
                repository.key, bytes([number]) * 32, repository=repository.repository_id, created_ns=1
            )
            await replace_descriptor(repository.store, adding(slot))
    async with bench.slots() as slots:
        for change in (slots.add, slots.rotate):
            with pytest.raises(ConfigError, match="there are 32 key slots, and no more can be"):
                await change(passphrase("one more"))
    assert await bench.opens(PASSPHRASE)


@pytest.mark.parametrize("label", ["x" * 101, "a\nb", "\x1b[31m"])
async def test_a_label_that_no_descriptor_may_hold(bench: Bench, label: str) -> None:
    async with bench.slots() as slots:
        with pytest.raises(ConfigError, match="at most 100 printable characters"):
            await slots.add(passphrase("second"), label=label)


async def test_a_section_that_names_no_secret(bench: Bench) -> None:
    settings, section = settings_for(bench.folder, f"file://{bench.destination}")
    async with KeySlots.open(settings, section) as slots:
        assert [slot.configured for slot in await slots.list()] == [False]
        assert slots.origin == ""
        with pytest.raises(ConfigError, match="'home' names no secret that opens the repository"):
            await slots.add(passphrase("second"))


async def test_a_repository_without_slots_names_how_to_get_the_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(RepositoryMissingError):
        async with bench.slots() as slots:
            await slots.list()
    await create_repository(*settings_for(tmp_path, f"file://{bench.destination}"))
    async with bench.slots() as slots:
        assert await slots.list() == ()
        with pytest.raises(KeyUnlockError, match="'asyncbackup key add home', without a new secret"):
            await slots.add(passphrase("second"))


@pytest.mark.parametrize(
    ("operation", "skip"),
    [("GetObject", 1), ("PutObject", 0)],
    ids=["before it is read again", "after it was written"],
)
async def test_a_slot_that_somebody_else_adds_meanwhile_is_kept(
    tmp_path: Path, rclone_s3: S3Endpoint, operation: str, skip: int
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        settings, section = settings_for(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(), encrypted=True
        )
        await create_repository(settings, section, cost=FLOOR)
        through = msgspec.structs.replace(
            settings, s3=msgspec.structs.replace(settings.s3, endpoint_url=proxy.url)
        )
        async with open_repository(settings, section) as repository:
            assert repository.key is not None
            others = key_file_slot(
                repository.key, bytes(32), repository=repository.repository_id, created_ns=1
            )
            outdated = repository.descriptor

            async def meanwhile(exchange: Exchange) -> None:
                response = await exchange.forward() if operation == "PutObject" else None
                await write(repository.store, adding(others)(outdated))
                await exchange.pass_on(response or await exchange.forward())

            proxy.plan(operation, meanwhile, path=DESCRIPTOR_KEY, skip=skip)
            async with KeySlots.open(through, section, cost=FLOOR) as slots:
                change = await slots.add(passphrase("second"))
        assert len(change.slots) == 3
        assert {slot.id for slot in change.slots} >= {others.id, change.added}


async def test_a_change_that_others_always_overwrite_is_an_error(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        settings, section = settings_for(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(), encrypted=True
        )
        await create_repository(settings, section, cost=FLOOR)
        async with open_repository(settings, section) as repository:

            async def overwritten(exchange: Exchange) -> None:
                response = await exchange.forward()
                await write(repository.store, repository.descriptor)
                await exchange.pass_on(response)

            proxy.plan("PutObject", overwritten, path=DESCRIPTOR_KEY, times=0)
            through = msgspec.structs.replace(settings.s3, endpoint_url=proxy.url)
            async with open_store(section.destination, s3=through, concurrency=1) as store:
                slot = msgspec.structs.replace(repository.descriptor.slots[0], id="0" * 16)
                with pytest.raises(StoreError, match="others change the key slots at the same time"):
                    await replace_descriptor(store, adding(slot))


@pytest.mark.parametrize("refused", [0, 1])
async def test_a_rotation_that_fails_between_its_writes_leaves_a_repository_that_opens(
    tmp_path: Path, rclone_s3: S3Endpoint, refused: int
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        s3 = msgspec.structs.replace(rclone_s3.settings(), endpoint_url=proxy.url)
        settings, section = settings_for(tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=s3, encrypted=True)
        await create_repository(settings, section, cost=FLOOR)
        denied = answering(403, error_body("AccessDenied"))
        proxy.plan("PutObject", denied, path=DESCRIPTOR_KEY, skip=refused, times=0)
        async with KeySlots.open(settings, section, cost=FLOOR) as slots:
            with pytest.raises(StoreError):
                await slots.rotate(passphrase("new"))
        proxy.heal()
        assert await opens(settings, section), "the old one is there until the new one was tried"
        (tmp_path / "passphrase").write_text("new")
        assert await opens(settings, section) is (refused == 1)


async def test_a_new_slot_that_does_not_open_is_noticed_before_the_old_one_goes(
    tmp_path: Path, rclone_s3: S3Endpoint
) -> None:
    async with FaultProxy(rclone_s3.url) as proxy:
        settings, section = settings_for(
            tmp_path, f"s3://{rclone_s3.fresh_bucket()}", s3=rclone_s3.settings(), encrypted=True
        )
        await create_repository(settings, section, cost=FLOOR)
        async with open_repository(settings, section) as repository:

            async def spoilt(exchange: Exchange) -> None:
                response = await exchange.forward()
                found = decode_descriptor(await repository.store.get(DESCRIPTOR_KEY, limit=65536))
                *kept, new = found.slots
                new = msgspec.structs.replace(new, wrapped=bytes(48))
                await write(repository.store, msgspec.structs.replace(found, slots=(*kept, new)))
                await exchange.pass_on(response)

            proxy.plan("PutObject", spoilt, path=DESCRIPTOR_KEY)
            through = msgspec.structs.replace(
                settings, s3=msgspec.structs.replace(settings.s3, endpoint_url=proxy.url)
            )
            async with KeySlots.open(through, section, cost=FLOOR) as slots:
                with pytest.raises(KeyUnlockError, match=r"was written, but does not open.*key remove home"):
                    await slots.rotate(passphrase("new"))
        assert await opens(settings, section)


def adding(*slots: KeySlot) -> Callable[[Descriptor], Descriptor]:
    def add(descriptor: Descriptor) -> Descriptor:
        new = [slot for slot in slots if slot.id not in {found.id for found in descriptor.slots}]
        return msgspec.structs.replace(descriptor, slots=(*descriptor.slots, *new))

    return add


async def write(store: Store, descriptor: Descriptor) -> None:
    data = encode_descriptor(descriptor)
    await store.put(DESCRIPTOR_KEY, data, sha256=sha256(data).digest())


def test_a_slot_gives_no_key_to_the_other_kind_of_secret() -> None:
    key = new_master_key()
    slot = key_file_slot(key, bytes(32), repository="0" * 32, created_ns=1)
    assert open_slot("0" * 32, slot, passphrase=bytes(32)) is None
    opened = open_slot("0" * 32, slot, key_file=bytes(32))
    assert opened is not None
    assert opened.reveal() == key.reveal()
