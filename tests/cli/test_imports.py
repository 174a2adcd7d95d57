"""What a command loads: of what takes long, only what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli
    from tests.servers import S3Endpoint

LIBRARIES = ("aiobotocore", "aiohttp", "botocore")
SCRIPT = f"""
import atexit, sys
from asyncbackup.__main__ import main

@atexit.register
def tell():
    print(sorted(set({LIBRARIES}) & set(sys.modules)), file=sys.stderr)

sys.exit(main())
"""


@pytest.mark.parametrize("encryption", ["", "passphrase_file = 'secret'"], ids=["plain", "encrypted"])
def test_a_first_run_of_large_files_never_loads_the_s3_library(
    cli: Cli, rclone_s3: S3Endpoint, encryption: str
) -> None:
    (cli.folder / "secret").touch(mode=0o600)
    (cli.folder / "secret").write_text("a pass phrase")
    (cli.tree / "large").write_bytes(bytes(range(256)) * 4096 * 20)
    extra = f"[sections.home.encryption]\nenabled = true\n{encryption}\n" if encryption else ""
    cli.section(destination=f"s3://{rclone_s3.fresh_bucket()}/b", extra=extra)
    with (cli.folder / "asyncbackup.toml").open("a") as file:
        file.write(f'[s3]\nendpoint_url = "{rclone_s3.url}"\n')
    for command in ("initdb", "run"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, "--quiet", command],
            env=dict(os.environ),
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stderr.splitlines() == ["[]"], command
