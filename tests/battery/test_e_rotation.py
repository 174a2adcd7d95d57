"""(e) Changes of pass phrases killed at every request: one of them always opens, and everything restores."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from asyncbackup.errors import KeyUnlockError
from asyncbackup.format.descriptor import FLOOR, decode_descriptor
from asyncbackup.format.keys import DESCRIPTOR_KEY
from asyncbackup.format.keyslots import unlock
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.key_slots import KeySlots
from asyncbackup.repository.secrets import Secret
from tests.battery.crash_bench import MOMENTS, DoomedProcess, start
from tests.battery.score import Score, ScoredProxy
from tests.battery.selection import selected
from tests.workbench import PASSPHRASE, Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from asyncbackup.format.descriptor import Descriptor
    from tests.servers import S3Endpoint

NEW, SPARE = "a new pass phrase", "a spare pass phrase"
REQUESTS = {"add": 4, "remove": 4, "rotate": 7}
"""Of a clean command; a test below counts them."""
CASES = [
    (command, moment, request)
    for command, requests in REQUESTS.items()
    for request in range(requests)
    for moment in MOMENTS
]


class Rotation:
    """An encrypted section with one snapshot, opened by ``PASSPHRASE`` and ``SPARE``."""

    def __init__(self, base: Path, endpoint: S3Endpoint) -> None:
        self.bench = Workbench(
            base, f"s3://{endpoint.fresh_bucket()}/prefix", s3=endpoint.settings(), encrypted=True
        )
        self.endpoint = endpoint
        self.spare = ""
        self.looked: dict[bytes, tuple[object, ...]] = {}
        new = base / "new"
        new.touch(mode=0o600)
        new.write_text(NEW + "\n")

    @classmethod
    async def make(cls, base: Path, endpoint: S3Endpoint) -> Rotation:
        made = cls(base, endpoint)
        bench = made.bench
        await create_repository(bench.settings, bench.section, cost=FLOOR)
        async with KeySlots.open(bench.settings, bench.section, cost=FLOOR) as slots:
            made.spare = (await slots.add(Secret(origin="spare", passphrase=SPARE.encode()))).added
        await bench.initialise()
        bench.write("f", b"content")
        bench.write("large", b"l" * 100_000)
        assert (await bench.run()).failures == ()
        made.looked = picture(bench.tree)
        return made

    def arguments(self, command: str) -> list[str]:
        """The command line of a change."""
        if command == "remove":
            return ["key", "remove", "home", self.spare]
        return ["key", command, "home", "--new-passphrase-file", str(self.bench.base / "new")]

    async def opening(self) -> set[str]:
        """The pass phrases that open the repository, all to the same key; one of them restores all of it."""
        descriptor = self.descriptor()
        keys: dict[str, bytes] = {}
        for passphrase in (PASSPHRASE, NEW, SPARE):
            with contextlib.suppress(KeyUnlockError):
                keys[passphrase] = unlock(descriptor, passphrase=passphrase.encode()).reveal()
        assert len(set(keys.values())) == 1
        self.configure(next(iter(keys)))
        assert picture(await self.bench.restored()) == self.looked
        return set(keys)

    def configure(self, passphrase: str) -> None:
        """What the section's pass phrase is from now on."""
        secret = self.bench.section.encryption.passphrase_file
        assert secret is not None
        secret.write_text(passphrase + "\n")

    def descriptor(self) -> Descriptor:
        """What lies at the destination; it can always be read."""
        bucket, _, prefix = self.bench.section.destination.removeprefix("s3://").partition("/")
        client = self.endpoint.client()
        try:
            found = client.get_object(Bucket=bucket, Key=f"{prefix}/{DESCRIPTOR_KEY}")
            return decode_descriptor(found["Body"].read())
        finally:
            client.close()


@pytest.mark.parametrize("command", selected(REQUESTS, 1, name="clean rotation"))
async def test_the_requests_of_a_clean_change(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, command: str
) -> None:
    rotation = await Rotation.make(tmp_path, rclone_s3)
    async with ScoredProxy(rclone_s3.url, score) as proxy:
        config = rotation.bench.config_file(endpoint_url=proxy.url)
        process = await start(["-c", str(config), "--quiet", *rotation.arguments(command)])
        assert await process.wait() == 0
        assert proxy.requests.total() == REQUESTS[command]
    after = {
        "add": {PASSPHRASE, SPARE, NEW},
        "remove": {PASSPHRASE},
        "rotate": {SPARE, NEW},
    }
    assert await rotation.opening() == after[command]


@pytest.mark.parametrize(("command", "moment", "request_number"), selected(CASES, 1, name="rotation"))
async def test_killed_at_a_request(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, command: str, moment: str, request_number: int
) -> None:
    rotation = await Rotation.make(tmp_path, rclone_s3)
    killed = DoomedProcess(rotation.bench, score, *rotation.arguments(command))
    await killed.at(rclone_s3, request_number, moment)

    opening = await rotation.opening()
    wanted = {"add": {PASSPHRASE, SPARE}, "remove": {PASSPHRASE}, "rotate": {SPARE}}[command]
    assert wanted <= opening
    assert PASSPHRASE in opening or NEW in opening

    # Whichever opens it now, the change can be made again, and a run goes on.
    bench = rotation.bench
    async with KeySlots.open(bench.settings, bench.section, cost=FLOOR) as slots:
        assert (await slots.rotate(Secret(origin="again", passphrase=b"one more"))).removed
    rotation.configure("one more")
    ran = await bench.run()
    assert (ran.files_unchanged, ran.bytes_uploaded, ran.failures) == (2, 0, ())
    assert len(rotation.descriptor().slots) <= 3
