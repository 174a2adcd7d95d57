"""Typed settings. ``config_file.py`` reads and validates them from TOML."""

from __future__ import annotations

from pathlib import Path

import msgspec

MIB = 1024 * 1024

AUTO_CONCURRENCY = 192
"""The most requests at once that ``concurrency = "auto"`` may come to. The connection pool, the stages
and the threads are made for it; with the files that a run has open the process stays under 256."""


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an S3 endpoint; empty values leave the choice to the usual AWS chain."""

    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    addressing_style: str = "auto"
    transfer: str = "lean"
    """What sends and reads contents: asyncbackup itself, or ``aiobotocore`` as for everything else."""
    allow_plain_http: bool = False
    timeout_seconds: float = 60.0
    max_attempts: int = 8


class EncryptionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the secret of an encrypted section comes from; exactly one source is set when enabled."""

    enabled: bool = False
    passphrase_file: Path | None = None
    passphrase_env: str = ""
    passphrase_command: str = ""
    key_file: Path | None = None
    hide_names: bool = False
    """Whether names and metadata are hidden too (``encrypt_names``)."""


class SectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One tree and where it goes. ``path`` is absolute; ``destination`` a checked URL.

    ``packed`` is the layout: files below ``pack_below_bytes`` share packs.
    ``zstd_level`` is 0 where nothing is compressed.
    """

    name: str
    path: Path
    destination: str
    exclude: tuple[str, ...] = ()
    packed: bool = False
    pack_below_bytes: int = MIB
    zstd_level: int = 0
    storage_class: str = "STANDARD"
    one_file_system: bool = False
    allow_empty_source: bool = False
    encryption: EncryptionSettings = EncryptionSettings()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one command works with. ``concurrency`` is S3 requests at once (with
    ``adaptive`` the most there may be, as many as serve the endpoint best are used),
    ``memory_limit_bytes`` the file bytes in flight at once. Of a changed file of at least
    ``delta_from_bytes`` only the parts that differ are sent."""

    state_dir: Path
    concurrency: int = 32
    adaptive: bool = False
    memory_limit_bytes: int = 64 * MIB
    part_size_bytes: int = 8 * MIB
    delta_from_bytes: int = 64 * MIB
    s3: S3Settings = S3Settings()
    sections: dict[str, SectionSettings] = {}

    def section(self, name: str) -> SectionSettings:
        """The section of that name. Raises ``KeyError``."""
        return self.sections[name]

    def with_concurrency(self, number: int | None) -> Settings:
        """The same with that many requests at once, or with ``None`` as many as serve the endpoint best."""
        if number is None:
            return msgspec.structs.replace(self, concurrency=AUTO_CONCURRENCY, adaptive=True)
        return msgspec.structs.replace(self, concurrency=number, adaptive=False)

    def database_path(self, section: str) -> Path:
        """Where the section's catalog lies."""
        return self.state_dir / f"{section}.sqlite3"
