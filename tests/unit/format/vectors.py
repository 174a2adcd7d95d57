"""The test vectors in tests/vectors, and the contents that they name instead of holding them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "vectors"


def load(name: str) -> Any:
    """What ``tests/vectors/NAME.json`` holds."""
    return json.loads((FOLDER / f"{name}.json").read_bytes())


def content(size: int) -> bytes:
    """The content of ``size`` bytes that sealed vectors hold: byte ``i`` is ``i mod 251``."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]
