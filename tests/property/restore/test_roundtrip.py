"""Any tree, saved and restored, is the same tree."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.restore.backup import Backup, snapshot_of

NAMES = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.sampled_from(
        [b"%2F", b"100%", b"..foo", b".hidden", b" ", b"a\\b", b"\xff", b"\n", b"\x1b[31m", b"n" * 255]
    ),
    st.text("aA\u00e9e\u0301", min_size=1, max_size=3).map(str.encode),
).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.integers(0, 70_000)),
    st.builds(lambda zeros, end: bytes(zeros) + end, st.integers(0, 40_000), st.binary(max_size=9)),
)
TIMES = st.integers(-(2**31) * 10**9, 15 * 10**18)
XATTRS = st.dictionaries(
    st.from_regex(r"user\.[a-z%:]{1,8}", fullmatch=True).map(str.encode), st.binary(max_size=50), max_size=2
)
FILE_MODES = st.integers(0, 0o7777).map(lambda mode: mode | 0o400)
FOLDER_MODES = st.integers(0, 0o7777).map(lambda mode: mode | 0o700)

FILES = st.tuples(st.just("file"), CONTENTS, FILE_MODES, TIMES, XATTRS)
LINKS = st.tuples(st.just("symlink"), NAMES, TIMES)
HARD_LINKS = st.tuples(st.just("hard link"), st.integers(0, 10))
ENTRIES = st.recursive(
    st.one_of(FILES, LINKS, HARD_LINKS),
    lambda below: st.tuples(
        st.just("folder"), st.dictionaries(NAMES, below, max_size=5), FOLDER_MODES, TIMES, XATTRS
    ),
    max_leaves=12,
)
TREES = st.dictionaries(NAMES, ENTRIES, max_size=6)


class TreeMaker:
    """Puts a drawn tree on disk."""

    def __init__(self) -> None:
        self._files: list[bytes] = []

    def make(self, root: bytes, tree: dict[bytes, tuple]) -> None:  # type: ignore[type-arg]
        for name, (kind, *fields) in tree.items():
            path = os.path.join(root, name)
            if kind == "folder":
                below, mode, mtime_ns, xattrs = fields
                os.mkdir(path)
                self.make(path, below)
                self._finish(path, mode, mtime_ns, xattrs)
            elif kind == "file":
                content, mode, mtime_ns, xattrs = fields
                Path(os.fsdecode(path)).write_bytes(content)
                self._finish(path, mode, mtime_ns, xattrs)
                self._files.append(path)
            elif kind == "symlink":
                os.symlink(fields[0], path)
                os.utime(path, ns=(0, fields[1]), follow_symlinks=False)
            elif self._files:
                os.link(self._files[fields[0] % len(self._files)], path)

    @staticmethod
    def _finish(path: bytes, mode: int, mtime_ns: int, xattrs: dict[bytes, bytes]) -> None:
        for name, value in xattrs.items():
            os.setxattr(path, name, value)
        os.chmod(path, mode)
        os.utime(path, ns=(0, mtime_ns))


@given(tree=TREES, encrypted=st.booleans(), memory=st.sampled_from([16 * 1024, 64 * 1024 * 1024]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_comes_back_as_it_was(tree: dict[bytes, tuple], encrypted: bool, memory: int) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as base:
        backup = Backup(Path(base), encrypted=encrypted, memory_limit_bytes=memory)
        TreeMaker().make(os.fsencode(backup.source), tree)
        wanted = snapshot_of(backup.source)

        async def there_and_back() -> None:
            await backup.create()
            await backup.save_tree()
            # Whatever stood there before: the tree itself, changed.
            summary = await backup.restore(privileged=True)
            assert summary.failures == ()
            assert snapshot_of(backup.target) == wanted
            spoil(backup.target)
            summary = await backup.restore(privileged=True)
            assert summary.failures == ()

        asyncio.run(there_and_back())
        assert snapshot_of(backup.target) == wanted


def spoil(root: Path) -> None:
    """Change something about every entry of a tree, but leave folders' contents alone."""
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            path.unlink()
        elif stat.S_ISREG(mode):
            path.chmod(0o600)
            path.write_bytes(b"spoilt")
        else:
            path.chmod(0o777)
            os.setxattr(path, "user.spoilt", b"1")
