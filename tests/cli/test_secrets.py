"""No secret appears in what a command prints, not even with --debug and where it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Finished
    from tests.servers import S3Endpoint


def test_no_secret_is_shown_at_debug(cli: Cli, seaweed_s3: S3Endpoint) -> None:
    bucket = seaweed_s3.fresh_bucket()
    secret = cli.folder / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("canary-passphrase\n")
    cli.configure(f'state_dir = "state"\n[s3]\nendpoint_url = "{seaweed_s3.url}"\nregion = "us-east-1"\n')
    cli.section(
        "sealed",
        destination=f"s3://{bucket}/sealed",
        extra=f'[sections.sealed.encryption]\nenabled = true\npassphrase_file = "{secret}"\n',
    )
    cli.section("broken", destination="s3://no-such-bucket-of-this-name")
    shown: list[Finished] = []
    for command in (["initdb", "sealed"], ["run", "sealed"], ["restore", "sealed", "--target", "back"]):
        shown.append(cli.run(*command, "--debug"))
        assert shown[-1].code == 0, shown[-1].stderr
    assert (cli.folder / "back" / "docs" / "report.txt").read_text() == "a report\n"
    broken = cli.run("initdb", "broken", "--debug")
    assert broken.code == 1
    assert "Traceback" in broken.stderr
    secret.write_text("canary-of-another-kind\n")
    locked = cli.run("ls", "sealed", "--debug")
    assert locked.code == 1
    for finished in (*shown, broken, locked):
        for word in (seaweed_s3.secret_key, seaweed_s3.access_key, "canary", "AWS4-HMAC", "Signature="):
            assert word not in finished.stdout + finished.stderr
