"""This machine: Python, libraries, open files."""

from __future__ import annotations

import platform
import re
import resource
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_PYTHON = (3, 11)
OPEN_FILES = 256
"""What a run keeps open at the most."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)[^;]*>=\s*([0-9.]+)[^;]*(?:;(.*))?")


def examine_machine(*, concurrency: int) -> list[Finding]:
    """Whether this Python, its libraries and the process's limits do."""
    return [_python(), _sqlite(), *_libraries(), _open_files(concurrency)]


def _python() -> Finding:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.release()}"
    if sys.version_info < LEAST_PYTHON:
        return problem("python", text, "asyncbackup needs Python 3.11 or later")
    return ok("python", text)


def _sqlite() -> Finding:
    # Loaded when it is looked at: the catalog alone knows SQLite.
    from asyncbackup.catalog.sqlite_version import check_sqlite

    try:
        check_sqlite()
    except CatalogError as error:
        text, _, advice = str(error).partition("; ")
        return problem("sqlite", text, advice)
    return ok("sqlite", "the SQLite of this Python is recent enough")


def _libraries() -> list[Finding]:
    try:
        requirements = metadata.requires("asyncbackup") or []
    except metadata.PackageNotFoundError:
        return [
            note("libraries", "asyncbackup runs from its source tree; which libraries it needs is not known")
        ]
    wrong = list(wrong_versions(requirements))
    return wrong or [ok("libraries", "all libraries are there, in versions that do")]


def wrong_versions(requirements: list[str]) -> Iterator[Finding]:
    """A problem for each requirement (``name>=1.2``) that this environment does not meet. Those of
    extras, and of other platforms, do not count."""
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        if match is None or match[3]:
            continue
        name, floor = match[1], match[2]
        advice = f"pip install '{name}>={floor}'"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield problem("libraries", f"{name} is missing", advice)
            continue
        if _numbers(version) < _numbers(floor):
            yield problem("libraries", f"{name} {version} is older than {floor}", advice)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _open_files(concurrency: int) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    text = f"{'any number of' if unlimited else soft} files may be open at once"
    needed = OPEN_FILES + concurrency
    if unlimited or soft >= needed:
        return ok("open-files", text)
    advice = f"'ulimit -n {max(1024, needed)}' before the run, or LimitNOFILE= in its service"
    if soft < OPEN_FILES:
        return problem("open-files", text, advice)
    return note("open-files", f"{text}, with {concurrency} connections that may not be enough", advice)
