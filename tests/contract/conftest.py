"""Each kind of store in turn, as a fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from asyncbackup.config import S3Settings
from asyncbackup.store.open import open_store
from tests.contract.backends import BACKENDS, LACKS, QUICK, Backend, s3_backend

if TYPE_CHECKING:
    from asyncbackup.store.base import Store
    from tests.servers import S3Endpoint


@pytest.fixture(scope="session")
def buckets() -> dict[str, str]:
    """One bucket an endpoint for the whole session; each test has a prefix of its own."""
    return {}


@pytest.fixture(params=["lean", "aiobotocore"])
def transfer(request: pytest.FixtureRequest) -> str:
    """Each way for contents to travel in turn; all that is promised holds for both."""
    way: str = request.param
    return way


@pytest.fixture
def rclone_s3(rclone_s3: S3Endpoint, transfer: str) -> S3Endpoint:
    return msgspec.structs.replace(rclone_s3, transfer=transfer)


@pytest.fixture
def seaweed_s3(seaweed_s3: S3Endpoint, transfer: str) -> S3Endpoint:
    return msgspec.structs.replace(seaweed_s3, transfer=transfer)


@pytest.fixture
def moto_s3(moto_s3: S3Endpoint, transfer: str) -> S3Endpoint:
    return msgspec.structs.replace(moto_s3, transfer=transfer)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A folder has one way only."""
    doubled = [item for item in items if _ways(item) == ("local", "aiobotocore")]
    items[:] = [item for item in items if item not in doubled]
    config.hook.pytest_deselected(items=doubled)


def _ways(item: pytest.Item) -> tuple[object, object]:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return params.get("backend"), params.get("transfer")


@pytest.fixture(params=BACKENDS)
def backend(
    request: pytest.FixtureRequest, transfer: str, tmp_path: Path, buckets: dict[str, str]
) -> Iterator[Backend]:
    """Each store in turn, at a fresh, empty destination."""
    name = request.param
    if name == "local":
        folder = tmp_path / "destination"
        folder.mkdir()
        yield Backend(name=name, destination=f"file://{folder}", s3=S3Settings(), **LACKS[name])
        return
    endpoint: S3Endpoint = request.getfixturevalue(f"{name}_s3")
    yield s3_backend(endpoint, buckets)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    """An open store at the backend's destination."""
    async with open_store(backend.destination, s3=backend.s3, concurrency=4, policy=QUICK) as opened:
        yield opened
