"""asyncbackup: back up folders to S3 and restore them, from Python.

    import asyncio, asyncbackup
    from pathlib import Path

    async def main() -> None:
        settings = asyncbackup.load_settings(Path("asyncbackup.toml"))
        section = settings.section("home")
        summary = await asyncbackup.run_section(settings, section)
        print(summary.snapshot, summary.files_new, summary.failures)

    asyncio.run(main())

Everything here is imported when it is first used. What is not named in
``__all__`` is private and may change in any version.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from asyncbackup.config import EncryptionSettings, S3Settings, SectionSettings, Settings
    from asyncbackup.config_file import load_settings
    from asyncbackup.engine import run_section
    from asyncbackup.errors import (
        AccessDeniedError,
        AsyncBackupError,
        AuthenticationError,
        CatalogError,
        CatalogMissingError,
        ConfigError,
        FormatError,
        Interrupted,
        KeyUnlockError,
        ObjectMissingError,
        RepositoryMissingError,
        SectionBusyError,
        SourceGuardError,
        StoreError,
        TargetError,
    )
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.initialise import CreatedDatabase, create_database
    from asyncbackup.model import Entry, Extent, Failure, Kind, RunCounters, RunSummary
    from asyncbackup.rebuild.section import rebuild_section
    from asyncbackup.rebuild.summary import RebuildCounters, RebuildSummary, Unrecovered
    from asyncbackup.repository.open import Repository, open_repository
    from asyncbackup.repository.remote import list_remote
    from asyncbackup.repository.snapshots import SnapshotInfo, list_snapshots, resolve_snapshot
    from asyncbackup.restore import RestoreCounters, RestoreSummary, restore_section
    from asyncbackup.verify.section import verify_section
    from asyncbackup.verify.summary import Damage, VerifyCounters, VerifySummary

__all__ = [
    "AccessDeniedError",
    "AsyncBackupError",
    "AuthenticationError",
    "CatalogError",
    "CatalogMissingError",
    "ConfigError",
    "CreatedDatabase",
    "Damage",
    "EncryptionSettings",
    "Entry",
    "Extent",
    "Failure",
    "FormatError",
    "Interrupted",
    "KeyUnlockError",
    "Kind",
    "ObjectMissingError",
    "RebuildCounters",
    "RebuildSummary",
    "Repository",
    "RepositoryMissingError",
    "RestoreCounters",
    "RestoreSummary",
    "RunCounters",
    "RunSummary",
    "S3Settings",
    "SectionBusyError",
    "SectionSettings",
    "Settings",
    "SnapshotInfo",
    "SourceGuardError",
    "StopRequest",
    "StoreError",
    "TargetError",
    "Unrecovered",
    "VerifyCounters",
    "VerifySummary",
    "__version__",
    "create_database",
    "list_remote",
    "list_snapshots",
    "load_settings",
    "open_repository",
    "rebuild_section",
    "resolve_snapshot",
    "restore_section",
    "run_section",
    "verify_section",
]

# Where each name is defined; the import above says the same to type checkers.
_MODULES = {
    "config": ("EncryptionSettings", "S3Settings", "SectionSettings", "Settings"),
    "config_file": ("load_settings",),
    "engine": ("run_section",),
    "errors": ("Interrupted", *(name for name in __all__ if name.endswith("Error"))),
    "flow.stop": ("StopRequest",),
    "initialise": ("CreatedDatabase", "create_database"),
    "model": ("Entry", "Extent", "Failure", "Kind", "RunCounters", "RunSummary"),
    "rebuild.section": ("rebuild_section",),
    "rebuild.summary": ("RebuildCounters", "RebuildSummary", "Unrecovered"),
    "repository.open": ("Repository", "open_repository"),
    "repository.remote": ("list_remote",),
    "repository.snapshots": ("SnapshotInfo", "list_snapshots", "resolve_snapshot"),
    "restore": ("RestoreCounters", "RestoreSummary", "restore_section"),
    "verify.section": ("verify_section",),
    "verify.summary": ("Damage", "VerifyCounters", "VerifySummary"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:
    # Hidden from type checkers, or they would take every misspelt name for granted.
    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
