"""An entry's metadata on its object: names and values as S3 keeps them (docs/format.md, "Metadata").

``mtime``, ``mode``, ``uid`` and ``gid`` are those that rclone reads and
writes; what is asyncbackup's own begins with ``asyncbackup-``. Values are
percent-encoded ASCII, because endpoints fold spaces, refuse or rewrite other
bytes. The manifest stays the authority: metadata is for other tools, and for
rebuilding where the manifests are gone.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from asyncbackup.errors import FormatError
from asyncbackup.format.envelope import sealed_size, unsealed_size
from asyncbackup.format.keys import check_path, is_long_key, long_key, path_of_content_key
from asyncbackup.model import ZSTD, Entry, Kind, kind_of_mode

MAX_METADATA_BYTES = 1700
"""Of all names and values together: below S3's 2 KB, and what clients take in one response header."""
MAX_PATH_VALUE_BYTES = 1100
ENCODING = "cobblestone-256"
"""Of a sealed content."""
COMPRESSED = "zstd"
"""Of a compressed one."""

# encoding → (compression, sealed)
_ENCODINGS = {
    ENCODING: ("", True),
    COMPRESSED: (ZSTD, False),
    f"{COMPRESSED}+{ENCODING}": (ZSTD, True),
}

# What is left out is named; the list of all that can be is this long, its own name included.
_OMITTED_RESERVE_BYTES = 80
_PLAIN_NAME_BYTES = 256
# Of the bytes that percent-encoding may leave alone, those that no endpoint rewrites.
_SAFE = "/@+~"

