"""What a run of a fixed tree costs in requests, SQL statements, thread hops and copies of contents.

Times are for the benchmarks; what is counted here is what they are made of, so that nobody loses it
unseen. Where the walk's own order decides how things fall into batches, the count has a bound.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

import aiosqlite
import msgspec
import pytest

from asyncbackup.catalog import database
from asyncbackup.flow.workers import ThreadGate
from asyncbackup.pipeline import recorder
from asyncbackup.store.lean.connection import Connection
from asyncbackup.store.lean.transport import LeanTransport
from tests.workbench import MIB, Workbench

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from asyncbackup.model import RunSummary
    from tests.servers import S3Endpoint

FILES, FOLDERS = 1000, 10
OWN = Counter({"PutObject": 2, "ListObjectsV2": 1})
"""The mark of the run and the manifest; the look for prunes."""


class Costs:
    """What was counted since the last :meth:`reset`. Statements by their first four words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: Counter[str] = Counter()
        self.hops = 0
        self._last = ""
        connect, run = aiosqlite.connect, ThreadGate.run

        async def traced(*args: Any, **options: Any) -> aiosqlite.Connection:
            connection = await connect(*args, **options)
            await connection.set_trace_callback(self._note)
            return connection

        async def counted(gate: ThreadGate, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
            self.hops += 1
            return await run(gate, call, *args, **options)

        monkeypatch.setattr(database, "aiosqlite", SimpleNamespace(connect=traced))
        monkeypatch.setattr(ThreadGate, "run", counted)

    def _note(self, sql: str) -> None:
        # Each trigger that a row sets off names its statement once more, values and all.
        if sql != self._last:
            self.statements[" ".join(sql.split()[:4])] += 1
        self._last = sql

    @property
    def all_statements(self) -> int:
        return self.statements.total()

    def reset(self) -> None:
        self.statements.clear()
        self.hops = 0


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    # However slow the machine is, receipts are recorded by their number.
    monkeypatch.setattr(recorder, "GATHER_SECONDS", 3600.0)
    return Costs(monkeypatch)


@pytest.fixture(params=["mirror", "packed"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path, memory_s3: S3Endpoint) -> Workbench:
    """A fixed tree, to be saved in each layout."""
    bench = Workbench(tmp_path, f"s3://{memory_s3.fresh_bucket()}", s3=memory_s3.settings())
    await bench.initialise()
    bench.settings = msgspec.structs.replace(bench.settings, concurrency=32)
    if request.param == "packed":
        bench.configure(packed=True)
    for number in range(FILES):
        bench.write(f"d{number % FOLDERS}/f{number}", b"%08d" % number * 100)
    return bench


async def run(bench: Workbench, costs: Costs) -> RunSummary:
    costs.reset()
    return await bench.run()


async def test_a_first_run(bench: Workbench, costs: Costs) -> None:
    summary = await run(bench, costs)
    # The folders, and the root, are objects of a mirror, where the endpoint keeps them; it is asked once.
    objects = 1 if bench.section.packed else FILES + FOLDERS + 1
    asked = Counter({"GetObject": 1, **({} if bench.section.packed else {"HeadObject": 1})})
    assert summary.requests == OWN + Counter({"PutObject": objects}) + asked
    # A batch of receipts is a transaction, and 32 entries a statement.
    assert costs.statements["BEGIN IMMEDIATE"] <= 40
    assert costs.statements["INSERT OR REPLACE INTO"] <= 150
    # Listing takes some hops a walker, reading and packing one a batch; nothing takes one a file.
    assert costs.hops <= 60


async def test_an_unchanged_run(bench: Workbench, costs: Costs) -> None:
    await bench.run()
    summary = await run(bench, costs)
    assert summary.requests == OWN + Counter({"HeadObject": 1})
    assert summary.bytes_read == summary.bytes_uploaded == 0
    assert costs.statements["INSERT OR REPLACE INTO"] <= 4
    # Folders are told by their digests; the root, which is listed apart, and what its rows are take two.
    assert costs.statements["SELECT folder, name, pending,"] <= 2
    assert costs.all_statements <= 85
    assert costs.hops <= 26


async def test_a_run_with_few_changes(bench: Workbench, costs: Costs) -> None:
    await bench.run()
    for number in range(10):
        bench.write(f"d0/f{number * FOLDERS}", b"%08d" % number * 101)
    summary = await run(bench, costs)
    objects = 1 if bench.section.packed else 10
    assert summary.requests == OWN + Counter({"PutObject": objects, "HeadObject": 1})
    assert summary.bytes_read == 10 * 808
    # What differs is read whole by one query a batch of folders, not one a file.
    assert costs.all_statements <= 125
    assert costs.hops <= 32


async def test_contents_reach_the_socket_as_they_were_read(
    tmp_path: Path, memory_s3: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain mirror copies nothing: the buffer that a file was read into is the one that is sent."""
    given: set[int] = set()
    sent: list[object] = []
    put, part, send = LeanTransport.put, LeanTransport.upload_part, Connection.send

    async def noted_put(transport: LeanTransport, key: str, body: Any, **options: Any) -> Any:
        given.add(id(body))
        return await put(transport, key, body, **options)

    async def noted_part(transport: LeanTransport, key: str, *args: Any, **options: Any) -> Any:
        given.add(id(args[2]))
        return await part(transport, key, *args, **options)

    async def noted_send(connection: Connection, head: bytes, body: Any, *args: Any, **options: Any) -> Any:
        if body and not bytes(body[:32]).startswith(b"<CompleteMultipartUpload"):
            sent.append(body)
            assert id(body) in given
        return await send(connection, head, body, *args, **options)

    monkeypatch.setattr(LeanTransport, "put", noted_put)
    monkeypatch.setattr(LeanTransport, "upload_part", noted_part)
    monkeypatch.setattr(Connection, "send", noted_send)
    bench = Workbench(tmp_path, f"s3://{memory_s3.fresh_bucket()}", s3=memory_s3.settings())
    await bench.initialise()
    bench.write("small", b"content" * 1000)
    bench.write("large", bytes(range(256)) * 4096 * 20)
    sent.clear()
    await bench.run()
    contents = {len(body) for body in sent}  # type: ignore[arg-type]
    assert 7000 in contents
    assert max(contents) <= 8 * MIB, "parts"


NOT_NEEDED = {
    "aiobotocore",
    "aiofiles",
    "asyncbackup.cli.database",
    "asyncbackup.counting",
    "asyncbackup.leftovers",
    "asyncbackup.pipeline.transfer",
    "asyncbackup.pipeline.uploader",
    "asyncbackup.repository.times",
    "asyncbackup.restore",
    "asyncbackup.store.local",
    "botocore",
    "difflib",
    "email",
    "pathspec",
    "platformdirs",
    "rich",
    "tempfile",
}
"""What an unchanged run has no use for, and what took a third of its start."""


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_unchanged_run_loads_what_it_needs(encrypted: bool, tmp_path: Path, memory_s3: S3Endpoint) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("a pass phrase")
    config = tmp_path / "asyncbackup.toml"
    lines = [
        'state_dir = "state"',
        f'[s3]\nendpoint_url = "{memory_s3.url}"\nregion = "us-east-1"',
        f'[sections.home]\npath = "tree"\ndestination = "s3://{memory_s3.fresh_bucket()}"',
    ]
    if encrypted:
        lines.append(f'[sections.home.encryption]\nenabled = true\npassphrase_file = "{secret}"')
    config.write_text("\n".join(lines))

    def loaded_by(command: str) -> set[str]:
        code = "import sys; from asyncbackup.cli.app import main; code = main(sys.argv[1:])\n"
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"{code}print(*sys.modules); sys.exit(code)",
                "--config",  # click looks "-c" up among the long options first, with difflib
                str(config),
                "--quiet",
                command,
            ],
            env={**os.environ, "AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two"},
            check=True,
            capture_output=True,
            text=True,
        )
        return set(done.stdout.splitlines()[-1].split())

    loaded_by("initdb")
    assert "asyncbackup.pipeline.transfer" in loaded_by("run")
    loaded = loaded_by("run")
    assert loaded & NOT_NEEDED == set()
    assert ("cryptography" in loaded) == encrypted
