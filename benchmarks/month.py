"""A month of daily runs with forget and prune: what each night writes, and that every kept snapshot is whole.

    python -m benchmarks.month --files 20000 --days 31

Makes a seeded tree, and each night changes, adds, deletes and moves a little of
it (some folders too), runs, forgets all but the last ten snapshots, and prunes
every fifth night. After the last night every kept snapshot is restored and
compared with what the tree was that night: paths, kinds, modes, mtimes, link
targets and SHA-256 of contents. Ends with 1 on any difference.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import stat
import tempfile
from pathlib import Path

import msgspec

from asyncbackup.config import EncryptionSettings, SectionSettings, Settings
from asyncbackup.engine import run_section
from asyncbackup.initialise import create_database
from asyncbackup.prune.forget import forget_section
from asyncbackup.prune.policy import KeepPolicy
from asyncbackup.prune.section import prune_section
from asyncbackup.repository.open import open_repository
from asyncbackup.repository.snapshots import list_snapshots
from asyncbackup.restore import restore_section
from asyncbackup.verify.section import verify_section
from benchmarks.packed_tree import PASSPHRASE, make_tree

KEPT = 10
PRUNE_EVERY = 5


def picture(root: Path) -> str:
    """A digest of everything that a restore has to bring back, folders' times included."""
    digest = hashlib.sha256()
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        facts: list[object] = [str(path.relative_to(root)), status.st_mode, status.st_mtime_ns]
        if stat.S_ISREG(status.st_mode):
            facts.append(hashlib.sha256(path.read_bytes()).hexdigest())
        elif stat.S_ISLNK(status.st_mode):
            facts.append(os.readlink(path))
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def live_a_day(tree: Path, chance: random.Random, changes: int) -> None:
    """Change some files, add some, delete some, move a folder and copy one."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    for path in chance.sample(files, changes):
        match chance.randrange(4):
            case 0:
                path.write_bytes(chance.randbytes(chance.randrange(20_000)))
            case 1:
                (path.parent / f"new-{chance.randrange(10**9)}").write_bytes(chance.randbytes(9_000))
            case 2:
                path.unlink()
            case _:
                path.chmod(chance.choice([0o600, 0o640, 0o644, 0o755]))
    folders = sorted(path for path in tree.iterdir() if path.is_dir())
    moved, copied = chance.sample(folders, 2)
    moved.rename(tree / f"moved-{chance.randrange(10**9)}")
    shutil.copytree(copied, tree / f"copy-{chance.randrange(10**9)}")


async def month(work: Path, arguments: argparse.Namespace) -> int:
    tree, destination = work / "tree", work / "repository"
    make_tree(tree, arguments.files)
    destination.mkdir()
    secret = work / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE)
    section = SectionSettings(
        name="tree",
        path=tree,
        destination=f"file://{destination}",
        packed=arguments.layout == "packed",
        zstd_level=3 if arguments.layout == "packed" else 0,
        encryption=EncryptionSettings(enabled=arguments.encrypted, passphrase_file=secret),
    )
    settings = Settings(state_dir=work / "state", sections={"tree": section})
    await create_database(settings, section)
    chance = random.Random(arguments.seed)  # noqa: S311 - repeatable
    pictures: dict[str, str] = {}
    for day in range(arguments.days):
        if day:
            live_a_day(tree, chance, arguments.changes)
        summary = await run_section(settings, section)
        if summary.failures:
            print(summary.failures)
            return 1
        pictures[summary.snapshot] = picture(tree)
        row = {
            "day": day,
            "files": summary.files_scanned,
            "new": summary.files_new,
            "changed": summary.files_changed,
            "deleted": summary.files_deleted,
            "uploaded": summary.bytes_uploaded,
            "requests": sum(summary.requests.values()),
            "manifest": summary.manifest_bytes,
        }
        await forget_section(settings, section, KeepPolicy(last=KEPT))
        if day % PRUNE_EVERY == PRUNE_EVERY - 1 or day == arguments.days - 1:
            pruned = await prune_section(settings, section)
            row |= {
                "pruned_objects": pruned.objects_deleted,
                "pruned_bytes": pruned.bytes_deleted,
                "packs_rewritten": pruned.packs_rewritten,
                "manifests_rewritten": pruned.manifests_rewritten,
            }
        print(json.dumps(row), flush=True)
    async with open_repository(settings, section) as repository:
        kept = [info.id for info in await list_snapshots(repository)]
    wrong = 0
    for snapshot in kept:
        target = work / "restored"
        restored = await restore_section(settings, section, snapshot=snapshot, target=target)
        same = not restored.failures and picture(target) == pictures[snapshot]
        wrong += not same
        print(f"{snapshot}: {'the same' if same else 'DIFFERS'}, {sum(restored.requests.values())} requests")
        shutil.rmtree(target)
    checked = await verify_section(settings, section, read_percent=100)
    print(f"verify: {checked.objects} objects, {checked.bytes:,} bytes, {checked.damaged_objects} damaged")
    print(msgspec.json.encode({"kept": len(kept), "wrong": wrong}).decode())
    return 1 if wrong or checked.damaged_objects else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--changes", type=int, default=200, help="a day, besides a moved and a copied folder")
    parser.add_argument("--layout", choices=("packed", "mirror"), default="packed")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where everything is put; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="asyncbackup-month-") as name:
        return asyncio.run(month(Path(name), arguments))


if __name__ == "__main__":
    raise SystemExit(main())
