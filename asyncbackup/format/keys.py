"""Every key that asyncbackup writes, relative to the destination (docs/format.md, "Keys")."""

from __future__ import annotations

import re
from hashlib import sha256

from asyncbackup.errors import ConfigError, FormatError
from asyncbackup.format.escape import escape_path, unescape
from asyncbackup.format.runid import is_run_id
from asyncbackup.model import PACKS, Extent, Kind, ObjectKey, RunId

DESCRIPTOR_KEY = ObjectKey("asyncbackup.json")
README_KEY = ObjectKey("RESTORE.md")

MAX_KEY_BYTES = 1024
"""S3's limit for a whole key, the destination's own prefix included."""
MAX_SEGMENT_BYTES = 255
"""What a file system, and a server that keeps objects in one, allows between two slashes."""

FILES = "files/"
LONG = "long/"
LONG_PATH_SUFFIX = ".path"
_SNAPSHOT_SUFFIX = ".jsonl.zst"

_REVISION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_LONG_KEY = re.compile(r"long/[0-9a-f]{64}", re.ASCII)
_SECTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", re.ASCII)
_RESERVED = frozenset({"asyncbackup.json", "restore.md"})


def check_section_name(name: str) -> None:
    """Raises :class:`ConfigError` unless ``name`` can be a section's folder at every destination."""
    if _SECTION.fullmatch(name) is None or name.lower() in _RESERVED:
        raise ConfigError(
            f"section name {name!r}: accepted are 1 to 64 ASCII letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit and not ending with '.', "
            f"except {DESCRIPTOR_KEY!r} and {README_KEY!r}"
        )


def snapshots_prefix(section: str) -> str:
    """The folder of the section's manifests."""
    return f"{section}/snapshots/"


def snapshot_key(section: str, run: str, revision: int = 0) -> ObjectKey:
    """Where the manifest of ``run`` lies, in one of its revisions."""
    number = f".{revision}" if revision else ""
    return ObjectKey(f"{section}/snapshots/{run}{number}{_SNAPSHOT_SUFFIX}")


def run_of_snapshot_key(section: str, key: str) -> RunId | None:
    """The run whose manifest ``key`` is, in whichever revision, or ``None`` for every other key."""
    found = revision_of_snapshot_key(section, key)
    return None if found is None else found[0]


def revision_of_snapshot_key(section: str, key: str) -> tuple[RunId, int] | None:
    """The run whose manifest ``key`` is, and its revision; ``None`` for every other key."""
    prefix = snapshots_prefix(section)
    if not key.startswith(prefix) or not key.endswith(_SNAPSHOT_SUFFIX):
        return None
    run, dot, revision = key[len(prefix) : -len(_SNAPSHOT_SUFFIX)].partition(".")
    if not is_run_id(run) or (dot and _REVISION.fullmatch(revision) is None):
        return None
    return RunId(run), int(revision or 0)


def forgotten_prefix(section: str) -> str:
    """The folder of the marks of forgotten snapshots."""
    return f"{section}/forgotten/"


def forgotten_key(section: str, run: str) -> ObjectKey:
    """The mark that the snapshot of ``run`` is forgotten."""
    return ObjectKey(forgotten_prefix(section) + run)


def runs_prefix(section: str) -> str:
    """The folder of the marks of runs that began."""
    return f"{section}/runs/"


def run_mark_key(section: str, run: str) -> ObjectKey:
    """The mark that ``run`` began."""
    return ObjectKey(f"{runs_prefix(section)}{run}.json")


def prunes_prefix(section: str) -> str:
    """The folder of the marks of prunes."""
    return f"{section}/prunes/"


def prune_mark_key(section: str, prune: str) -> ObjectKey:
    """The mark that a prune began."""
    return ObjectKey(f"{prunes_prefix(section)}{prune}.json")


