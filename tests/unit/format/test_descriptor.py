from __future__ import annotations

import json
from typing import Any

import pytest

from asyncbackup.errors import FormatError
from asyncbackup.format.descriptor import (
    CEILING,
    FLOOR,
    Descriptor,
    decode_descriptor,
    encode_descriptor,
    new_repository_id,
)
from tests.unit.format.vectors import load


def descriptor() -> dict[str, Any]:
    found: dict[str, Any] = load("keyslots")["descriptor"]
    return found


def decoded(found: dict[str, Any]) -> Descriptor:
    return decode_descriptor(json.dumps(found).encode())


def test_unencrypted_descriptor() -> None:
    made = Descriptor(repository=new_repository_id(), created_ns=5)
    assert not made.encrypted
    data = encode_descriptor(made)
    assert data.endswith(b"}\n")
    assert decode_descriptor(data) == made


def test_vector_survives_a_round_trip() -> None:
    found = decoded(descriptor())
    assert found.encrypted
    assert json.loads(encode_descriptor(found)) == descriptor()


def test_newer_format_is_named_before_anything_else_is_looked_at() -> None:
    with pytest.raises(FormatError, match="has format 2, this asyncbackup reads format 1"):
        decoded({"type": "repository", "format": 2, "slots": "all different"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"format": 1}',
        b'{"type": "manifest", "format": 1}',
        b'{"type": "repository", "format": "1"}',
        b'{"type": "repository", "format": 1}',
        b'{"type": "repository", "format": 1, "x": ' + b"[" * 30000 + b"]" * 30000 + b"}",
        b" " * 70000,
    ],
)
def test_what_is_no_descriptor_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_descriptor(data)


@pytest.mark.parametrize(
    "repository", ["", "8F14E45FCEEA167A5A36DEDD4BEA2543", "../../../../../../../../../etc/pass", "0" * 33]
)
def test_bad_repository_ids_are_refused(repository: str) -> None:
    with pytest.raises(FormatError, match="repository id"):
        decoded(descriptor() | {"repository": repository})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", FLOOR.iterations - 1),
        ("iterations", CEILING.iterations + 1),
        ("memory_kib", FLOOR.memory_kib - 1),
        ("memory_kib", CEILING.memory_kib + 1),
        ("lanes", 0),
        ("lanes", CEILING.lanes + 1),
        ("lanes", -1),
    ],
)
def test_key_derivation_out_of_bounds_is_refused(name: str, value: int) -> None:
    found = descriptor()
    found["slots"][0]["kdf"][name] = value
    with pytest.raises(FormatError, match=name):
        decoded(found)


@pytest.mark.parametrize("bounds", [FLOOR, CEILING])
def test_the_bounds_themselves_are_allowed(bounds: Any) -> None:
    found = descriptor()
    for name in ("iterations", "memory_kib", "lanes"):
        found["slots"][0]["kdf"][name] = getattr(bounds, name)
    decoded(found)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "short"},
        {"kind": "key-file"},
        {"kind": "hardware"},
        {"nonce": "AAAA"},
        {"wrapped": "AAAA"},
        {"wrapped": "not base64!"},
        {"label": "x" * 101},
        {"label": "\x1b[2J"},
        {"kdf": {"name": "scrypt", "salt": ""}},
        {"kdf": {"name": "hkdf-sha512", "salt": "AAAAAAAAAAAAAAAAAAAAAA=="}},
        {"kdf": {"name": "argon2id", "salt": "AAAA", "iterations": 2, "memory_kib": 19456, "lanes": 1}},
    ],
)
def test_bad_slots_are_refused(change: dict[str, Any]) -> None:
    found = descriptor()
    found["slots"][0] |= change
    with pytest.raises(FormatError):
        decoded(found)


def test_repeated_and_too_many_slots_are_refused() -> None:
    found = descriptor()
    found["slots"] = [found["slots"][0]] * 2
    with pytest.raises(FormatError, match="share an id"):
        decoded(found)
    slot = found["slots"][0]
    found["slots"] = [slot | {"id": f"{number:016x}"} for number in range(33)]
    with pytest.raises(FormatError, match="33 key slots"):
        decoded(found)


def test_writer_refuses_what_no_reader_takes() -> None:
    with pytest.raises(FormatError):
        encode_descriptor(Descriptor(repository="mine", created_ns=0))
