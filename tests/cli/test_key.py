"""``key``: what its commands print, ask and refuse, from the command line to the destination and back."""

from __future__ import annotations

import asyncio
import os
import pty
from typing import TYPE_CHECKING

import pytest

from asyncbackup.format.descriptor import decode_descriptor

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli

OLD, NEW = "canary-old-passphrase", "canary-new-passphrase"


def secret_file(cli: Cli, name: str, text: str) -> Path:
    path = cli.folder / name
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


@pytest.fixture
def sealed(cli: Cli) -> Cli:
    """A section with one snapshot, encrypted with the pass phrase ``OLD``."""
    secret_file(cli, "secret", OLD)
    encrypt(cli)
    assert cli.run("initdb").code == 0
    assert cli.run("run").code == 0
    return cli


def encrypt(cli: Cli, *, enabled: bool = True) -> None:
    (cli.folder / "asyncbackup.toml").unlink(missing_ok=True)
    cli.section(
        extra=f'[sections.home.encryption]\nenabled = {str(enabled).lower()}\npassphrase_file = "secret"'
    )


def slot_ids(cli: Cli) -> list[str]:
    data = (cli.folder / "destination" / "asyncbackup.json").read_bytes()
    return [slot.id for slot in decode_descriptor(data).slots]


def test_a_pass_phrase_is_rotated_and_the_next_run_uploads_nothing(sealed: Cli) -> None:
    new = secret_file(sealed, "new", NEW)
    done = sealed.run("key", "rotate", "--new-passphrase-file", str(new), "--label", "2027")
    assert done.code == 0
    assert "1 key slot now" in done.stdout
    assert "put the new secret where the configuration looks for it" in done.stderr
    assert "sections.home.encryption.passphrase_file" in done.stderr
    refused = sealed.run("run")
    assert refused.code == 1
    assert "opens none of the repository's 1 key slot" in refused.stderr
    secret_file(sealed, "secret", NEW)
    ran = sealed.run("run", "--json")
    assert ran.code == 0
    assert ran.summary["bytes_uploaded"] == 0
    assert sealed.run("restore", "--target", "back").code == 0
    assert (sealed.folder / "back" / "docs" / "report.txt").read_text() == "a report\n"
    listed = sealed.run("key", "list")
    assert "2027  (opened by the configuration)" in listed.stdout
    for finished in (done, refused, ran, listed):
        assert "canary" not in finished.stdout + finished.stderr


def test_slots_as_json(sealed: Cli) -> None:
    secret_file(sealed, "new", NEW)
    added = sealed.run("key", "add", "--new-passphrase-file", "new", "--label", "safe", "--json")
    assert added.code == 0
    first, second = slot_ids(sealed)
    assert added.summary["added"] == second
    listed = sealed.run("key", "list", "home", "--json")
    assert [event["event"] for event in listed.events] == ["key_slot", "key_slot", "summary"]
    shown = [(event["id"], event["kind"], event["label"], event["configured"]) for event in listed.events[:2]]
    assert shown == [(first, "passphrase", "", True), (second, "passphrase", "safe", False)]
    assert listed.summary["configured"] == [first]
    removed = sealed.run("key", "remove", second[:8], "--json")
    assert removed.code == 0
    assert removed.summary["removed"] == [second]
    assert slot_ids(sealed) == [first]


def test_what_remove_refuses(sealed: Cli) -> None:
    (mine,) = slot_ids(sealed)
    last = sealed.run("key", "remove", "home", mine, "--force")
    assert (last.code, "the last key slot is never removed" in last.stderr) == (2, True)
    secret_file(sealed, "new", NEW)
    assert sealed.run("key", "add", "--new-passphrase-file", "new").code == 0
    used = sealed.run("key", "remove", mine)
    assert (used.code, "--force removes it nevertheless" in used.stderr) == (2, True)
    assert len(slot_ids(sealed)) == 2
    forced = sealed.run("key", "remove", mine, "--force")
    assert forced.code == 0
    assert "the secret of the configuration opens the repository no more" in forced.stderr
    assert sealed.run("key", "remove", "a", "b", "c").code == 2


