"""A section with a tree, a destination and a database of its own, for tests of whole runs."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from asyncbackup.config import EncryptionSettings, S3Settings, SectionSettings, Settings
from asyncbackup.engine import run_section
from asyncbackup.initialise import create_database
from asyncbackup.repository.create import create_repository
from asyncbackup.repository.manifests import read_manifest
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.snapshots import list_snapshots
from asyncbackup.restore import restore_section

if TYPE_CHECKING:
    from asyncbackup.flow.side_process import SideProcess
    from asyncbackup.flow.stop import StopRequest
    from asyncbackup.model import Entry, Pack, RunSummary
    from asyncbackup.restore import RestoreSummary

PASSPHRASE = "correct horse battery staple"
MIB = 1024 * 1024


class Workbench:
    """``tree`` is the source; ``run`` saves it, ``restored`` restores it beside."""

    def __init__(
        self, base: Path, destination: str, *, s3: S3Settings | None = None, encrypted: bool = False
    ) -> None:
        self.base = base
        self.tree = base / "tree"
        self.tree.mkdir()
        encryption = EncryptionSettings()
        if encrypted:
            secret = base / "passphrase"
            secret.touch(mode=0o600)
            secret.write_text(PASSPHRASE + "\n")
            encryption = EncryptionSettings(enabled=True, passphrase_file=secret)
        self.section = SectionSettings(
            name="home", path=self.tree, destination=destination, encryption=encryption
        )
        self.settings = Settings(
            state_dir=base / "state",
            concurrency=8,
            memory_limit_bytes=32 * MIB,
            part_size_bytes=5 * MIB,
            s3=s3 or S3Settings(),
            sections={"home": self.section},
        )

    def configure(self, **changes: object) -> None:
        """Change fields of the section."""
        self.section = msgspec.structs.replace(self.section, **changes)

    async def initialise(self) -> None:
        await create_database(self.settings, self.section)

    async def initialise_again(self) -> None:
        """What ``initdb`` does to a repository that is there: a key slot where one is wanted now."""
        await create_repository(self.settings, self.section)

    async def run(
        self,
        *,
        dry_run: bool = False,
        checksum: bool = False,
        stop: StopRequest | None = None,
        reading: SideProcess | None = None,
    ) -> RunSummary:
        return await run_section(
            self.settings, self.section, dry_run=dry_run, checksum=checksum, stop=stop, reading=reading
        )

    async def restored(
        self, *, snapshot: str = "latest", name: str = "restored", privileged: bool = False
    ) -> Path:
        """A folder that holds the snapshot."""
        target = self.base / name
        summary = await self.restore(target, snapshot=snapshot, privileged=privileged)
        assert not summary.failures
        return target

    async def restore(
        self, target: Path, *, snapshot: str = "latest", privileged: bool = False
    ) -> RestoreSummary:
        return await restore_section(
            self.settings,
            self.section,
            paths=(),
            snapshot=snapshot,
            target=target,
            include=(),
            exclude=(),
            overwrite="always",
            dry_run=False,
            privileged=privileged,
        )

    async def entries(self, snapshot: str | None = None) -> dict[bytes, Entry]:
        """What a snapshot holds, the newest unless one is named."""
        async with open_repository(self.settings, self.section) as repository:
            run = snapshot or (await list_snapshots(repository))[-1].id
            return {e.path: e async for page in read_manifest(repository, run) for e in page}

    async def packs(self, snapshot: str | None = None) -> list[Pack]:
        """The packs that a snapshot's manifests describe, the newest's unless one is named."""
        found: list[Pack] = []

        async def take(packs: list[Pack]) -> None:
            found.extend(packs)

        async with open_repository(self.settings, self.section) as repository:
            run = snapshot or (await list_snapshots(repository))[-1].id
            async for _ in read_manifest(repository, run, on_packs=take):
                pass
        return found

    async def snapshots(self) -> list[str]:
        async with open_repository(self.settings, self.section) as repository:
            return [info.id for info in await list_snapshots(repository)]

    def config_file(self, *, endpoint_url: str = "", name: str = "asyncbackup") -> Path:
        """The same set-up as a configuration file, for runs in a process of their own. Of several at
        once each needs a ``name``."""
        encryption = self.section.encryption
        path = self.base / f"{name}.toml"
        url = endpoint_url or self.settings.s3.endpoint_url
        path.write_text(
            f"""
state_dir = "{self.settings.state_dir}"
concurrency = {self.settings.concurrency}
memory_limit = {self.settings.memory_limit_bytes}
part_size = {self.settings.part_size_bytes}
[s3]
{f'endpoint_url = "{url}"' if url else ""}
region = "us-east-1"
[sections.{self.section.name}]
path = "{self.tree}"
destination = "{self.section.destination}"
layout = "{"packed" if self.section.packed else "mirror"}"
compression = "{f"zstd:{self.section.zstd_level}" if self.section.zstd_level else "none"}"
[sections.{self.section.name}.encryption]
enabled = {str(encryption.enabled).lower()}
"""
            + (f'passphrase_file = "{encryption.passphrase_file}"\n' if encryption.enabled else "")
        )
        return path

    def write(self, name: str | bytes, content: bytes = b"content", *, mode: int = 0o644) -> Path:
        """A file of the tree, with the folders above it."""
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.tree), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path


def age(path: Path, *, seconds: int = 1000) -> None:
    """Move a file's mtime into the past; its ctime moves to now."""
    status = path.lstat()
    os.utime(
        path,
        ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 1_000_000_000),
        follow_symlinks=False,
    )


def picture(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about a tree that a restore has to bring back, by path. Folders' times included."""
    seen: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)

    def look(path: bytes) -> None:
        status = os.lstat(path)
        name = os.path.relpath(path, top)
        linked: bytes | None = None
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            linked = inodes.setdefault((status.st_dev, status.st_ino), name)
        content: bytes | None = None
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs: dict[str, bytes] = {}
        with contextlib.suppress(OSError):
            for attribute in os.listxattr(path, follow_symlinks=False):
                xattrs[attribute] = os.getxattr(path, attribute, follow_symlinks=False)
        seen[name] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            linked,
            content,
            tuple(sorted(xattrs.items())),
        )
        if stat.S_ISDIR(status.st_mode):
            for child in sorted(os.listdir(path)):
                look(os.path.join(path, child))

    look(top)
    return seen
