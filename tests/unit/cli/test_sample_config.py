"""The sample configuration is complete, true, and accepted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from asyncbackup.config import EncryptionSettings, S3Settings, SectionSettings, Settings
from asyncbackup.config_file import default_state_dir, load_settings

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[3]
WITHOUT_KEY = {"adaptive", "delta_from_bytes"}
"""Settings that tests change and users need not."""
RENAMED = {"packed": "layout", "pack_below_bytes": "pack_below", "zstd_level": "compression"}
SAMPLE = ROOT / "config.sample.toml"


def test_the_sample_is_accepted() -> None:
    settings = load_settings(SAMPLE)
    assert settings.section("home").destination == "s3://my-bucket/backups"


def test_every_setting_is_in_the_sample() -> None:
    text = SAMPLE.read_text()
    named = set(re.findall(r"^(?:# )?([a-z0-9_]+) = ", text, re.MULTILINE))
    fields = {
        *(
            set(Settings.__struct_fields__)
            - {"s3", "sections", *WITHOUT_KEY, "memory_limit_bytes", "part_size_bytes"}
        ),
        *S3Settings.__struct_fields__,
        *(set(SectionSettings.__struct_fields__) - {"name", "encryption", *RENAMED}),
        *(set(EncryptionSettings.__struct_fields__) - {"hide_names"}),
    }
    assert named == fields | {"memory_limit", "part_size", *RENAMED.values(), "encrypt_names"}


def test_values_that_are_no_examples_are_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    kept = [
        line
        for line in SAMPLE.read_text().splitlines()
        if "# example" not in line or line.startswith(("path", "destination"))
    ]
    file = tmp_path / "asyncbackup.toml"
    file.write_text("\n".join(kept))
    section = SectionSettings(name="home", path=Path("/home/me"), destination="s3://my-bucket/backups")
    assert load_settings(file) == Settings(state_dir=default_state_dir(), sections={"home": section})
