"""(d) A mirror from a stranger: what ``syncdb_remote --from-objects`` makes of it stays within the target."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
import pytest

from asyncbackup.repository.create import create_repository
from tests.battery.cage import Cage, Outcome, Step, needs_cage
from tests.battery.selection import selected
from tests.battery.tars import CAPABILITY
from tests.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.battery.score import Score
    from tests.servers import S3Endpoint

pytestmark = needs_cage

RUN = "20261122T195000Z-3fa2"
PLAIN = {"mode": "100644", "mtime": "1.5", "uid": "0", "gid": "0"}


class Object(msgspec.Struct, frozen=True):
    """One object below a run, of which the metadata say ``PLAIN`` and more."""

    key: str
    metadata: dict[str, str] = {}
    body: bytes = b"evil"


NO_KEYS = [
    "files/../f", "files/d/../../f", "files/..", "files/.", "files/d/.", "files//f", "files//etc/passwd",
    "files/d//f", "files/%2E%2E/f", "files/..%2Ff", "files/%2Fetc/passwd", "files/a%00b", "files/../",
    "files/./", "files/%2E%2E/", "files/../../../../../../etc/f", "long/../f", "long/" + "0" * 64 + "/../f",
    "packs/../f.tar", "../files/f", "hidden/../f",
]  # fmt: skip
KEYS = {key: [Object(key)] for key in NO_KEYS}


def long(path: bytes, **metadata: str) -> Object:
    """An object whose path is in its metadata."""
    said = {"asyncbackup-path": quote(path, safe="/"), **metadata}
    return Object(f"long/{hashlib.sha256(path).hexdigest()}", said)


def further(name: str, first: str) -> Object:
    """A stand-in for a further name of ``first``."""
    return Object(f"files/{name}", {"asyncbackup-hardlink": first, "asyncbackup-size": "4"}, b"")


def strange_objects(outside: str) -> dict[str, list[Object]]:
    """Objects that lie, or lead to ``outside``."""
    symlink = Object("files/d", {"mode": "120777", "asyncbackup-target": quote(outside)}, b"")
    paths = (b"../f", b"/etc/f", b"d/../../f", b"..", b"", b"a\0b", b"d//f", outside.encode() + b"/f")
    names = {f"a long path {path!r}": [long(path)] for path in paths}
    numbers = {
        f"{name} {value}": [Object("files/f", {name: value})]
        for name, values in {
            "mtime": ("-9223372036854775808", "9223372036854775808", "9" * 19, "9" * 25, "1e9", "nan", "-"),
            "asyncbackup-ctime": ("9223372036854775808", "x"),
            "uid": ("-1", "4294967296", "9" * 19, "root"),
            "gid": ("-1", "4294967296"),
            "asyncbackup-size": ("-5", "9" * 19, "99999", "0"),
            "asyncbackup-nlink": ("-1", "9" * 19),
            "mode": (
                "060644",
                "020644",
                "010644",
                "140644",
                "40755",
                "120777",
                "7",
                "-1",
                "0o644",
                "177777777",
            ),
            "asyncbackup-encoding": ("zip", "cobblestone-256", "zstd"),
            "asyncbackup-sha256": ("x", "0" * 63, "0" * 64),
            "asyncbackup-xattr": ("user.a", ":", "user.a:%%%", "user.a%00b:MQ", "user.a:MQ,user.a:Mg"),
            "asyncbackup-links": ("%00", "x" * 900),
            "asyncbackup-owner": ("%00", "%ff", "%1b%5b31m"),
        }.items()
        for value in values
    }
    capability = base64.urlsafe_b64encode(CAPABILITY).decode().rstrip("=")
    privileged = f"security.capability:{capability},trusted.t:MQ"
    return {
        **names,
        **numbers,
        "a file through a symlink": [symlink, Object("files/d/f"), Object("files/d/new")],
        "a folder through a symlink": [symlink, Object("files/d/folder/", {"mode": "040777"}, b"")],
        "a symlink at the root": [
            Object("files/", symlink.metadata, b""), Object("files/f")
        ],
        "file and folder": [
            Object("files/f"), Object("files/f/", {"mode": "040755"}, b""), Object("files/f/x")
        ],
        "a further name of something outside": [further("h", "../outside/file")],
        "a further name of a file outside": [further("h", quote(outside) + "/file")],
        "a further name through a symlink": [symlink, further("h", "d/file")],
        "a further name of a symlink": [symlink, further("h", "d")],
        "names in a ring": [further("h", "i"), further("i", "h")],
        "labels of a file and a symlink": [
            Object("files/a", {**symlink.metadata, "asyncbackup-links": "1:1"}, b""),
            Object("files/b", {"asyncbackup-links": "1:1"}),
        ],
        "set-id bits": [Object("files/tool", {"mode": "106755"})],
        "privileged attributes": [Object("files/tool", {"asyncbackup-xattr": privileged})],
        "a symlink with a content": [Object("files/l", symlink.metadata)],
        "a symlink to NUL": [Object("files/l", {"mode": "120777", "asyncbackup-target": "a%00b"}, b"")],
        "a sealed object": [
            Object("files/f", {"asyncbackup-encoding": "cobblestone-256"}, b"ASBKENC\1" + bytes(80))
        ],
        "the last run but one": [Object("../99991231T235958Z-ffff/files/f", {"mode": "60644"})],
    }  # fmt: skip


class Mirror:
    """A destination at a server, with a section for each set of objects; a good one stands beside."""

    def __init__(self, base: Path, endpoint: S3Endpoint) -> None:
        self.cage = Cage(base)
        self._endpoint = endpoint
        self._bucket = endpoint.fresh_bucket()
        bench = Workbench(base, f"s3://{self._bucket}/p", s3=endpoint.settings())
        asyncio.run(create_repository(bench.settings, bench.section))

    def recovered(self, archives: Mapping[str, list[Object]]) -> dict[str, Outcome]:
        """What restoring came to after the database was made from the objects alone."""
        base = self.cage.base
        config = base / "asyncbackup.toml"
        text = (
            f'state_dir = "{base}/state"\n[s3]\nendpoint_url = "{self._endpoint.url}"\nregion = "us-east-1"\n'
        )
        steps: list[Step] = []
        client = self._endpoint.client()
        for number, objects in enumerate(archives.values()):
            name = f"s{number:03}"
            text += f'[sections.{name}]\npath = "{base}/tree"\ndestination = "s3://{self._bucket}/p"\n'
            for each in (*objects, Object("files/good", body=b"content")):
                client.put_object(
                    Bucket=self._bucket,
                    Key=f"p/{name}/data/{RUN}/{each.key}",
                    Body=each.body,
                    Metadata=PLAIN | each.metadata,
                )
            sync = ["-c", str(config), "--quiet", "syncdb_remote", name, "--from-objects"]
            steps += [Step(arguments=sync), self.cage.restoring(config, name)]
        client.close()
        config.write_text(text)
        outcomes = self.cage.run(steps)
        for archive, outcome in zip(archives, outcomes[::2], strict=True):
            assert outcome.code in (0, 3), (archive, outcome)
        return dict(zip(archives, outcomes[1::2], strict=True))


@pytest.fixture
def mirror(tmp_path: Path, memory_s3: S3Endpoint) -> Mirror:
    return Mirror(tmp_path, memory_s3)


def test_keys_that_lead_out(mirror: Mirror, score: Score) -> None:
    archives = {name: KEYS[name] for name in selected(KEYS, 4, name="keys")}
    score.archives += len(archives)
    score.names += len(archives)
    for name, outcome in mirror.recovered(archives).items():
        assert (outcome.code, set(outcome.target)) == (0, {"good"}), (name, outcome)
        assert outcome.target["good"][4] == "content"


def test_metadata_that_lie(mirror: Mirror, score: Score) -> None:
    strange = strange_objects(str(mirror.cage.world / "outside"))
    archives = {name: strange[name] for name in selected(strange, 5, name="objects")}
    score.archives += len(archives)
    for name, outcome in mirror.recovered(archives).items():
        assert outcome.code in (0, 4), (name, outcome)
        assert outcome.target["good"][4] == "content", (name, outcome)
        for path, (mode, _, _, attributes, content) in outcome.target.items():
            assert "canary" not in content, (name, path)
            assert not mode & 0o6000, (name, path, oct(mode))
            assert not any(each.startswith(("security.", "trusted.")) for each in attributes), (name, path)
