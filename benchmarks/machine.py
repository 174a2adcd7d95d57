"""What a report says of the machine."""

from __future__ import annotations

import os
import platform


def described() -> str:
    """Cores, system, interpreter, and how busy it is now: what was measured under load is worth little."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, "
        f"CPython {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end"
    )
