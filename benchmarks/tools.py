"""The tools beside each other: how each is told to save a tree, to look again, and to give it back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.launch import ROOT
from benchmarks.targets import ENCRYPTED, MIRROR, PACKED

ACCESS_KEY = "benchmarkbenchmark"
SECRET_KEY = "benchmark-benchmark-benchmark"  # noqa: S105 - of a server that looks at none
PASSPHRASE = "a pass phrase for measuring"  # noqa: S105 - guards nothing
REGION = "us-east-1"
PEERS_VENV = ROOT / ".bench-venv"


class Place(NamedTuple):
    """Where one tool works once: its own folder, a new bucket, a target that does not exist yet."""

    work: Path
    tree: Path
    endpoint: str
    bucket: str
    target: Path
    concurrency: int


class Plan(NamedTuple):
    """The command lines. Those of ``prepare`` are not measured."""

    first: list[str]
    unchanged: list[str]
    restored: list[str]
    restored_at: Path
    """Where the tree's root is after the restore."""
    prepare: tuple[list[str], ...] = ()
    environment: Mapping[str, str] = {}
    restore_in: Path | None = None
    """The folder that the restore has to be started in."""
    folder: Path | None = None
    """Where the tool keeps what it saved, if that is not the bucket."""


class Tool(NamedTuple):
    """``program`` is its file, empty where it is missing; ``trees`` are those it is measured with."""

    name: str
    program: str
    plan: Callable[[Tool, Place], Plan]
    version: tuple[str, ...]
    trees: frozenset[str] = frozenset({"small", "large", "real"})


def all_tools() -> list[Tool]:
    """Every tool, asyncbackup's layouts first."""
    return [
        asyncbackup(MIRROR, ROOT),
        asyncbackup(ENCRYPTED, ROOT, encrypted=True),
        asyncbackup(PACKED, ROOT, packed=True, encrypted=True),
        Tool("s5cmd", _of_venv("s5cmd"), _s5cmd, ("version",)),
        Tool("rclone", _of_venv("rclone"), _rclone, ("version",)),
        Tool("aws", _of_venv("aws"), _aws, ("--version",)),
        Tool("s3cmd", _of_system("s3cmd"), _s3cmd, ("--version",)),
        Tool("restic", _of_system("restic"), _restic, ("version",)),
        Tool("borg (folder)", _of_system("borg"), _borg, ("--version",)),
        # One request after another: what a loop of a few lines does. Large files say nothing there.
        Tool("naive loop", sys.executable, _naive, ("--version",), frozenset({"small", "real"})),
    ]


def asyncbackup(
    name: str, source: Path, *, packed: bool = False, encrypted: bool = False, to_folder: bool = False
) -> Tool:
    """asyncbackup as the tree ``source`` has it, a mirror or packed; packs are compressed, a mirror is not.

    ``to_folder`` saves to a folder beside the tool's configuration instead of the endpoint's bucket.
    """

    def plan(tool: Tool, place: Place) -> Plan:
        secret, config = place.work / "passphrase", place.work / "asyncbackup.toml"
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE)
        repository = place.work / "repository"
        lines = [f'state_dir = "{place.work}/state"', f"concurrency = {place.concurrency}"]
        if to_folder:
            repository.mkdir()
            destination = f"file://{repository}"
        else:
            destination = f"s3://{place.bucket}/backups"
            lines.append(f'[s3]\nendpoint_url = "{place.endpoint}"\nregion = "{REGION}"')
        layout = "packed" if packed else "mirror"
        lines.append(
            f'[sections.tree]\npath = "{place.tree}"\ndestination = "{destination}"\nlayout = "{layout}"'
        )
        if encrypted:
            lines.append(f'[sections.tree.encryption]\nenabled = true\npassphrase_file = "{secret}"')
        config.write_text("\n".join(lines))
        command = [sys.executable, "-m", "asyncbackup", "-c", str(config), "--quiet"]
        return Plan(
            prepare=([*command, "initdb"],),
            first=[*command, "run"],
            unchanged=[*command, "run"],
            restored=[*command, "restore", "tree", "--target", str(place.target)],
            restored_at=place.target,
            environment={"PYTHONPATH": str(source)},
            folder=repository if to_folder else None,
        )

    return Tool(name, sys.executable, plan, ("-m", "asyncbackup", "--version"))


def _s5cmd(tool: Tool, place: Place) -> Plan:
    command = [
        tool.program, "--endpoint-url", place.endpoint, "--log", "error",
        "--numworkers", str(place.concurrency),
    ]  # fmt: skip
    tree, remote = f"{place.tree}/", f"s3://{place.bucket}/t/"
    return Plan(
        # As its documentation uploads a folder: sync would list and sort both sides first.
        first=[*command, "cp", tree, remote],
        unchanged=[*command, "sync", tree, remote],
        restored=[*command, "cp", f"{remote}*", f"{place.target}/"],
        restored_at=place.target,
    )


