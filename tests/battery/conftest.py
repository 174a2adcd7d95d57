"""The score that every case of the battery keeps."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from tests.battery.score import PROPERTY, Score


@pytest.fixture(autouse=True)
def score(request: pytest.FixtureRequest) -> Iterator[Score]:
    """What the test counts; it is shown by group at the end of the run."""
    kept = Score()
    yield kept
    request.node.user_properties.append((PROPERTY, msgspec.to_builtins(kept)))
