"""(e) Whatever is sent again, changes meanwhile or is begun anew: no key and nonce serve two contents."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from asyncbackup.errors import StoreError
from asyncbackup.format.descriptor import FLOOR
from asyncbackup.format.envelope import HEADER_SIZE, MAGIC
from asyncbackup.repository.create import create_repository
from tests.battery.crash_bench import start
from tests.battery.score import Score, ScoredProxy
from tests.battery.selection import selected
from tests.servers.proxy import Action, answering, applied_unanswered, error_body, reset
from tests.workbench import MIB, Workbench, picture

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from tests.servers import S3Endpoint
    from tests.servers.proxy import Exchange, Request, Response

SALT_END = HEADER_SIZE + 24
LARGE = 16 * MIB + 5
"""More than fits into memory: the first part arrives before all of it was read."""
LAYOUTS = ("mirror", "packed", "hidden")


class Recorder:
    """The digests of everything sealed that was sent, by the salt or the upload that it belongs to."""

    def __init__(self) -> None:
        self.by_salt: dict[bytes, set[tuple[str, bytes]]] = defaultdict(set)
        self.by_part: dict[tuple[str, str], set[bytes]] = defaultdict(set)
        self.sendings = 0

    def note(self, request: Request, body: bytes) -> None:
        """Take in what was sent, wherever it got to."""
        query = parse_qs(urlsplit(request.target).query)
        upload, part = (query.get(name, [""])[0] for name in ("uploadId", "partNumber"))
        if request.method != "PUT" or not (upload or body.startswith(MAGIC)):
            return
        self.sendings += 1
        digest = hashlib.sha256(body).digest()
        if upload:
            self.by_part[upload, part].add(digest)
        if body.startswith(MAGIC):
            self.by_salt[body[HEADER_SIZE:SALT_END]].add((upload, digest))

    def noting(self, action: Action) -> Action:
        """``action``, after the whole body came and was noted."""

        async def act(exchange: Exchange) -> None:
            self.note(exchange.request, await exchange.read_body())
            await action(exchange)

        return act

    def check(self) -> None:
        """Each salt, and each part of an upload, went with the same bytes whenever it was sent."""
        assert self.by_salt
        for salt, sent in self.by_salt.items():
            assert len(sent) == 1, f"the salt {salt.hex()} was used for {len(sent)} contents or uploads"
        for (upload, part), digests in self.by_part.items():
            assert len(digests) == 1, f"part {part} of upload {upload} was sent with other bytes"
        first = {upload for upload, part in self.by_part if part == "1"}
        assert {upload for upload, _ in self.by_part} == first


class NotingProxy(ScoredProxy):
    """A proxy that notes everything that it passes on."""

    def __init__(self, upstream_url: str, score: Score, recorder: Recorder) -> None:
        super().__init__(upstream_url, score)
        self._recorder = recorder

    async def send_upstream(self, request: Request, body: bytes) -> Response:
        self._recorder.note(request, body)
        return await super().send_upstream(request, body)


AGAIN: dict[str, Action] = {
    "refused": answering(503, error_body("SlowDown")),
    "broken off": reset,
    "unanswered": applied_unanswered,
}


class Sealed:
    """A sealed section at a server, behind a proxy that notes what is sent."""

    def __init__(self, base: Path, endpoint: S3Endpoint, layout: str) -> None:
        self.bench = Workbench(
            base, f"s3://{endpoint.fresh_bucket()}/prefix", s3=endpoint.settings(), encrypted=True
        )
        encryption = msgspec.structs.replace(self.bench.section.encryption, hide_names=layout == "hidden")
        self.bench.configure(packed=layout == "packed", encryption=encryption)
        self.endpoint = endpoint
        self.recorder = Recorder()

    async def initialise(self) -> None:
        noise = random.Random(1)
        self.bench.write("large", noise.randbytes(LARGE))
        for number in range(6):
            self.bench.write(f"f{number}", noise.randbytes(20_000))
        await create_repository(self.bench.settings, self.bench.section, cost=FLOOR)
        await self.bench.initialise()

    def behind(self, proxy: NotingProxy) -> None:
        """Let every run send through the proxy."""
        s3 = self.endpoint.settings(endpoint_url=proxy.url)
        self.bench.settings = msgspec.structs.replace(
            self.bench.settings, s3=s3, concurrency=1, memory_limit_bytes=10 * MIB
        )

    async def finish(self) -> None:
        """A last run saves all, and nothing was ever sent with another's key and nonce."""
        assert (await self.bench.run()).failures == ()
        self.recorder.check()
        assert picture(await self.bench.restored()) == picture(self.bench.tree)