_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_MAX_SECONDS = 2**63
"""No manifest holds a later time, nor an earlier one."""
_TIME = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]{1,9})[0-9]*)?", re.ASCII)
_MODE = re.compile(r"0?1?[0-7]{5}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ObjectDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What an object's key, size and metadata tell of its entry.

    ``encrypted`` and ``compression`` say what was done to the content.
    ``first_path`` is the path whose content this name shares, if the object is
    an empty stand-in; ``omitted`` names the fields that had no room;
    ``described`` is false for an object that carries no ``mode``, whose entry
    is then a guess from the key.
    """

    entry: Entry
    encrypted: bool
    described: bool
    compression: str = ""
    first_path: bytes = b""
    omitted: tuple[str, ...] = ()


def encode_metadata(
    entry: Entry,
    *,
    original_size: int | None,
    long_path: bool,
    first_path: bytes = b"",
    compression: str = "",
    unlimited: bool = False,
) -> dict[str, str]:
    """The metadata of ``entry``'s object; names and values are at most 1,700 bytes together,
    unless they are ``unlimited``.

    ``original_size`` is the content's size for a sealed object and ``None``
    for a plain one, ``long_path`` whether the key is a ``long/`` one.
    ``compression`` is ``"zstd"`` for a content that is stored compressed, and
    sealed or not after that.
    ``first_path`` makes the object the empty stand-in of a further name of
    that path's content. What has no room is left out, from the end of this
    order: path, target, hardlink, links, owner, group, ctime, xattr.
    """
    metadata = {
        "mtime": _time_text(entry.mtime_ns),
        "mode": f"{entry.mode:o}",
        "uid": str(entry.uid),
        "gid": str(entry.gid),
    }
    if entry.kind is Kind.FILE:
        if first_path:
            metadata["asyncbackup-size"] = str(entry.size)
        elif original_size is not None:
            metadata["asyncbackup-size"] = str(original_size)
            metadata["asyncbackup-encoding"] = f"{COMPRESSED}+{ENCODING}" if compression else ENCODING
        elif compression:
            metadata["asyncbackup-size"] = str(entry.size)
            metadata["asyncbackup-encoding"] = COMPRESSED
        # In clear beside a sealed object, the digest would tell whether it is some known file.
        if entry.sha256 and original_size is None and not first_path:
            metadata["asyncbackup-sha256"] = entry.sha256.hex()
        if entry.sparse:
            metadata["asyncbackup-sparse"] = "1"
    if entry.nlink != _usual_nlink(entry.kind):
        metadata["asyncbackup-nlink"] = str(entry.nlink)
    owner, group = _quote_text(entry.owner), _quote_text(entry.group)
    if not (long_path or first_path or entry.target or entry.hardlink or entry.xattrs) and (
        len(owner) <= _PLAIN_NAME_BYTES and len(group) <= _PLAIN_NAME_BYTES
    ):
        # The common case: nothing here can come near the limit.
        if owner:
            metadata["asyncbackup-owner"] = owner
        if group:
            metadata["asyncbackup-group"] = group
        if entry.ctime_ns:
            metadata["asyncbackup-ctime"] = _time_text(entry.ctime_ns)
        return metadata
    optional = {
        "path": _quote(entry.path) if long_path else "",
        "target": _quote(entry.target),
        "hardlink": _quote(first_path),
        "links": _quote_text(entry.hardlink),
        "owner": owner,
        "group": group,
        "ctime": _time_text(entry.ctime_ns) if entry.ctime_ns else "",
        "xattr": _xattr_text(entry.xattrs),
    }
    if unlimited:
        return metadata | {f"asyncbackup-{field}": value for field, value in optional.items() if value}
    return _fill(metadata, optional)


def object_metadata(
    entry: Entry, key: str, *, sealed: bool = False, first_path: bytes = b"", compression: str = ""
) -> dict[str, str]:
    """:func:`encode_metadata` of ``entry``'s object at ``key``, which is relative to its run's folder."""
    return encode_metadata(
        entry,
        original_size=entry.size if sealed else None,
        long_path=is_long_key(key),
        first_path=first_path,
        compression=compression,
    )


def long_path_fits(entry: Entry) -> bool:
    """Whether the metadata has room for a long path; if not, an object of its own has to hold it."""
    return len(_quote(entry.path)) <= MAX_PATH_VALUE_BYTES


def path_in_metadata(metadata: Mapping[str, str], key: str) -> bytes:
    """The path that the object at ``key`` names itself. Raises :class:`FormatError`, naming the key, where
    there is none, or one that no entry can have."""
    try:
        path = _unquote(metadata["asyncbackup-path"])
        check_path(path)
    except KeyError:
        raise FormatError(f"{key!r}: it does not say of which path it is") from None
    except FormatError as error:
        raise FormatError(f"{key!r}: {error}") from None
    return path


def decode_metadata(
    metadata: Mapping[str, str], *, key: str, stored_size: int, path: bytes | None = None
) -> Entry:
    """The entry that an object describes, without its extent; see :func:`describe_object`."""
    return describe_object(metadata, key=key, stored_size=stored_size, path=path).entry


def describe_object(
    metadata: Mapping[str, str], *, key: str, stored_size: int, path: bytes | None = None
) -> ObjectDescription:
    """What the object at ``key`` (relative to its run's folder) says of its entry.

    ``path`` is the content of the ``.path`` object that stands beside a
    ``long/`` key whose path had no room. Names that are not known are
    ignored. Raises :class:`FormatError`, naming the key, for values that do
    not follow the format or contradict key or size.
    """
    try:
        return _describe(metadata, key, stored_size, path)
    except ValueError as error:
        raise FormatError(f"{key!r}: {error}") from None
    except FormatError as error:
        raise FormatError(f"{key!r}: {error}") from None


def _describe(
    metadata: Mapping[str, str], key: str, stored_size: int, path: bytes | None
) -> ObjectDescription:
    path = _path_of(metadata, key, path)
    kind, mode = _kind_and_mode(metadata.get("mode"), key)
    target = _unquote(metadata.get("asyncbackup-target", ""))
    first_path = _unquote(metadata.get("asyncbackup-hardlink", ""))
    compression, encrypted = _encoding(metadata)
    encoded = encrypted or bool(compression)
    size = len(target) if kind is Kind.SYMLINK else 0
    if kind is Kind.FILE:
        size = _content_size(metadata, stored_size, compression, encrypted=encrypted)
    elif stored_size or encoded or first_path:
        raise FormatError(f"a {kind} has no content")
    if first_path:
        check_path(first_path)
    digest = metadata.get("asyncbackup-sha256", "")
    if digest and _SHA256.fullmatch(digest) is None:
        raise FormatError(f"{digest!r} is not a SHA-256")
    omitted = metadata.get("asyncbackup-omitted", "")
    entry = Entry(
        path=path,
        kind=kind,
        mode=mode,
        size=size,
        mtime_ns=_time(metadata.get("mtime", "0")),
        ctime_ns=_time(metadata.get("asyncbackup-ctime", "0")),
        uid=_number(metadata.get("uid", "0")),
        gid=_number(metadata.get("gid", "0")),
        nlink=_number(metadata.get("asyncbackup-nlink", str(_usual_nlink(kind)))),
        owner=_unquote_text(metadata.get("asyncbackup-owner", "")),
        group=_unquote_text(metadata.get("asyncbackup-group", "")),
        sha256=bytes.fromhex(digest) if kind is Kind.FILE else b"",
        target=target if kind is Kind.SYMLINK else b"",
        hardlink=_unquote_text(metadata.get("asyncbackup-links", "")),
        sparse=kind is Kind.FILE and metadata.get("asyncbackup-sparse") == "1",
        xattrs=_xattrs(metadata.get("asyncbackup-xattr", "")),
    )
    return ObjectDescription(
        entry=entry,
        encrypted=encrypted,
        compression=compression,
        described="mode" in metadata,
        first_path=first_path,
        omitted=tuple(omitted.split(",")) if omitted else (),
    )


def _path_of(metadata: Mapping[str, str], key: str, given: bytes | None) -> bytes:
    path = path_of_content_key(key)
    if path is not None:
        return path
    value = metadata.get("asyncbackup-path", "")
    path = _unquote(value) if value else given
    if path is None:
        raise FormatError(f"its path is neither in its metadata nor in an object {key + '.path'!r}")
    if long_key(path) != key:
        raise FormatError(f"the path {path!r} belongs to another key")
    check_path(path)
    return path


def _kind_and_mode(text: str | None, key: str) -> tuple[Kind, int]:
    """Kind and mode; without ``mode``, a guess by the key with the permissions that give least away."""
    folder = key.endswith("/")
    if text is None:
        return (Kind.FOLDER, 0o040700) if folder else (Kind.FILE, 0o100600)
    if _MODE.fullmatch(text) is None:
        raise FormatError(f"{text!r} is not an octal mode with its type bits")
    mode = int(text, 8)
    kind = kind_of_mode(mode)
    if folder != (kind is Kind.FOLDER) and not is_long_key(key):
        raise FormatError(f"mode {text} is not that of what the key names")
    return kind, mode


def _encoding(metadata: Mapping[str, str]) -> tuple[str, bool]:
    """What was done to the content: its compression, and whether it was sealed."""
    encoding = metadata.get("asyncbackup-encoding")
    if encoding is None:
        return "", False
    if encoding not in _ENCODINGS:
        raise FormatError(f"the encoding {encoding!r} is not known (only {', '.join(_ENCODINGS)} are)")
    return _ENCODINGS[encoding]


def _content_size(metadata: Mapping[str, str], stored_size: int, compression: str, *, encrypted: bool) -> int:
    announced = metadata.get("asyncbackup-size")
    if compression:
        # How far the frames expand only they tell; what can be checked is that they can have been sealed.
        if announced is None:
            raise FormatError("its metadata does not say how large its content is before compression")
        if encrypted:
            unsealed_size(stored_size)
        return _number(announced)
    if encrypted:
        if announced is None or sealed_size(_number(announced)) != stored_size:
            raise FormatError(f"{stored_size} bytes cannot be the sealed form of {announced} bytes")
        return _number(announced)
    if announced is None:
        return stored_size
    size = _number(announced)
    if size != stored_size and (stored_size or "asyncbackup-hardlink" not in metadata):
        raise FormatError(f"it has {stored_size} bytes, its metadata says {size}")
    return size


def _fill(metadata: dict[str, str], optional: dict[str, str]) -> dict[str, str]:
    room = MAX_METADATA_BYTES - _OMITTED_RESERVE_BYTES
    room -= sum(len(name) + len(value) for name, value in metadata.items())
    omitted = []
    for field, value in optional.items():
        if not value:
            continue
        name = f"asyncbackup-{field}"
        size = len(name) + len(value)
        if size > room or (field == "path" and len(value) > MAX_PATH_VALUE_BYTES):
            omitted.append(field)
        else:
            room -= size
            metadata[name] = value
    if omitted:
        metadata["asyncbackup-omitted"] = ",".join(omitted)
    return metadata


def _usual_nlink(kind: Kind) -> int:
    return 0 if kind is Kind.FOLDER else 1


def _time_text(ns: int) -> str:
    """Seconds with nine digits of fraction; the sign is of the whole number (``-0.500000000``)."""
    seconds, fraction = divmod(abs(ns), 1_000_000_000)
    return f"{'-' if ns < 0 else ''}{seconds}.{fraction:09d}"


def _time(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None or int(match[2]) >= _MAX_SECONDS:
        raise FormatError(f"{text!r} is not a time in seconds")
    ns = int(match[2]) * 1_000_000_000 + int((match[3] or "").ljust(9, "0"))
    return -ns if match[1] else ns


def _number(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise FormatError(f"{text!r} is not a number")
    return int(text)


def _quote(raw: bytes) -> str:
    return quote_from_bytes(raw, safe=_SAFE)


def _unquote(value: str) -> bytes:
    raw = unquote_to_bytes(value.encode())
    if b"\0" in raw:
        raise FormatError(f"{value!r} holds a NUL byte")
    return raw


@lru_cache(maxsize=1024)
def _quote_text(text: str) -> str:
    return _quote(text.encode(errors="surrogateescape"))


def _unquote_text(value: str) -> str:
    return _unquote(value).decode(errors="surrogateescape")


def _xattr_text(xattrs: tuple[tuple[bytes, bytes], ...]) -> str:
    """``NAME:VALUE`` pairs joined by commas, the value in unpadded URL-safe base64."""
    return ",".join(
        f"{_quote(name)}:{urlsafe_b64encode(value).rstrip(b'=').decode()}" for name, value in xattrs
    )


def _xattrs(text: str) -> tuple[tuple[bytes, bytes], ...]:
    pairs = []
    for pair in text.split(",") if text else ():
        name, colon, value = pair.partition(":")
        if not name or not colon or _BASE64.fullmatch(value) is None or len(value) % 4 == 1:
            raise FormatError(f"{pair!r} is not an extended attribute")
        pairs.append((_unquote(name), urlsafe_b64decode(value + "=" * (-len(value) % 4))))
    return tuple(pairs)
