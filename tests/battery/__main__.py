"""``python -m tests.battery [PYTEST ARGUMENT…]``: every case of the battery, wherever it stands."""

from __future__ import annotations

import os
import sys

import pytest

os.environ["BATTERY"] = "full"

if __name__ == "__main__":
    from tests.battery.score import ELSEWHERE

    sys.exit(pytest.main(["tests/battery", *ELSEWHERE, *sys.argv[1:]]))
