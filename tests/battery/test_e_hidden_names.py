"""(e) With hidden names nothing that is sent tells a name, a size or a digest: addresses, headers, bodies.

What then lies at a folder is searched in tests/pipeline/test_hidden_names.py.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import random
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import msgspec
import pytest

from asyncbackup.format.descriptor import FLOOR
from asyncbackup.rebuild.section import rebuild_section
from asyncbackup.repository.create import create_repository
from asyncbackup.verify.section import verify_section
from tests.battery.score import Score, ScoredProxy
from tests.battery.selection import selected
from tests.prunes import forget, prune
from tests.workbench import Workbench, picture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import S3Endpoint
    from tests.servers.proxy import Request, Response

LAYOUTS = [(packed, level) for packed in (False, True) for level in (0, 3)]
NAME = "kanarie-\u00e9"
"""Not ASCII, so that it would show in several ways."""
SIZES = (1_234_567, 11_765_432)
"""Numbers so long that no signature holds them by chance."""


class Listening(ScoredProxy):
    """Keeps everything that is said in either direction."""

    def __init__(self, upstream_url: str, score: Score) -> None:
        super().__init__(upstream_url, score)
        self.said: list[bytes] = []

    async def send_upstream(self, request: Request, body: bytes) -> Response:
        response = await super().send_upstream(request, body)
        self.said += [request.head, body, response.head, response.body]
        return response


def as_text(name: str) -> set[bytes]:
    """The forms in which a name could be told."""
    plain = name.encode()
    return {
        plain,
        quote(name).encode(),
        quote(name).lower().encode(),
        binascii.hexlify(plain),
        *(base64.b64encode(b"x" * shift + plain)[4:-4] for shift in range(3)),
        hashlib.sha256(plain).hexdigest().encode(),
        hashlib.sha256(plain).digest(),
    }


def as_digest(content: bytes) -> set[bytes]:
    """The forms in which a content's digest could be told."""
    found: set[bytes] = set()
    for algorithm in ("sha256", "sha1", "md5"):
        digest = hashlib.new(algorithm, content, usedforsecurity=False).digest()
        found |= {digest, digest.hex().encode(), base64.b64encode(digest)}
    return found


def as_size(size: int) -> set[bytes]:
    """The forms in which a size could be told."""
    return {b"%d" % size, size.to_bytes(8), size.to_bytes(8, "little")}


@pytest.mark.parametrize(("packed", "level"), selected(LAYOUTS, 1, name="hidden"))
async def test_nothing_that_is_sent_tells_a_name_a_size_or_a_digest(
    tmp_path: Path, rclone_s3: S3Endpoint, score: Score, packed: bool, level: int
) -> None:
    bench = Workbench(
        tmp_path, f"s3://{rclone_s3.fresh_bucket()}/prefix", s3=rclone_s3.settings(), encrypted=True
    )
    bench.configure(
        packed=packed,
        zstd_level=level,
        encryption=msgspec.structs.replace(bench.section.encryption, hide_names=True),
    )
    noise = random.Random(1)
    contents = [noise.randbytes(300), *(noise.randbytes(size) for size in SIZES), b"text " * 400_000]
    for number, content in enumerate(contents):
        bench.write(f"{NAME}/folder/{NAME} {number}", content)
        score.names += 2
    os.link(bench.tree / f"{NAME}/folder/{NAME} 1", bench.tree / f"{NAME} linked")
    (bench.tree / f"{NAME} link").symlink_to(f"{NAME} target")
    bench.write("d/" * 120 + NAME, b"a path over the length of a key")
    await create_repository(bench.settings, bench.section, cost=FLOOR)
    await bench.initialise()
    async with Listening(rclone_s3.url, score) as proxy:
        s3 = rclone_s3.settings(endpoint_url=proxy.url)
        bench.settings = msgspec.structs.replace(bench.settings, s3=s3)
        first = await bench.run()
        assert first.failures == ()
        (bench.tree / f"{NAME} linked").rename(bench.tree / f"{NAME} renamed")
        bench.write(f"{NAME}/folder/{NAME} 1", contents[1] + b"!")
        await bench.run()
        assert (await verify_section(bench.settings, bench.section, read_percent=100)).damaged == ()
        assert picture(await bench.restored()) == picture(bench.tree)
        await forget(bench, first.snapshot)
        await prune(bench)
        bench.settings.database_path("home").unlink()
        await rebuild_section(bench.settings, bench.section)
        bench.settings.database_path("home").unlink()
        await rebuild_section(bench.settings, bench.section, from_objects=True)
        said = proxy.said
    secrets = as_text(NAME).union(*map(as_digest, contents), *map(as_size, SIZES))
    assert sum(map(len, said)) > sum(SIZES), "it was listened to"
    for message in said:
        shown = message if len(message) > 65_536 else message + unquote(message.decode("latin-1")).encode()
        for secret in secrets:
            assert secret not in shown, (secret, message[:300])