@pytest.mark.parametrize(
    ("layout", "fault"), selected(((a, b) for a in LAYOUTS for b in AGAIN), 1, name="again")
)
async def test_what_is_sent_again_is_the_same(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str, fault: str
) -> None:
    sealed = Sealed(tmp_path, rclone_s3, layout)
    await sealed.initialise()
    async with NotingProxy(rclone_s3.url, score, sealed.recorder) as proxy:
        act = AGAIN[fault] if fault == "unanswered" else sealed.recorder.noting(AGAIN[fault])
        proxy.plan("PutObject", act, path="/data/", times=2)
        proxy.plan("UploadPart", act, times=2)
        sealed.behind(proxy)
        assert (await sealed.bench.run()).failures == ()
        sent = len(sealed.recorder.by_salt) + sum(part != "1" for _, part in sealed.recorder.by_part)
        assert sealed.recorder.sendings >= sent + 4, "four were sent twice"
        await sealed.finish()


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="changing"))
async def test_a_file_that_changes_while_it_is_sent_is_sealed_anew(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str
) -> None:
    sealed = Sealed(tmp_path, rclone_s3, layout)
    await sealed.initialise()
    large = sealed.bench.tree / "large"

    async def change(exchange: Exchange) -> None:
        status = large.stat()
        with large.open("r+b") as file:
            file.write(os.urandom(100_000))
        os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
        await exchange.pass_on(await exchange.forward())

    async with NotingProxy(rclone_s3.url, score, sealed.recorder) as proxy:
        proxy.plan("UploadPart", change)
        sealed.behind(proxy)
        await sealed.bench.run()
        uploads = {upload for upload, _ in sealed.recorder.by_part}
        assert len(uploads) == 2, "the first was given up"
        await sealed.finish()


@pytest.mark.parametrize("layout", selected(LAYOUTS, 1, name="interrupted"))
@pytest.mark.parametrize("how", selected(["refused", "killed"], 1, name="interrupted"))
async def test_an_upload_that_was_interrupted_is_begun_anew(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str, how: str
) -> None:
    sealed = Sealed(tmp_path, rclone_s3, layout)
    await sealed.initialise()
    bench = sealed.bench
    processes: list[asyncio.subprocess.Process] = []

    async def kill(exchange: Exchange) -> None:
        os.killpg(processes[0].pid, signal.SIGKILL)
        score.kills += 1
        exchange.reset()

    async with NotingProxy(rclone_s3.url, score, sealed.recorder) as proxy:
        ending = kill if how == "killed" else answering(403, error_body("AccessDenied"))
        proxy.plan("UploadPart", sealed.recorder.noting(ending), skip=1)
        sealed.behind(proxy)
        if how == "killed":
            config = bench.config_file(endpoint_url=proxy.url)
            if layout == "hidden":
                config.write_text(config.read_text() + "encrypt_names = true\n")
            processes.append(await start(["-c", str(config), "--quiet", "run"]))
            assert await processes[0].wait() == -signal.SIGKILL
        else:
            with pytest.raises(StoreError):
                await bench.run()
        await sealed.finish()
        uploads = {upload for upload, _ in sealed.recorder.by_part}
        assert len(uploads) == 2, "the second run continued nothing"


@pytest.mark.parametrize("layout", ["mirror", "hidden"])
async def test_the_same_content_is_sealed_anew_for_every_file(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, layout: str
) -> None:
    sealed = Sealed(tmp_path, rclone_s3, layout)
    await sealed.initialise()
    bench = sealed.bench
    async with NotingProxy(rclone_s3.url, score, sealed.recorder) as proxy:
        sealed.behind(proxy)
        await bench.run()
        once = len(sealed.recorder.by_salt)
        for path in list(bench.tree.iterdir()):
            shutil.copy2(path, path.with_name(f"copy of {path.name}"))
        assert (await bench.run()).files_new == 7
        assert len(sealed.recorder.by_salt) >= once + 7
        await sealed.finish()
