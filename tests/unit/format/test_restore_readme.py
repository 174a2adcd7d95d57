"""RESTORE.md, done as it says: its commands are taken from the page and run against a real server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.readme import restore_readme
from asyncbackup.model import Kind
from tests.restore_page import commands_below, do, needs_aws, needs_zstd, of_one_run
from tests.unit.format.repositories import LONG, PASSPHRASE, RUNS, Repository, Tree, example

if TYPE_CHECKING:
    from tests.servers import S3Endpoint

LATEST = "The latest version of everything"


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
def test_latest_version_with_aws(uploaded: tuple[S3Endpoint, str, list[Tree]], tmp_path: Path) -> None:
    endpoint, page, trees = uploaded
    do(commands_below(page, LATEST), tmp_path / "all", endpoint=endpoint)
    wanted = files_of(trees[0], run=RUNS[0]) | files_of(trees[1], run=RUNS[1])
    assert contents(tmp_path / "all/restored") == wanted


@needs_aws
def test_times_with_rclone_without_metadata(
    uploaded: tuple[S3Endpoint, str, list[Tree]], tmp_path: Path
) -> None:
    """What the page tells everyone but root to do."""
    endpoint, page, trees = uploaded
    setup = commands_below(page, LATEST).partition("for run in ")[0]
    commands = setup + commands_below(page, "With times, permissions and owners")
    assert " --metadata" in commands
    do(commands.replace(" --metadata", ""), tmp_path / "all", endpoint=endpoint, strict=False)
    entry, _ = trees[1][b"docs/report.pdf"]
    assert (tmp_path / "all/restored/docs/report.pdf").stat().st_mtime_ns == entry.mtime_ns
    assert (tmp_path / "all/restored/empty").is_dir()


@needs_aws
@pytest.mark.parametrize("encrypted", [False, True])
def test_exactly_one_snapshot_with_the_script(
    seaweed_s3: S3Endpoint, tmp_path: Path, encrypted: bool
) -> None:
    repository, trees = example(encrypted=encrypted)
    endpoint, page = upload(seaweed_s3, repository)
    commands = commands_below(page, "Decrypting" if encrypted else "Exactly one snapshot")
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    commands = commands.replace("copy restore", "--passphrase-file ../passphrase copy restore")
    do(commands, tmp_path / "all", endpoint=endpoint)
    restored = contents_as_bytes(tmp_path / "all/restored")
    assert restored[LONG + b"/file"] == b"deep"
    assert restored == {path: body for path, (entry, body) in trees[2].items() if entry.kind is Kind.FILE}


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


@needs_zstd
def test_folders_with_tar(tmp_path: Path) -> None:
    repository, trees = example(encrypted=False)
    destination = tmp_path / "my disk's backups"
    repository.add_readme(f"file://{destination}")
    repository.write_to(destination)
    commands = commands_below((destination / "RESTORE.md").read_text(), LATEST)
    do(commands, tmp_path / "all")
    first, second = files_of(trees[0], run=RUNS[0]), files_of(trees[1], run=RUNS[1])
    assert contents(tmp_path / "all/restored") == first | second
    do(of_one_run(commands, RUNS[0]), tmp_path / "one")
    assert contents(tmp_path / "one/restored") == first


def test_an_encrypted_page_offers_no_way_that_gives_ciphertext() -> None:
    page = restore_readme(destination="s3://bucket", sections=["home", "work"], encrypted=True).decode()
    assert "rclone copy" not in page
    assert "/files/" not in page.split("## Decrypting")[1].split("```python")[0]
    assert "tar -x" not in page
    assert "hidden/..." in page
    assert "`home`, `work`" in page
    assert "pass phrase" in page


@pytest.mark.parametrize("destination", ["s3://bucket", "s3://bucket/", "s3://b/p/", "file:///mnt/disk/"])
def test_places_are_joined_with_one_slash(destination: str) -> None:
    page = restore_readme(destination=destination, sections=[], encrypted=False).decode()
    assert "//$SECTION" not in page
    assert "none" in page


@pytest.mark.parametrize(
    ("destination", "place"),
    [
        ("file:///mnt/100%25 #1?", "'/mnt/100%25 #1?'/$SECTION/data/"),
        ("s3://bucket/a#b?c%41", "'s3://bucket/a#b?c%41'/$SECTION/data/"),
    ],
)
def test_places_stand_as_they_are(destination: str, place: str) -> None:
    page = restore_readme(destination=destination, sections=[], encrypted=False).decode()
    assert place in page
