"""A reader written from docs/format.md alone: the standard library, AES-GCM, Argon2id and zstd.

It imports nothing of asyncbackup, so that what it reads is what the page says
and not what the program happens to do. Short and unforgiving: every violation
is a ``ValueError``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import Any

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

MAGIC = bytes.fromhex("41 53 42 4B 45 4E 43 01")
UNKNOWN = 2**64 - 1


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def framed(*fields: bytes) -> bytes:
    return b"".join(u32(len(field)) + field for field in fields)


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2.3, with SHA-512."""
    block, output = b"", b""
    for number in range(1, 1 + -(-length // 64)):
        block = hmac.digest(prk, block + info + bytes([number]), "sha512")
        output += block
    return output[:length]


def unescape(text: str) -> bytes:
    pieces = re.split("(%[0-9A-Fa-f]{2})", text)
    return b"".join(
        bytes([int(piece[1:], 16)]) if place % 2 else piece.encode() for place, piece in enumerate(pieces)
    )


def path_of(text: str) -> bytes:
    path = unescape(text)
    if path and any(segment in (b"", b".", b"..") or b"\0" in segment for segment in path.split(b"/")):
        raise ValueError(f"not a path: {text!r}")
    return path


def unlock(descriptor: bytes, *, passphrase: bytes | None = None, key_file: bytes | None = None) -> bytes:
    """The master key."""
    found = json.loads(descriptor)
    if (found["type"], found["format"]) != ("repository", 1):
        raise ValueError("not a descriptor of format 1")
    for slot in found["slots"]:
        kdf = slot["kdf"]
        salt = base64.b64decode(kdf["salt"], validate=True)
        fields = [b"asyncbackup key slot v1", found["repository"].encode(), slot["id"].encode()]
        fields += [kdf["name"].encode(), salt]
        if kdf["name"] == "argon2id":
            cost = [kdf["iterations"], kdf["memory_kib"], kdf["lanes"]]
            limits = ((2, 16), (19456, 1048576), (1, 16))
            if not all(low <= value <= high for value, (low, high) in zip(cost, limits, strict=True)):
                raise ValueError("key derivation out of bounds")
            fields.append(b"".join(map(u32, cost)))
            if passphrase is None:
                continue
            wrapping_key = Argon2id(
                salt=salt, length=32, iterations=cost[0], memory_cost=cost[1], lanes=cost[2]
            ).derive(passphrase)
        else:
            if key_file is None:
                continue
            prk = hmac.digest(salt, key_file, "sha512")
            wrapping_key = hkdf_expand(prk, b"asyncbackup key file v1", 32)
        try:
            return AESGCM(wrapping_key).decrypt(
                base64.b64decode(slot["nonce"], validate=True),
                base64.b64decode(slot["wrapped"], validate=True),
                framed(*fields),
            )
        except InvalidTag:
            continue
    raise ValueError("no slot opens")


def open_sealed(master: bytes, repository: str, section: str, key: str, stored: bytes) -> bytes:
    """The content of a sealed object, whole or not at all."""
    header, salt, commitment, message = stored[:16], stored[16:40], stored[40:72], stored[72:]
    if len(stored) < 72 or header[:8] != MAGIC:
        raise ValueError("not a sealed object")
    size = int.from_bytes(header[8:], "big")
    context = framed(b"asyncbackup object v1", repository.encode(), section.encode(), key.encode(), header)
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM" + b"\0" + salt + context
    derived = hkdf_expand(master, info, 76)
    if not hmac.compare_digest(derived[44:], commitment):
        raise ValueError("another key or context")
    base_nonce = int.from_bytes(derived[32:44], "big")
    opened: list[bytes] = []
    chunks = [message[start : start + 16400] for start in range(0, len(message), 16400)]
    if not chunks or len(chunks[-1]) == 16400:
        raise ValueError("truncated")
    for number, chunk in enumerate(chunks):
        nonce = (base_nonce ^ number).to_bytes(12, "big")
        try:
            opened.append(AESGCM(derived[:32]).decrypt(nonce, chunk, None))
        except InvalidTag:
            raise ValueError(f"chunk {number} is not authentic") from None
    content = b"".join(opened)
    if size not in (UNKNOWN, len(content)):
        raise ValueError("not of the announced size")
    return content


def read_manifest(plain: bytes) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """``(header, lines, end)``; the lines with ``path`` as bytes and their extent's defaults filled in."""
    stream = zstandard.ZstdDecompressor(max_window_size=2**23).decompressobj()
    text = stream.decompress(plain)
    if not stream.eof or stream.unused_data or not text.endswith(b"\n"):
        raise ValueError("not one whole frame of whole lines")
    header, *lines, end = [json.loads(line) for line in text.split(b"\n")[:-1]]
    if (header["type"], header["format"], header["requires"]) != ("manifest", 1, []):
        raise ValueError("not a manifest of format 1")
    last: tuple[bytes, bytes] | None = None
    last_pack: tuple[str, str] | None = None
    stages = {"deleted": 0, "file": 0, "folder": 0, "symlink": 0, "pack": 1, "failed": 2}
    if [stages[line["type"]] for line in lines] != sorted(stages[line["type"]] for line in lines):
        raise ValueError("entries, packs and failures are mixed")
    if header["base"] is None and any(line["type"] == "deleted" for line in lines):
        raise ValueError("something is deleted from nothing")
    for line in lines:
        if line["type"] == "pack":
            line |= {"run": line.get("run", header["snapshot"])}
            if last_pack is not None and (line["run"], line["key"]) <= last_pack:
                raise ValueError("packs out of order")
            last_pack = (line["run"], line["key"])
            continue
        plain_key = "files/" + line["path"] + ("/" if line["type"] == "folder" and line["path"] else "")
        line["path"] = path_of(line["path"])
        if line["type"] == "failed":
            continue
        folder, _, name = line["path"].rpartition(b"/")
        if last is not None and (folder, name) <= last:
            raise ValueError("out of order")
        last = (folder, name)
        if "extent" in line:
            line["extent"] = {"run": header["snapshot"], "key": plain_key, "offset": 0} | line["extent"]
    counts = dict.fromkeys(stages, 0)
    for line in lines:
        counts[line["type"]] += 1
    entries = counts["file"] + counts["folder"] + counts["symlink"]
    found = (entries, counts["deleted"], counts["pack"], counts["failed"])
    if end["type"] != "end" or found != (end["entries"], end["deleted"], end.get("packs", 0), end["failed"]):
        raise ValueError("the last line does not fit the others")
    return header, lines, end


def metadata_time(text: str) -> int:
    sign, seconds, fraction = re.fullmatch(r"(-?)(\d+)\.(\d{9})", text).groups()  # type: ignore[union-attr]
    return (-1 if sign else 1) * (int(seconds) * 10**9 + int(fraction))


def percent_decoded(value: str) -> bytes:
    if re.fullmatch(r"(?:[A-Za-z0-9._~/@+-]|%[0-9A-F]{2})*", value) is None:
        raise ValueError(f"not percent-encoded: {value!r}")
    return unescape(value)


def sha256_hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
