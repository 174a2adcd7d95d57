"""Any sequence of changes of key slots, killed anywhere: the repository opens with what the model says."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbackup.config import SectionSettings
from asyncbackup.errors import ConfigError, KeyUnlockError
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.format.descriptor import FLOOR, Descriptor, decode_descriptor, encode_descriptor
from asyncbackup.format.keyslots import key_file_slot, new_master_key, open_slots
from asyncbackup.repository.key_slots import KeySlots
from asyncbackup.repository.secrets import Secret
from asyncbackup.store.base import PutResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncbackup.store.base import Body, Store

SECRETS = [bytes([number]) * 32 for number in range(5)]
REPOSITORY = "8f14e45fceea167a5a36dedd4bea2543"
SECTION = SectionSettings(name="home", path=Path("/src"), destination="file:///destination")


class Killed(BaseException):
    """The process is gone."""


class Step(msgspec.Struct, frozen=True):
    """One command: ``using`` is the configured secret, ``new`` the new one or that of the slot to remove.
    It is killed at its write number ``kill_at`` (none: 0), which has ``happened`` or not."""

    action: str
    using: int
    new: int
    kill_at: int
    happened: bool


class OneObject:
    """A store with nothing but the descriptor in it, which ends the process at a planned write."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.kill_at = 0
        self.happened = False

    async def get(self, key: str, *, limit: int) -> bytes:
        return self.data

    async def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: bytes,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> PutResult:
        self.kill_at -= 1
        if self.kill_at != 0 or self.happened:
            assert isinstance(body, bytes)
            self.data = body
        if self.kill_at == 0:
            raise Killed
        return PutResult()


def secret(number: int) -> Secret:
    return Secret(origin=f"secret {number}", key_file=SECRETS[number])


def opening(data: bytes, key: bytes) -> set[int]:
    """The secrets that open the repository; each has to give the one master key."""
    found = set()
    for number, content in enumerate(SECRETS):
        with contextlib.suppress(KeyUnlockError):
            opened, _ = open_slots(decode_descriptor(data), key_file=content)
            assert opened.reveal() == key
            found.add(number)
    return found


def expected(before: set[int], step: Step) -> set[int]:
    """What opens the repository after the step, if it is not refused."""
    writes = {"add": 1, "remove": 1, "rotate": 2}[step.action]
    done = writes if not 1 <= step.kill_at <= writes else step.kill_at - (not step.happened)
    after = set(before)
    if step.action == "remove":
        return after - {step.new} if done else after
    if done >= 1:
        after.add(step.new)
    if done >= 2:
        after.discard(step.using)
    return after


def refused(before: set[int], step: Step) -> type[Exception] | None:
    if step.using not in before:
        return KeyUnlockError
    if step.action == "remove":
        return ConfigError if step.new not in before or before == {step.new} else None
    return ConfigError if step.new in before else None


steps = st.builds(
    Step,
    st.sampled_from(["add", "remove", "rotate"]),
    st.integers(0, len(SECRETS) - 1),
    st.integers(0, len(SECRETS) - 1),
    st.integers(0, 3),
    st.booleans(),
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.lists(steps, max_size=15))
def test_what_opens_the_repository_is_what_the_model_says(sequence: list[Step]) -> None:
    asyncio.run(_follow(sequence))


async def _follow(sequence: list[Step]) -> None:
    key = new_master_key()
    slot = key_file_slot(key, SECRETS[0], repository=REPOSITORY, created_ns=1)
    store = OneObject(encode_descriptor(Descriptor(repository=REPOSITORY, created_ns=1, slots=(slot,))))
    threads = ThreadGate("test", 1)
    model = {0}
    try:
        for step in sequence:
            store.kill_at, store.happened = step.kill_at, step.happened
            slots = KeySlots(cast("Store", store), SECTION, secret(step.using), threads, FLOOR)
            error = refused(model, step)
            before = store.data
            if error is not None:
                with pytest.raises(error):
                    await _do(slots, step, before)
                assert store.data == before, "what is refused changes nothing"
            else:
                with contextlib.suppress(Killed):
                    await _do(slots, step, before)
                model = expected(model, step)
            assert opening(store.data, key.reveal()) == model
            assert model
    finally:
        threads.close()


async def _do(slots: KeySlots, step: Step, data: bytes) -> None:
    if step.action == "add":
        await slots.add(secret(step.new))
    elif step.action == "rotate":
        await slots.rotate(secret(step.new))
    else:
        named = "none"
        with contextlib.suppress(KeyUnlockError):
            _, opened = open_slots(decode_descriptor(data), key_file=SECRETS[step.new])
            (named,) = opened
        await slots.remove(named, even_configured=True)
