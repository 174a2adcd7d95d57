"""The score that every case of the battery keeps, and scenes that many cases share."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from tests.battery.score import PROPERTY, Score
from tests.battery.sealed_scene import Scenes


@pytest.fixture(autouse=True)
def score(request: pytest.FixtureRequest) -> Iterator[Score]:
    """What the test counts; it is shown by group at the end of the run."""
    kept = Score()
    yield kept
    request.node.user_properties.append((PROPERTY, msgspec.to_builtins(kept)))


@pytest.fixture(scope="module")
def made_scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return Scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def scenes(made_scenes: Scenes) -> Iterator[Scenes]:
    """Sealed sections; what the test does to their objects is mended afterwards."""
    yield made_scenes
    made_scenes.mend()
