"""RESTORE.md, done as it says: its commands are taken from the page and run against a real server."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.readme import restore_readme
from asyncbackup.model import Kind
from tests.unit.format.repositories import LONG, PASSPHRASE, RUNS, Repository, Tree, example

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

needs_aws = pytest.mark.skipif(shutil.which("aws") is None, reason="the AWS CLI is not installed")


def commands_below(page: str, title: str) -> str:
    """The indented block of the section with that title."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0].split("\n```python\n")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    assert lines
    return "\n".join(lines)


def do(commands: str, folder: Path, **environment: str) -> None:
    commands = re.sub(r"RUN=….*", f"RUN={RUNS[0]}", commands)
    commands = commands.replace("RUN.jsonl.zst", f"{RUNS[1]}.jsonl.zst")
    commands = re.sub(r"^pip install .*$", "", commands, flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", commands],
        cwd=folder,
        env=os.environ | {"PATH": path, "HOME": str(folder), "AWS_DEFAULT_REGION": "us-east-1"} | environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def files_of(tree: Tree, *, run: str) -> dict[str, bytes]:
    """What a run's folder ``files/`` holds of a tree, by escaped path; symlinks are empty files."""
    found = {}
    for entry, body in tree.values():
        extent = entry.extent
        assert extent is not None
        if entry.kind is not Kind.FOLDER and extent.run == run and extent.key.startswith("files/"):
            found[extent.key.removeprefix("files/")] = body
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


@pytest.fixture(scope="module")
def uploaded(seaweed_s3: S3Endpoint) -> tuple[S3Endpoint, str, list[Tree]]:
    """``(endpoint, page, trees)`` of the plain example in a bucket."""
    repository, trees = example(encrypted=False)
    return (*upload(seaweed_s3, repository), trees)


def upload(endpoint: S3Endpoint, repository: Repository) -> tuple[S3Endpoint, str]:
    bucket = endpoint.fresh_bucket()
    repository.add_readme(f"s3://{bucket}/some prefix/backups")
    client = endpoint.client()
    try:
        for key, (body, metadata) in repository.objects.items():
            client.put_object(Bucket=bucket, Key=f"some prefix/backups/{key}", Body=body, Metadata=metadata)
    finally:
        client.close()
    return endpoint, repository.objects["RESTORE.md"][0].decode()


@needs_aws
def test_one_run_with_aws(uploaded: tuple[S3Endpoint, str, list[Tree]], tmp_path: Path) -> None:
    endpoint, page, trees = uploaded
    do(commands_below(page, "The files of one run"), tmp_path, AWS_ENDPOINT_URL=endpoint.url)
    assert contents(tmp_path / "restored") == files_of(trees[0], run=RUNS[0])


@needs_aws
def test_all_runs_with_aws(uploaded: tuple[S3Endpoint, str, list[Tree]], tmp_path: Path) -> None:
    endpoint, page, trees = uploaded
    do(commands_below(page, "The latest version of everything"), tmp_path, AWS_ENDPOINT_URL=endpoint.url)
    wanted = files_of(trees[0], run=RUNS[0]) | files_of(trees[1], run=RUNS[1])
    assert contents(tmp_path / "restored") == wanted


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are restored by root alone")
def test_metadata_with_rclone(uploaded: tuple[S3Endpoint, str, list[Tree]], tmp_path: Path) -> None:
    endpoint, page, trees = uploaded
    do(commands_below(page, "With times, permissions and owners"), tmp_path, AWS_ENDPOINT_URL=endpoint.url)
    restored = tmp_path / "restored"
    assert contents(restored) == files_of(trees[0], run=RUNS[0]) | files_of(trees[1], run=RUNS[1])
    assert (restored / "empty").is_dir()
    for entry, _ in trees[1].values():
        if entry.kind is Kind.FILE and entry.extent and entry.extent.key.startswith("files/"):
            status = (restored / entry.extent.key.removeprefix("files/")).stat()
            assert status.st_mtime_ns == entry.mtime_ns
            assert stat.S_IMODE(status.st_mode) == stat.S_IMODE(entry.mode)
            assert (status.st_uid, status.st_gid) == (entry.uid, entry.gid)


def test_times_with_rclone_without_metadata(
    uploaded: tuple[S3Endpoint, str, list[Tree]], tmp_path: Path
) -> None:
    """What the page tells everyone but root to do."""
    endpoint, page, trees = uploaded
    commands = commands_below(page, "With times, permissions and owners").replace(" --metadata", "")
    do(commands, tmp_path, AWS_ENDPOINT_URL=endpoint.url)
    entry, _ = trees[1][b"docs/report.pdf"]
    assert (tmp_path / "restored/docs/report.pdf").stat().st_mtime_ns == entry.mtime_ns


@needs_aws
@pytest.mark.parametrize("encrypted", [False, True])
def test_exactly_one_snapshot_with_the_script(
    seaweed_s3: S3Endpoint, tmp_path: Path, encrypted: bool
) -> None:
    repository, trees = example(encrypted=encrypted)
    endpoint, page = upload(seaweed_s3, repository)
    commands = commands_below(page, "Decrypting" if encrypted else "Exactly one snapshot")
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    commands = commands.replace("copy restore", "--passphrase-file passphrase copy restore")
    do(commands, tmp_path, AWS_ENDPOINT_URL=endpoint.url)
    deep = os.path.join(os.fsencode(tmp_path / "restored"), LONG, b"file")
    with open(deep, "rb") as file:
        assert file.read() == b"deep"
    restored = contents_as_bytes(tmp_path / "restored")
    assert restored == {path: body for path, (entry, body) in trees[1].items() if entry.kind is Kind.FILE}


def contents_as_bytes(folder: Path) -> dict[bytes, bytes]:
    root = os.fsencode(folder)
    found = {}
    for where, _, names in os.walk(root):
        for name in names:
            place = os.path.join(where, name)
            if not os.path.islink(place):
                with open(place, "rb") as file:
                    found[os.path.relpath(place, root)] = file.read()
    return found


@pytest.mark.parametrize("title", ["The files of one run", "The latest version of everything"])
def test_folders_with_cp(tmp_path: Path, title: str) -> None:
    repository, trees = example(encrypted=False)
    destination = tmp_path / "my disk's backups"
    repository.add_readme(destination.as_uri())
    repository.write_to(destination)
    page = (destination / "RESTORE.md").read_text()
    (tmp_path / "work").mkdir()
    do(commands_below(page, title), tmp_path / "work")
    wanted = files_of(trees[0], run=RUNS[0])
    if title.startswith("The latest"):
        wanted |= files_of(trees[1], run=RUNS[1])
    assert contents(tmp_path / "work/restored") == wanted
    commands = commands_below(page, "Exactly one snapshot")
    (tmp_path / "again").mkdir()
    do(commands, tmp_path / "again")
    assert contents_as_bytes(tmp_path / "again/restored")[b"docs/report.pdf"] == b"changed"


def test_an_encrypted_page_offers_no_way_that_gives_ciphertext() -> None:
    page = restore_readme(destination="s3://bucket", sections=["home", "work"], encrypted=True).decode()
    assert "rclone copy" not in page
    assert "/files/ restored" not in page
    assert "`home`, `work`" in page
    assert "pass phrase" in page


@pytest.mark.parametrize("destination", ["s3://bucket", "s3://bucket/", "s3://b/p/", "file:///mnt/disk/"])
def test_places_are_joined_with_one_slash(destination: str) -> None:
    page = restore_readme(destination=destination, sections=[], encrypted=False).decode()
    assert "//$SECTION" not in page
    assert "none" in page