def prune_done_key(section: str, prune: str) -> ObjectKey:
    """The mark that a prune ended."""
    return ObjectKey(f"{prunes_prefix(section)}{prune}.done")


def pack_key(number: int, *, compressed: bool) -> str:
    """The key of a run's pack, relative to the run's folder."""
    return f"{PACKS}{number:06d}.tar{'.zst' if compressed else ''}"


def data_prefix(section: str) -> str:
    """The folder of everything the section's runs uploaded."""
    return f"{section}/data/"


def is_content_key(key: str) -> bool:
    """Whether a full key is that of something a run uploaded, rather than of a manifest or the descriptor."""
    return key.count("/") >= 2 and key.split("/", 2)[1] == "data"


def run_prefix(section: str, run: str) -> str:
    """The folder of what one run uploaded."""
    return f"{section}/data/{run}/"


def extent_key(section: str, extent: Extent) -> ObjectKey:
    """The full key of the object that ``extent`` lies in."""
    return ObjectKey(f"{section}/data/{extent.run}/{extent.key}")


def content_key(path: bytes, kind: Kind, *, prefix_bytes: int) -> str:
    """The key of an entry's own object, relative to its run's folder.

    ``prefix_bytes`` is the UTF-8 length of all that stands before it in the
    whole key (the destination's prefix and :func:`run_prefix`). A file or
    symlink gets ``files/PATH``, a folder ``files/PATH/``, the root ``files/``;
    what would be over S3's 1,024 bytes, or has a segment over 255, becomes
    ``long/`` and the SHA-256 of the path in hex.
    """
    text = escape_path(path)
    key = plain_key(text, kind)
    size = len(key) if key.isascii() else len(key.encode())
    if size <= MAX_SEGMENT_BYTES and prefix_bytes + size <= MAX_KEY_BYTES:
        return key
    if prefix_bytes + size <= MAX_KEY_BYTES and _segments_fit(text):
        return key
    return long_key(path)


def plain_key(text: str, kind: Kind) -> str:
    """The ``files/`` key of an already escaped path, whatever its length."""
    return f"files/{text}/" if kind is Kind.FOLDER and text else f"files/{text}"


def long_key(path: bytes) -> str:
    """The key of an entry whose path is too long for ``files/``."""
    return LONG + sha256(path).hexdigest()


def is_long_key(key: str) -> bool:
    """Whether a key, relative to its run's folder, stands for a path too long for ``files/``."""
    return key.startswith(LONG)


def long_path_key(path: bytes) -> str:
    """The key of the object that holds a long path's raw bytes where the metadata has no room for it."""
    return long_key(path) + LONG_PATH_SUFFIX


def path_of_content_key(key: str) -> bytes | None:
    """The path that a ``files/`` key (relative to its run's folder) stands for; ``None`` for a long key.

    Raises :class:`FormatError` for every other key and for a path that no
    entry can have (``..``, an empty segment, NUL).
    """
    if _LONG_KEY.fullmatch(key):
        return None
    if not key.startswith(FILES):
        raise FormatError(f"{key!r} is not the key of a file, folder or symlink")
    path = unescape(key[len(FILES) :].removesuffix("/"))
    check_path(path)
    return path


NUL = 0
"""Looked for as a number: bytes in bytes take ten times as long."""
_BAD_SEGMENT = re.compile(rb"(?:\A|/)\.{0,2}(?:/|\Z)")


def check_path(path: bytes) -> None:
    """Raises :class:`FormatError` unless ``path`` is the root or a plain relative path.

    Refused are empty, ``.`` and ``..`` segments (so also absolute paths and
    trailing slashes) and NUL.
    """
    if (path and _BAD_SEGMENT.search(path)) or NUL in path:
        raise FormatError(f"{escape_path(path)!r} is not a path below the section's root")


def _segments_fit(text: str) -> bool:
    return all(len(segment.encode()) <= MAX_SEGMENT_BYTES for segment in text.split("/"))