def test_a_wrong_secret_is_shown_as_such(sealed: Cli) -> None:
    secret_file(sealed, "secret", "another")
    listed = sealed.run("key", "list")
    assert listed.code == 1
    assert slot_ids(sealed)[0] in listed.stdout
    assert "the secret opens none of the 1 key slot" in listed.stderr
    secret_file(sealed, "new", NEW)
    assert sealed.run("key", "add", "--new-passphrase-file", "new").code == 1
    assert sealed.run("key", "rotate", "--new-passphrase-file", "new").code == 1


def test_secrets_from_a_variable_a_command_and_a_key_file(
    sealed: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEW_SECRET", "from a variable")
    assert sealed.run("key", "add", "--new-passphrase-env", "NEW_SECRET").code == 0
    assert sealed.run("key", "add", "--new-passphrase-command", "echo from a command").code == 0
    (sealed.folder / "short").write_bytes(b"x" * 31)
    short = sealed.run("key", "add", "--new-key-file", "short")
    assert short.code == 2
    assert "--new-key-file: short holds 31 bytes" in short.stderr
    missing = sealed.run("key", "add", "--new-passphrase-env", "NOT_SET")
    assert missing.code == 2
    assert "--new-passphrase-env: the environment variable NOT_SET is not set" in missing.stderr
    assert "or use --new-passphrase-file" in missing.stderr
    for text in ("from a variable", "from a command"):
        secret_file(sealed, "secret", text)
        assert sealed.run("key", "list").code == 0
        assert sealed.run("key", "add", "--new-passphrase-env", "NEW_SECRET").code == 2, "opens one already"
    failing = sealed.run("key", "add", "--new-passphrase-command", "false")
    assert (failing.code, "failed with exit status 1" in failing.stderr) == (1, True)
    assert len(slot_ids(sealed)) == 3


def test_the_first_slot_of_a_repository_that_was_not_encrypted(cli: Cli) -> None:
    cli.section()
    assert cli.run("initdb").code == 0
    assert cli.run("run").code == 0
    plain = cli.run("key", "list")
    assert (plain.code, "nothing is encrypted at this destination" in plain.stderr) == (0, True)
    secret_file(cli, "secret", OLD)
    encrypt(cli)
    refused = cli.run("run")
    assert refused.code == 1
    assert "'asyncbackup key add home' adds one" in refused.stderr
    added = cli.run("key", "add", "home", "--label", "first")
    assert added.code == 0
    assert f"first key slot {slot_ids(cli)[0]} added" in added.stdout
    assert "first  (opened by the configuration)" in cli.run("key", "list").stdout
    again = cli.run("key", "add", "home")
    assert again.code == 2, "there is one, so a new secret is needed, and no terminal to ask for it"
    assert len(slot_ids(cli)) == 1


def test_a_section_that_is_not_encrypted_gets_no_slot(cli: Cli) -> None:
    secret_file(cli, "secret", OLD)
    encrypt(cli, enabled=False)
    assert cli.run("initdb").code == 0
    secret_file(cli, "new", NEW)
    assert cli.run("key", "add", "--new-passphrase-file", "new").code == 1
    assert slot_ids(cli) == []


async def test_a_pass_phrase_is_asked_for_twice_and_not_shown(sealed: Cli) -> None:
    master, terminal = pty.openpty()
    try:
        process = await sealed.start("key", "rotate", "home", stdin=terminal)
        assert process.stderr is not None
        for typed, prompt in ((NEW, b"New pass phrase: "), (NEW, b"Once more: ")):
            shown = await process.stderr.readuntil(prompt)
            assert b"canary" not in shown
            os.write(master, typed.encode() + b"\n")
        out, err = await process.communicate()
        assert process.returncode == 0, err
        assert NEW.encode() not in out + err
    finally:
        os.close(master)
        os.close(terminal)
    secret_file(sealed, "secret", NEW)
    listed = await asyncio.to_thread(sealed.run, "key", "list")
    assert listed.code == 0
