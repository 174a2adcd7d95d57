"""(i) What is installed is what was locked, what is built twice is the same, what is too old is refused.

Whether a locked version has a known vulnerability is asked by ``make audit``: that needs the network, so
it is no test.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from asyncbackup.__main__ import LEAST_PYTHON
from asyncbackup.catalog.scratch import Scratch
from asyncbackup.catalog.sqlite_version import LEAST_SQLITE
from asyncbackup.doctor.machine import examine_machine
from asyncbackup.errors import CatalogError
from tests.workbench import Workbench

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z0-9,._-]+\])?==(?P<version>[^ ;]+)(?P<where> ;.*)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
BUILT_FROM = ("asyncbackup", "pyproject.toml", "README.md", "LICENSE", ".gitignore")


def locked() -> dict[str, dict[str, int]]:
    """Of each locked package the versions (several where each is for its own kind of machine), with the
    number of their hashes."""
    found: dict[str, dict[str, int]] = {}
    hashes: dict[str, int] = {}
    version = ""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line.startswith("#"):
            continue
        if HASH.fullmatch(line):
            hashes[version] += 1
            continue
        requirement = LOCKED.fullmatch(line)
        assert requirement is not None, f"neither an exact version before its hashes nor a hash: {line}"
        version = requirement["version"]
        hashes = found.setdefault(canonicalize_name(requirement["name"]), {})
        assert not hashes or requirement["where"], f"locked twice: {line}"
        hashes[version] = 0
    return found


def test_every_locked_package_has_exact_versions_with_hashes() -> None:
    packages = locked()
    assert len(packages) > 30
    assert [name for name, hashes in packages.items() if not all(hashes.values())] == []


def test_the_locked_versions_are_those_that_the_project_asks_for() -> None:
    packages = locked()
    project = PROJECT["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for text in (*asked, *PROJECT["build-system"]["requires"]):
        requirement = Requirement(text)
        for version in packages[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(Version(version)), f"{text}, but {version} is locked"


def test_the_environment_is_installed_by_hash_alone() -> None:
    make = (ROOT / "Makefile").read_text()
    (install,) = re.findall(r"pip install .*requirements\.lock", make)
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install


def test_a_wheel_built_twice_is_the_same_to_the_byte(tmp_path: Path) -> None:
    """From two folders, at two times, with two umasks."""
    digests = []
    for number, umask in enumerate((0o022, 0o077)):
        source = tmp_path / f"source {number}"
        source.mkdir()
        for name in BUILT_FROM:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, source / name)
        for path in source.rglob("*.py"):
            os.utime(path, (1_600_000_000 + number * 86_400,) * 2)
            path.chmod(0o666 & ~umask)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "built"],
            cwd=source,
            umask=umask,
            check=True,
            capture_output=True,
        )
        (wheel,) = (source / "built").glob("*.whl")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
        with zipfile.ZipFile(wheel) as archive:
            folders = {name.split("/")[0] for name in archive.namelist()}
        version = wheel.name.split("-")[1]
        assert folders == {"asyncbackup", f"asyncbackup-{version}.dist-info"}
    assert digests[0] == digests[1]


def test_an_older_python_is_told_so() -> None:
    floor = ".".join(map(str, LEAST_PYTHON))
    assert PROJECT["project"]["requires-python"] == f">={floor}"
    code = (
        "import sys; sys.version_info = (3, 10, 9); from asyncbackup.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"asyncbackup: error: this is Python 3.10, asyncbackup needs {floor} or later\n"


async def test_an_older_sqlite_is_told_so_before_anything_is_written(
    tmp_path: Path, folder_destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench(tmp_path, f"file://{folder_destination}")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 22, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.22.0")
    least = re.escape(".".join(map(str, LEAST_SQLITE)))
    with pytest.raises(CatalogError, match=rf"linked with SQLite 3\.22\.0, asyncbackup needs {least}"):
        await bench.initialise()
    assert not bench.settings.database_path("home").exists()
    with pytest.raises(CatalogError, match="SQLite"):
        async with Scratch.open(tmp_path, ""):
            pass
    found = {finding.check: finding for finding in examine_machine(concurrency=8)}
    assert found["sqlite"].level == "problem"
    monkeypatch.undo()
    found = {finding.check: finding for finding in examine_machine(concurrency=8)}
    assert {found[check].level for check in ("sqlite", "python", "libraries")} == {"ok"}
