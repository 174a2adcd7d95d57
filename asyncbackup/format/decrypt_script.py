"""The script in RESTORE.md. Made from tools/decrypt.py by tools/embed_script.py: edit that."""

from __future__ import annotations

SCRIPT = r'''
#!/usr/bin/env python3
"""Get files back from a copy of an asyncbackup destination, without asyncbackup.

    pip install cryptography zstandard

    python decrypt.py COPY list                                the snapshots in COPY
    python decrypt.py COPY restore SNAPSHOT TARGET [PATH ...]  a snapshot, into the new folder TARGET
    python decrypt.py COPY show KEY > FILE                     one object, decrypted (packs: expanded too)

COPY is a folder that holds what lies at the destination (asyncbackup.json at its top).
SNAPSHOT is a name that "list" gives, home/20261122T195000Z-3fa2, or home/latest; a PATH is
a file or folder of the snapshot; KEY is a name below COPY. The pass phrase is asked for;
--passphrase-file FILE and --key-file FILE give the secret instead. What cannot be restored
is named, the rest is restored all the same, and the exit code is 1. Left out are the owners
of files where you are not root, setuid and setgid bits of files, and security.* and
trusted.* attributes.

The format is public: docs/format.md of asyncbackup. Licence: Apache-2.0.
"""

import argparse
import contextlib
import getpass
import hashlib
import hmac
import io
import itertools
import json
import os
import re
import shutil
import sqlite3
import sys
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

MAGIC = b"ASBKENC\x01"
UNKNOWN_SIZE = 2**64 - 1
CHUNK, TAG = 16 * 1024, 16
ARGON2ID_BOUNDS = {"iterations": (2, 16), "memory_kib": (19 * 1024, 1024 * 1024), "lanes": (1, 16)}
LINK_ITSELF = {"follow_symlinks": False} if os.link in os.supports_follow_symlinks else {}
RUN = r"\d{8}T\d{6}Z-[0-9a-f]{4}"


class RestoreError(Exception):
    """One file, or the whole snapshot, cannot be restored."""


def framed(*fields):
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def unescape(text):
    """The bytes of an escaped name: every %XX is one byte."""
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())


def checked_path(text):
    path = unescape(text)
    if (path and any(name in (b"", b".", b"..") for name in path.split(b"/"))) or b"\0" in path:
        raise RestoreError(f"the manifest holds an impossible path: {text!r}")
    return path


def expanded(pieces):
    """The expansion of zstd frames, in pieces of 1 MiB, so that a few bytes cannot fill the memory."""
    filled = filter(None, pieces)
    source = SimpleNamespace(read=lambda _: next(filled, b""))
    stream = zstandard.ZstdDecompressor(max_window_size=2**23)
    return stream.stream_reader(source, read_across_frames=True)


class Stored:
    """One object of the copy, opened: its content in pieces, decrypted where it is sealed."""

    def __init__(self, copy, key, *, sealed):
        self.key, self.sealed = key, sealed
        self.file = (copy.folder / key).open("rb")
        self.size = os.fstat(self.file.fileno()).st_size
        if sealed:
            try:
                self.unseal(copy, key)
            except RestoreError:
                self.file.close()
                raise

    def unseal(self, copy, key):
        header, salt, commitment = self.file.read(16), self.file.read(24), self.file.read(32)
        chunks, rest = divmod(self.size - 72, CHUNK + TAG)
        if header[:8] != MAGIC or chunks < 0 or rest < TAG:
            raise RestoreError(f"{key}: not a sealed object, or cut off")
        self.size -= 72 + TAG * (chunks + 1)
        if int.from_bytes(header[8:], "big") not in (UNKNOWN_SIZE, self.size):
            raise RestoreError(f"{key}: it has not the size that its header says")
        # The key is bound to the object's place: nothing can stand in for anything else.
        place = (copy.repository.encode(), key.split("/")[0].encode(), key.encode(), header)
        context = framed(b"asyncbackup object v1", *place)
        info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
        derived = HKDFExpand(SHA512(), 76, info).derive(copy.unlock())
        if not hmac.compare_digest(derived[44:], commitment):
            raise RestoreError(f"{key}: it belongs to another key or place, or was changed")
        self.cipher, self.base_nonce = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")

    def chunk(self, number):
        if not self.sealed:
            self.file.seek(number * CHUNK)
            return self.file.read(CHUNK)
        self.file.seek(72 + number * (CHUNK + TAG))
        nonce = (self.base_nonce ^ number).to_bytes(12, "big")
        try:
            return self.cipher.decrypt(nonce, self.file.read(CHUNK + TAG), None)
        except InvalidTag:
            raise RestoreError(f"{self.key}: it was changed") from None

    def pieces(self, start, end):
        """The content from ``start`` to ``end``; to the very end, the last chunk is opened in any case."""
        if not 0 <= start <= end <= self.size:
            raise RestoreError(f"{self.key}: it is cut off")
        for number in range(start // CHUNK, end // CHUNK + 1):
            begin = number * CHUNK
            yield self.chunk(number)[max(start - begin, 0) : end - begin]


class Copy:
    """A folder with what lies at the destination, and the key to it once it was needed."""

    def __init__(self, options):
        self.folder, self.options = Path(options.copy), options
        self.descriptor = json.loads((self.folder / "asyncbackup.json").read_bytes())
        if self.descriptor["format"] != 1:
            raise RestoreError(f"this script reads format 1, not {self.descriptor['format']}")
        self.repository = self.descriptor["repository"]
        self.master_key = self.opened = self.frame = self.frame_place = None

    def unlock(self):
        """The master key, from the first key slot that opens."""
        if self.master_key is None:
            key_file, passphrase_file = self.options.key_file, self.options.passphrase_file
            if key_file:
                secret = Path(key_file).read_bytes()
            elif passphrase_file:
                secret = Path(passphrase_file).read_bytes().split(b"\n")[0].removesuffix(b"\r")
            else:
                secret = os.fsencode(getpass.getpass("Pass phrase: "))
            for slot in self.descriptor["slots"]:
                if (slot["kind"] == "key-file") == bool(key_file):
                    self.master_key = self.master_key or self.open_slot(slot, secret)
            if self.master_key is None:
                raise SystemExit("the secret opens none of the key slots")
        return self.master_key

    def open_slot(self, slot, secret):
        kdf, salt = slot["kdf"], b64decode(slot["kdf"]["salt"])
        binding = [b"asyncbackup key slot v1", self.repository.encode(), slot["id"].encode()]
        binding += [kdf["name"].encode(), salt]
        if kdf["name"] == "argon2id":
            if not all(low <= kdf[name] <= high for name, (low, high) in ARGON2ID_BOUNDS.items()):
                raise RestoreError(f"key slot {slot['id']}: its parameters are out of bounds")
            cost = [kdf["iterations"], kdf["memory_kib"], kdf["lanes"]]
            binding.append(b"".join(number.to_bytes(4, "big") for number in cost))
            derivation = Argon2id(
                salt=salt, length=32, iterations=cost[0], memory_cost=cost[1], lanes=cost[2]
            )
        else:
            derivation = HKDF(SHA512(), 32, salt, b"asyncbackup key file v1")
        try:
            wrapping = AESGCM(derivation.derive(secret))
            return wrapping.decrypt(b64decode(slot["nonce"]), b64decode(slot["wrapped"]), framed(*binding))
        except InvalidTag:
            return None

    def is_sealed(self, key):
        with (self.folder / key).open("rb") as file:
            return file.read(8) == MAGIC

    def open(self, key, *, sealed):
        """The object, which stays open until another is wanted: a pack is opened once for all its files."""
        if self.opened is None or (self.opened.key, self.opened.sealed) != (key, sealed):
            self.close()
            self.opened = Stored(self, key, sealed=sealed)
        return self.opened

    def close(self):
        if self.opened is not None:
            self.opened.file.close()
        self.opened = None

    def manifests(self, section):
        """Run → (revision, key) of the section's manifests; of several revisions the highest counts."""
        found = {}
        for path in (self.folder / section / "snapshots").iterdir():
            match = re.fullmatch(rf"({RUN})(?:\.([1-9]\d*))?\.jsonl\.zst", path.name)
            if match:
                entry = (int(match[2] or 0), f"{section}/snapshots/{path.name}")
                found[match[1]] = max(found.get(match[1], (-1, "")), entry)
        return dict(sorted(found.items()))

    def is_forgotten(self, section, run):
        return (self.folder / section / "forgotten" / run).exists()

    def manifest(self, key):
        """The lines of one manifest, parsed and as they are; raises if the last one is missing."""
        stored, line, text = Stored(self, key, sealed=self.is_sealed(key)), {}, b""
        with stored.file:
            lines = io.BufferedReader(expanded(stored.pieces(0, stored.size)))
            try:
                for text in iter(lambda: lines.readline(2**20), b""):
                    line = json.loads(text)
                    yield line, text
            except (ValueError, zstandard.ZstdError) as error:
                raise RestoreError(f"{key}: it is damaged ({error})") from None
        if line.get("type") != "end" or not text.endswith(b"\n"):
            raise RestoreError(f"{key}: it is cut off")

    def check_vouched(self, section, run, key):
        """A manifest that is not encrypted could be anybody's: the newest encrypted one has to know it."""
        sealed = [key for _, key in self.manifests(section).values() if self.is_sealed(key)]
        vouched = next(self.manifest(sealed[-1]))[0].get("plain", {}) if sealed else {}
        digest = hashlib.sha256()
        with (self.folder / key).open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
        if run not in vouched or b64decode(vouched[run]) != digest.digest():
            raise RestoreError(
                f"{key} is not encrypted, though others here are, and none of them vouches for it; if this "
                "section was not encrypted then, say --allow-plain, or else somebody put it there"
            )

    def read_snapshot(self, section, wanted):
        """A database of the snapshot's entries, in a file without a name where they are many.

        The newest manifest comes first, then those that it rests on: of the
        lines for one path the first one counts.
        """
        database = sqlite3.connect("", isolation_level=None)
        database.execute(
            "CREATE TABLE entries (path BLOB PRIMARY KEY, type, run, key, offset, sealed, line) WITHOUT ROWID"
        )
        database.execute("CREATE TABLE linked (label PRIMARY KEY, place BLOB) WITHOUT ROWID")
        database.execute("BEGIN")
        manifests = self.manifests(section)
        for _ in range(33):
            if wanted not in manifests:
                raise RestoreError(f"{section}/{wanted}: its manifest is not here")
            revision, key = manifests[wanted]
            sealed = self.is_sealed(key)
            if self.descriptor["slots"] and not sealed and not self.options.allow_plain:
                self.check_vouched(section, wanted, key)
            lines = self.manifest(key)
            header, _ = next(lines, ({}, b""))
            if (header.get("type"), header.get("format"), header.get("requires")) != ("manifest", 1, []):
                raise RestoreError(f"{key}: written by a newer asyncbackup than this script knows")
            stated = [header["repository"], header["section"], header["snapshot"], header.get("revision", 0)]
            if stated != [self.repository, section, wanted, revision]:
                raise RestoreError(f"{key}: the manifest is not that of this snapshot")
            for line, text in lines:
                if line["type"] in ("file", "folder", "symlink", "deleted"):
                    extent, path = line.get("extent", {}), checked_path(line["path"])
                    place = (extent.get("run", wanted), extent.get("key", "files/" + line["path"]))
                    row = (path, line["type"], *place, extent.get("offset", 0), sealed, text)
                    database.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                elif line["type"] not in ("pack", "failed", "end"):
                    raise RestoreError(f"{key}: it holds {line['type']!r}, which this script does not know")
            base = header["base"]
            if base is None:
                return database
            if base >= wanted:
                break
            wanted = base
        raise RestoreError(f"{key}: what it rests on is not that of this snapshot")

    def content(self, key, line, sealed):
        """The content of a file, in pieces: ``size`` bytes from ``skip`` of what its extent names."""
        extent, left = line["extent"], line["size"]
        encrypted, compression = extent.get("encrypted", False), extent.get("compression")
        if sealed and not encrypted and "sha256" not in line:
            raise RestoreError(f"{key}: it is not encrypted, and the snapshot cannot vouch for it")
        in_pack = "/packs/" in key
        stored = self.open(key, sealed=encrypted)
        start = extent.get("offset", 0)
        start, end = (0, stored.size) if encrypted and not in_pack else (start, start + extent["length"])
        pieces, skip = stored.pieces(start, end), extent.get("skip", 0)
        if compression == "zstd":
            stream = expanded(pieces)
            pieces = iter(lambda: stream.read(1 << 20), b"")
            if in_pack:  # a frame, of at most 16 MiB, holds many files
                if self.frame_place != (key, start, end):
                    self.frame, self.frame_place = b"".join(itertools.islice(pieces, 16)), (key, start, end)
                pieces = [self.frame]
        elif compression is not None:
            raise RestoreError(f"{key}: compressed in a way that this script does not know")
        for piece in pieces:
            piece, skip = piece[skip:], max(skip - len(piece), 0)
            yield piece[:left]
            left -= min(left, len(piece))
            if not left and compression:
                break  # what else it expands to is of no use
        if left:
            raise RestoreError(f"{key}: it is cut off")


class Restore:
    """Puts a snapshot into a new folder. ``failed`` counts what was complained about."""

    def __init__(self, copy, section, database, target):
        self.copy, self.section, self.database = copy, section, database
        self.root, self.failed = os.fsencode(target), 0
        self.temporary = os.path.join(self.root, b".part-" + os.urandom(8).hex().encode())

    def complain(self, line, reason):
        print(f"{line['path'] or '/'}: {reason}", file=sys.stderr)
        self.failed += 1

    def entries(self, kind, order):
        select = "SELECT path, run, key, sealed, line FROM entries WHERE type = ? ORDER BY "
        rows = self.database.execute(select + order, (kind,))
        for path, run, key, sealed, text in rows:
            yield os.path.join(self.root, path), f"{self.section}/data/{run}/{key}", sealed, json.loads(text)

    def run(self):
        os.umask(0o077)
        os.mkdir(self.root)
        for place, _, _, line in self.entries("folder", "path"):
            self.attempt(line, os.makedirs, place, exist_ok=True)
        for kind in ("file", "symlink"):
            for place, _, _, line in self.entries(kind, "path"):
                self.attempt(line, os.makedirs, os.path.dirname(place), exist_ok=True)
        for place, key, sealed, line in self.entries("file", "run, key, offset, path"):
            self.attempt(line, self.make, place, line, self.write_file, key, sealed)
        # Symlinks come last: while all else is made, none can lead out of the target.
        for place, _, _, line in self.entries("symlink", "path"):
            self.attempt(line, self.make, place, line, self.make_symlink)
        for place, _, _, line in self.entries("folder", "path DESC"):
            if os.path.isdir(place) and not os.path.islink(place):
                self.set_metadata(place, line)

    def attempt(self, line, call, *arguments, **options):
        try:
            call(*arguments, **options)
        except (RestoreError, OSError, OverflowError, zstandard.ZstdError) as error:
            self.complain(line, error.strerror or error if isinstance(error, OSError) else error)

    def make(self, place, line, create, *arguments):
        """A file or symlink, or a further name of one that is there already."""
        label = line.get("hardlink")
        found = self.database.execute("SELECT place FROM linked WHERE label = ?", (label,)).fetchone()
        if found:
            os.link(found[0], place, **LINK_ITSELF)
            return
        create(place, line, *arguments)
        if label is not None:
            self.database.execute("INSERT INTO linked VALUES (?, ?)", (label, place))

    def make_symlink(self, place, line):
        os.symlink(unescape(line["target"]), place)
        self.set_metadata(place, line)

    def write_file(self, place, line, key, sealed):
        """One file, under its name only once it is complete and has the right SHA-256."""
        if not re.fullmatch(rf"{RUN}/.+", key.split("/", 2)[2]) or {"", ".", ".."} & set(key.split("/")):
            raise RestoreError(f"the manifest holds an impossible key: {key!r}")
        digest = hashlib.sha256()
        try:
            with open(self.temporary, "xb") as file:
                for piece in self.copy.content(key, line, sealed):
                    digest.update(piece)
                    if line.get("sparse") and not piece.strip(b"\0"):
                        file.seek(len(piece), os.SEEK_CUR)
                    else:
                        file.write(piece)
                file.truncate(line["size"])
            if line.get("sha256") not in (None, digest.hexdigest()):
                raise RestoreError(f"{key}: its content is not that of the snapshot")
            self.set_metadata(self.temporary, line)
            if os.path.isdir(place):
                raise RestoreError("there is a folder of the same name")
            os.rename(self.temporary, place)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)

    def set_metadata(self, place, line):
        """Owner (for root), extended attributes, permissions, times."""
        mode, status = int(line["mode"], 8) & 0o7777, os.lstat(place)
        mode &= 0o3777 if line["type"] == "folder" else 0o1777  # set-id bits act for somebody else
        if os.geteuid() == 0:
            self.attempt(line, os.chown, place, line["uid"], line["gid"], follow_symlinks=False)
        elif (status.st_uid, status.st_gid) != (line["uid"], line["gid"]):
            mode &= 0o1777
        for name, value in line.get("xattrs", {}).items():
            name = unescape(name)
            if not name.startswith((b"security.", b"trusted.")):
                self.attempt(line, self.set_xattr, place, name, b64decode(value))
        if line["type"] != "symlink":
            self.attempt(line, os.chmod, place, mode)
        self.attempt(line, os.utime, place, ns=(line["mtime"], line["mtime"]), follow_symlinks=False)

    def set_xattr(self, place, name, value):
        if not hasattr(os, "setxattr"):
            raise RestoreError("Python has no extended attributes on this system")
        os.setxattr(place, name, value, follow_symlinks=False)


def restore(copy, snapshot, target, paths):
    section, run = snapshot.split("/")[0], snapshot.split("/")[-1].split(".")[0]
    if run == "latest":
        kept = [found for found in copy.manifests(section) if not copy.is_forgotten(section, found)]
        if not kept:
            raise RestoreError(f"{section}: there is no snapshot")
        run = kept[-1]
    if copy.is_forgotten(section, run):
        print(f"{run} was forgotten: a prune may have deleted some of it", file=sys.stderr)
    database = copy.read_snapshot(section, run)
    if paths:
        chosen = [os.fsencode(path.strip("/")) for path in paths]
        below = tuple(path + b"/" for path in chosen)
        database.create_function("is_chosen", 1, lambda path: path in chosen or path.startswith(below))
        database.execute("DELETE FROM entries WHERE NOT is_chosen(path)")
    restoring = Restore(copy, section, database, target)
    restoring.run()
    if restoring.failed:
        raise RestoreError(f"{restoring.failed} complaints; all else was restored")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("copy")
    parser.add_argument("--passphrase-file")
    parser.add_argument("--key-file")
    parser.add_argument("--allow-plain", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    restoring = commands.add_parser("restore")
    restoring.add_argument("snapshot")
    restoring.add_argument("target")
    restoring.add_argument("path", nargs="*")
    commands.add_parser("show").add_argument("key")
    options = parser.parse_args()
    with contextlib.closing(Copy(options)) as copy:
        if options.command == "list":
            for folder in sorted(copy.folder.glob("*/snapshots")):
                section = folder.parent.name
                for run in copy.manifests(section):
                    print(f"{section}/{run}" + "  (forgotten)" * copy.is_forgotten(section, run))
        elif options.command == "restore":
            restore(copy, options.snapshot, options.target, options.path)
        else:
            stored = copy.open(options.key, sealed=copy.is_sealed(options.key))
            pieces = stored.pieces(0, stored.size)
            if options.key.endswith(".zst") and options.key.split("/")[-2] in ("snapshots", "packs"):
                shutil.copyfileobj(expanded(pieces), sys.stdout.buffer)
            else:
                sys.stdout.buffer.writelines(pieces)


if __name__ == "__main__":
    try:
        main()
    except (RestoreError, OSError, zstandard.ZstdError) as problem:
        sys.exit(str(problem))
'''.lstrip()
