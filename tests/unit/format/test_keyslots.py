from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from asyncbackup.errors import FormatError, KeyUnlockError
from asyncbackup.format.descriptor import (
    FLOOR,
    Argon2idParameters,
    Descriptor,
    KdfBounds,
    KeySlot,
    decode_descriptor,
    encode_descriptor,
    new_repository_id,
)
from asyncbackup.format.keyslots import (
    RepositoryKey,
    key_file_slot,
    new_master_key,
    passphrase_slot,
    unlock,
)
from tests.unit.format import independent_reader
from tests.unit.format.vectors import load

VECTOR = load("keyslots")
KEY_FILE = bytes(range(32))


def descriptor_with(*slots: KeySlot, repository: str) -> Descriptor:
    return Descriptor(repository=repository, created_ns=0, slots=slots)


@pytest.fixture(scope="module")
def made() -> tuple[RepositoryKey, Descriptor]:
    key, repository = new_master_key(), new_repository_id()
    slot = passphrase_slot(key, b"open sesame", repository=repository, created_ns=1, cost=FLOOR)
    return key, descriptor_with(slot, repository=repository)


def test_master_keys_are_random() -> None:
    assert new_master_key().reveal() != new_master_key().reveal()
    assert len(new_master_key().reveal()) == 32


def test_key_shows_itself_nowhere() -> None:
    key = RepositoryKey(b"S" * 32)
    for shown in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert "SSS" not in shown
        assert b"S".hex() * 3 not in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not to be pickled"):
            leak(key)
    with pytest.raises(TypeError, match="RepositoryKey"):
        json.dumps(key)
    with pytest.raises(ValueError, match="32 bytes"):
        RepositoryKey(b"short")


@pytest.mark.parametrize("passphrase", VECTOR["passphrases"])
def test_vector_opens_with_each_pass_phrase(passphrase: str) -> None:
    data = json.dumps(VECTOR["descriptor"]).encode()
    secret = bytes.fromhex(passphrase)
    assert unlock(decode_descriptor(data), passphrase=secret).reveal().hex() == VECTOR["master_key"]
    assert independent_reader.unlock(data, passphrase=secret).hex() == VECTOR["master_key"]


def test_vector_opens_with_its_key_file() -> None:
    data = json.dumps(VECTOR["descriptor"]).encode()
    secret = bytes.fromhex(VECTOR["key_file"])
    assert unlock(decode_descriptor(data), key_file=secret).reveal().hex() == VECTOR["master_key"]
    assert independent_reader.unlock(data, key_file=secret).hex() == VECTOR["master_key"]


@pytest.mark.parametrize("passphrase", VECTOR["wrong_passphrases"])
def test_wrong_pass_phrase_fails_at_the_slot(passphrase: str) -> None:
    found = decode_descriptor(json.dumps(VECTOR["descriptor"]).encode())
    with pytest.raises(KeyUnlockError) as caught:
        unlock(found, passphrase=bytes.fromhex(passphrase))
    assert passphrase not in str(caught.value)


def test_new_slots_open_for_the_independent_reader(made: tuple[RepositoryKey, Descriptor]) -> None:
    key, descriptor = made
    repository = descriptor.repository
    slot = key_file_slot(key, KEY_FILE, repository=repository, created_ns=1, label="büro")
    both = descriptor_with(*descriptor.slots, slot, repository=repository)
    data = encode_descriptor(both)
    assert decode_descriptor(data) == both
    assert independent_reader.unlock(data, passphrase=b"open sesame") == key.reveal()
    assert independent_reader.unlock(data, key_file=KEY_FILE) == key.reveal()


def test_equal_secrets_make_different_slots(made: tuple[RepositoryKey, Descriptor]) -> None:
    key, descriptor = made
    (first,) = descriptor.slots
    second = passphrase_slot(key, b"open sesame", repository=descriptor.repository, created_ns=1, cost=FLOOR)
    for field in ("id", "nonce", "wrapped"):
        assert getattr(first, field) != getattr(second, field)
    assert first.kdf.salt != second.kdf.salt


