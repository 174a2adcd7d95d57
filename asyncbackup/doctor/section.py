"""One section on this machine: source, state folder, database, secret."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from typing import TYPE_CHECKING

from asyncbackup.catalog.catalog import Catalog
from asyncbackup.destination import local_folder
from asyncbackup.doctor.findings import Finding, note, ok, problem
from asyncbackup.errors import (
    CatalogError,
    CatalogMissingError,
    ConfigError,
    FormatError,
    KeyUnlockError,
    RepositoryMissingError,
    SectionBusyError,
    StoreError,
)
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.secrets import names_secret
from asyncbackup.text import local_path
from asyncbackup.units import format_size

if TYPE_CHECKING:
    from asyncbackup.config import SectionSettings, Settings

FULL_BYTES = 64 * 1024**2
LOW_BYTES = 1024**3
"""A database of a million files takes about half of it, and a run some of the rest."""


def examine_state(settings: Settings) -> list[Finding]:
    """The folder of the databases: writable, private, with room."""
    folder = settings.state_dir
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    shown = local_path(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [
            problem(
                "state-folder",
                f"{shown} cannot be written to",
                "make it writable, or set state_dir in the configuration",
            )
        ]
    found: list[Finding] = []
    if there != folder:
        found.append(ok("state-folder", f"{shown} is not there yet; initdb makes it"))
    elif (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        found.append(
            note(
                "state-folder",
                f"others may look into {shown} (mode {mode:04o}), where databases name every file",
                f"chmod 700 {shlex.quote(str(folder))}",
            )
        )
    else:
        found.append(ok("state-folder", f"{shown} is writable and private"))
    free = shutil.disk_usage(there).free
    text = f"{format_size(free)} are free for databases"
    if free < FULL_BYTES:
        found.append(problem("state-space", text, "free some, or set state_dir to another disk"))
    elif free < LOW_BYTES:
        found.append(note("state-space", text, "a database takes about 500 bytes a file"))
    else:
        found.append(ok("state-space", text))
    return found


def examine_source(section: SectionSettings) -> list[Finding]:
    """The tree that is to be saved."""
    shown = local_path(section.path)
    try:
        with os.scandir(section.path) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        return [
            problem(
                "source",
                f"{shown} cannot be listed: {error.strerror}",
                "mount it, make it readable, or correct 'path' in the configuration",
            )
        ]
    found = [note("source", f"{shown} is empty", "mount the disk, if one belongs there")] if empty else []
    folder = local_folder(section.destination)
    try:
        if folder is not None and folder.stat().st_dev == section.path.stat().st_dev:
            found.append(
                note(
                    "destination-disk",
                    f"{local_path(folder)} lies on the same file system as {shown}",
                    "keep a copy elsewhere too: a disk takes both with it",
                )
            )
    except OSError:
        pass  # What is wrong with the destination is said where it is looked at.
    return found or [ok("source", f"{shown} can be listed")]


async def examine_database(settings: Settings, section: SectionSettings) -> list[Finding]:
    """The section's database: there, of this section, and sound."""
    path = settings.database_path(section.name)
    name = section.name
    try:
        async with Catalog.open(path, section=name, destination=section.destination) as catalog:
            damage = await catalog.damage()
    except CatalogMissingError:
        advice = (
            f"'asyncbackup initdb {name}' for a new section, 'syncdb_remote {name}' for one with snapshots"
        )
        return [note("database", f"there is no database {local_path(path)} yet", advice)]
    except SectionBusyError:
        return [note("database", "a run holds the database; it was not looked at", "ask again later")]
    except CatalogError as error:
        return [problem("database", str(error), f"'asyncbackup syncdb_remote {name}' rebuilds it")]
    if damage:
        advice = f"move {local_path(path)} away, then 'asyncbackup syncdb_remote {name}'"
        return [problem("database", f"{local_path(path)} is damaged: {damage[0]}", advice)]
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return [
            note(
                "database",
                f"others may read {local_path(path)} (mode {mode:04o})",
                f"chmod 600 {shlex.quote(str(path))}",
            )
        ]
    return [ok("database", f"{local_path(path)} is sound")]


def examine_secret_files(section: SectionSettings) -> list[Finding]:
    """Who may read the file of the secret, if it lies in one."""
    path = section.encryption.passphrase_file or section.encryption.key_file
    if path is None:
        return []
    try:
        status = path.stat()
    except OSError as error:
        return [
            problem(
                "secret-file",
                f"{local_path(path)}: {error.strerror}",
                "put the secret there, or correct its place in the configuration",
            )
        ]
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        return [
            note(
                "secret-file",
                f"{local_path(path)} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                f"chmod 600 {shlex.quote(str(path))}",
            )
        ]
    return [ok("secret-file", f"{local_path(path)} is private")]


async def examine_repository(settings: Settings, section: SectionSettings) -> list[Finding]:
    """What is at the destination already, and whether the secret opens it. The destination is reachable."""
    secret = section.encryption.enabled or names_secret(section.encryption)
    try:
        async with open_repository(settings, section) as repository:
            if not secret:
                return [
                    ok("repository", f"{section.destination} holds repository {repository.repository_id}")
                ]
            if repository.key is None:
                return [ok("secret", "the secret can be read; the repository has no key slot for it to open")]
            return [ok("secret", "the secret opens the repository")]
    except RepositoryMissingError:
        advice = f"'asyncbackup initdb {section.name}' makes one"
        return [note("repository", f"{section.destination} holds no repository yet", advice)]
    except (KeyUnlockError, ConfigError) as error:
        advice = "'asyncbackup key list' shows the slots; docs/operations.md, Encryption"
        return [problem("secret", str(error), advice)]
    except FormatError as error:
        return [problem("repository", str(error), "docs/operations.md, Recovery")]
    except StoreError as error:
        return [note("repository", f"could not be looked at: {error}")]