def _rclone(tool: Tool, place: Place) -> Plan:
    at_once = str(place.concurrency)
    command = [
        tool.program, "copy", "--config", os.devnull, "--transfers", at_once, "--checkers", at_once,
        "--s3-provider=Other", f"--s3-endpoint={place.endpoint}", f"--s3-region={REGION}", "--s3-env-auth",
        "--s3-no-check-bucket", "--fast-list",
    ]  # fmt: skip
    remote = f":s3:{place.bucket}/t"
    # As its documentation advises for S3: without these it asks for every object's time.
    quick = ["--use-server-modtime", "--update"]
    return Plan(
        [*command, str(place.tree), remote],
        [*command, *quick, str(place.tree), remote],
        [*command, remote, str(place.target)],
        place.target,
    )


def _aws(tool: Tool, place: Place) -> Plan:
    config = place.work / "aws.ini"
    config.write_text(
        f"[default]\nregion = {REGION}\ns3 =\n  max_concurrent_requests = {place.concurrency}\n"
    )
    command = [tool.program, "--endpoint-url", place.endpoint, "s3", "sync", "--only-show-errors"]
    remote = f"s3://{place.bucket}/t"
    sync = [*command, str(place.tree), remote]
    return Plan(
        sync, sync, [*command, remote, str(place.target)], place.target,
        environment={"AWS_CONFIG_FILE": str(config)},
    )  # fmt: skip


def _s3cmd(tool: Tool, place: Place) -> Plan:
    scheme, _, host = place.endpoint.partition("://")
    config = place.work / "s3cmd.ini"
    config.write_text("[default]\n")
    command = [
        tool.program, "-c", str(config), f"--host={host}", f"--host-bucket={host}", f"--region={REGION}",
        "--ssl" if scheme == "https" else "--no-ssl", "--no-progress", "--quiet",
        f"--access_key={os.environ.get('AWS_ACCESS_KEY_ID', ACCESS_KEY)}",
        f"--secret_key={os.environ.get('AWS_SECRET_ACCESS_KEY', SECRET_KEY)}",
        "sync",
    ]  # fmt: skip
    remote = f"s3://{place.bucket}/t/"
    sync = [*command, f"{place.tree}/", remote]
    return Plan(sync, sync, [*command, remote, f"{place.target}/"], place.target)


def _restic(tool: Tool, place: Place) -> Plan:
    command = [tool.program, "--quiet", "-o", f"s3.connections={place.concurrency}"]
    backup = [*command, "backup", str(place.tree)]
    return Plan(
        prepare=([*command, "init"],),
        first=backup,
        unchanged=backup,
        restored=[*command, "restore", "latest", "--target", str(place.target)],
        restored_at=place.target / place.tree.relative_to("/"),
        environment={
            "RESTIC_REPOSITORY": f"s3:{place.endpoint}/{place.bucket}/r",
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_CACHE_DIR": str(place.work / "cache"),
        },
    )


def _borg(tool: Tool, place: Place) -> Plan:
    repository = place.work / "borg"
    create = [tool.program, "create", "--compression", "zstd,3"]
    return Plan(
        prepare=([tool.program, "init", "--encryption", "repokey-blake2", str(repository)],),
        first=[*create, f"{repository}::first", str(place.tree)],
        unchanged=[*create, f"{repository}::unchanged", str(place.tree)],
        restored=[tool.program, "extract", f"{repository}::unchanged"],
        restored_at=place.target / place.tree.relative_to("/"),
        environment={"BORG_PASSPHRASE": PASSPHRASE, "BORG_BASE_DIR": str(place.work / "borg-base")},
        restore_in=place.target,
        folder=repository,
    )


def _naive(tool: Tool, place: Place) -> Plan:
    command = [tool.program, "-m", "benchmarks.naive", place.endpoint, place.bucket]
    return Plan(
        [*command, "put", str(place.tree)],
        [*command, "look", str(place.tree)],
        [*command, "get", str(place.target)],
        place.target,
        environment={"PYTHONPATH": str(ROOT)},
    )


def _of_venv(name: str) -> str:
    program = PEERS_VENV / "bin" / name
    return str(program) if program.exists() else ""


def _of_system(name: str) -> str:
    for folder in ("/usr/bin", "/usr/local/bin"):
        if (program := Path(folder, name)).exists():
            return str(program)
    return ""
