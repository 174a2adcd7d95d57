"""Fixtures for every test: real servers, credentials, and checks that nothing was left running."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from benchmarks.launch import local_server
from tests.battery.score import pytest_terminal_summary
from tests.servers import ACCESS_KEY, SECRET_KEY, S3Endpoint, run_moto, run_rclone, run_seaweed

# How fast an example is says something of the machine, not of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

THREAD_END_SECONDS = 10.0

__all__ = ["pytest_terminal_summary"]  # a hook, which pytest finds here whichever tests are asked for


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """One ``rclone serve s3`` for the whole session."""
    with run_rclone(tmp_path_factory.mktemp("rclone")) as (endpoint, _):
        yield endpoint


@pytest.fixture(scope="session")
def memory_s3() -> Iterator[S3Endpoint]:
    """One server of the benchmarks for the whole session, one that checks what it is sent."""
    with local_server(["--check-bodies"]) as server:
        yield S3Endpoint(name="memory", url=server.url)


@pytest.fixture(scope="session")
def seaweed_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """One SeaweedFS for the whole session."""
    with run_seaweed(tmp_path_factory.mktemp("seaweed")) as (endpoint, _):
        yield endpoint


@pytest.fixture(scope="session")
def moto_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """One ``moto_server`` for the whole session."""
    with run_moto(tmp_path_factory.mktemp("moto")) as (endpoint, _):
        yield endpoint


@pytest.fixture(autouse=True)
def _aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of the test servers, and nothing of this machine's own AWS set-up or proxies."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """Every thread that a test started has ended when the test is over."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(THREAD_END_SECONDS)
        assert not thread.is_alive(), f"the test left the thread {thread.name!r} running"


@pytest.fixture(autouse=True)
def _no_leaked_tasks(request: pytest.FixtureRequest, _no_leaked_threads: None) -> None:
    """Every asyncio task that a test started has ended when the test is over (coroutine tests only)."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_task_check")


@pytest.fixture
async def _task_check() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    # Tasks that were cancelled or are about to end get their last turns.
    for _ in range(20):
        left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    assert not left, f"the test left tasks running: {sorted(map(repr, left))}"


@pytest.fixture
def folder_destination(tmp_path: Path) -> Path:
    """An existing, empty folder for ``file://`` destinations."""
    folder = tmp_path / "destination"
    folder.mkdir()
    return folder