def test_a_removed_slot_no_longer_opens_and_the_others_still_do(
    made: tuple[RepositoryKey, Descriptor],
) -> None:
    key, descriptor = made
    other = key_file_slot(key, KEY_FILE, repository=descriptor.repository, created_ns=1)
    without = descriptor_with(other, repository=descriptor.repository)
    assert unlock(without, key_file=KEY_FILE).reveal() == key.reveal()
    with pytest.raises(KeyUnlockError, match="none of the repository's 1 key slots"):
        unlock(without, passphrase=b"open sesame")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "0" * 16},
        {"kdf.iterations": 3},
        {"kdf.memory_kib": 19457},
        {"kdf.lanes": 2},
        {"kdf.salt": b"\0" * 16},
        {"nonce": b"\0" * 12},
        {"wrapped": b"\0" * 48},
    ],
)
def test_a_slot_is_bound_to_all_its_parameters(
    made: tuple[RepositoryKey, Descriptor], change: dict[str, Any]
) -> None:
    _, descriptor = made
    (slot,) = descriptor.slots
    ((name, value),) = change.items()
    if name.startswith("kdf."):
        value = msgspec.structs.replace(slot.kdf, **{name[4:]: value})
        name = "kdf"
    edited = msgspec.structs.replace(slot, **{name: value})
    with pytest.raises(KeyUnlockError):
        unlock(descriptor_with(edited, repository=descriptor.repository), passphrase=b"open sesame")


def test_a_slot_is_bound_to_its_repository(made: tuple[RepositoryKey, Descriptor]) -> None:
    _, descriptor = made
    moved = descriptor_with(*descriptor.slots, repository=new_repository_id())
    with pytest.raises(KeyUnlockError):
        unlock(moved, passphrase=b"open sesame")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_files_have_32_bytes(made: tuple[RepositoryKey, Descriptor], length: int) -> None:
    key, descriptor = made
    with pytest.raises(ValueError, match="exactly 32 bytes"):
        key_file_slot(key, b"x" * length, repository=descriptor.repository, created_ns=0)
    with pytest.raises(KeyUnlockError, match="exactly 32 bytes"):
        unlock(descriptor, key_file=b"x" * length)


def test_no_secret_and_the_empty_one_are_refused(made: tuple[RepositoryKey, Descriptor]) -> None:
    key, descriptor = made
    with pytest.raises(ValueError, match="empty"):
        passphrase_slot(key, b"", repository=descriptor.repository, created_ns=0, cost=FLOOR)
    with pytest.raises(KeyUnlockError, match="is needed"):
        unlock(descriptor)
    with pytest.raises(KeyUnlockError, match="is needed"):
        unlock(descriptor, passphrase=b"")


def test_two_threads_may_derive_at_once() -> None:
    """With several lanes, as by default: the library alone stands still for ever."""
    key, repository = new_master_key(), new_repository_id()
    slot = passphrase_slot(key, b"open sesame", repository=repository, created_ns=1)
    descriptor = descriptor_with(slot, repository=repository)
    with ThreadPoolExecutor(3) as threads:
        opened = [threads.submit(unlock, descriptor, passphrase=b"open sesame") for _ in range(3)]
    assert [each.result().reveal() for each in opened] == [key.reveal()] * 3


def test_a_weak_cost_makes_no_slot() -> None:
    weak = KdfBounds(iterations=1, memory_kib=FLOOR.memory_kib, lanes=1)
    with pytest.raises(FormatError, match="iterations"):
        passphrase_slot(new_master_key(), b"x", repository=new_repository_id(), created_ns=0, cost=weak)


def test_default_cost_is_what_the_docs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = passphrase_slot(new_master_key(), b"x", repository=new_repository_id(), created_ns=0)
    assert isinstance(slot.kdf, Argon2idParameters)
    assert (slot.kdf.iterations, slot.kdf.memory_kib, slot.kdf.lanes) == (3, 65536, 4)
