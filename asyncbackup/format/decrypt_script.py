"""The script in RESTORE.md. Made from tools/decrypt.py by tools/embed_script.py: edit that."""

from __future__ import annotations

SCRIPT = r'''
#!/usr/bin/env python3
"""Get files back from a copy of an asyncbackup destination, without asyncbackup.

    pip install cryptography zstandard

    python decrypt.py COPY list                        the snapshots in COPY
    python decrypt.py COPY restore SNAPSHOT TARGET     a whole snapshot, into the new folder TARGET
    python decrypt.py COPY show KEY > FILE             one object: a file decrypted, a manifest as JSON lines

COPY is a folder that holds what lies at the destination (asyncbackup.json at its top),
SNAPSHOT and KEY are names below it: home/snapshots/20261122T195000Z-3fa2.jsonl.zst,
home/data/20261122T195000Z-3fa2/files/docs/report.pdf. The pass phrase is asked for;
--passphrase-file FILE and --key-file FILE give the secret instead. Extended attributes,
set-id bits and holes in files are not restored.

The format is public: docs/format.md of asyncbackup. Licence: Apache-2.0.
"""

import argparse
import contextlib
import getpass
import hashlib
import hmac
import io
import json
import os
import re
import shutil
import sys
from base64 import b64decode
from pathlib import Path

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

MAGIC = b"ASBKENC\x01"
UNKNOWN_SIZE = 2**64 - 1
SEALED_CHUNK = 16 * 1024 + 16
ARGON2ID_BOUNDS = {"iterations": (2, 16), "memory_kib": (19 * 1024, 1024 * 1024), "lanes": (1, 16)}


def framed(*fields):
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def unescape(text):
    """The bytes of an escaped name: every %XX is one byte."""
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())


def checked_path(text):
    path = unescape(text)
    if (path and any(name in (b"", b".", b"..") for name in path.split(b"/"))) or b"\0" in path:
        raise SystemExit(f"the manifest holds an impossible path: {text!r}")
    return path


class Copy:
    """A folder with what lies at the destination, and the key to it once it was needed."""

    def __init__(self, options):
        self.folder = Path(options.copy)
        self.passphrase_file, self.key_file = options.passphrase_file, options.key_file
        self.allow_plain = options.allow_plain
        self.descriptor = json.loads((self.folder / "asyncbackup.json").read_bytes())
        if self.descriptor["format"] != 1:
            raise SystemExit(f"this script reads format 1, not {self.descriptor['format']}")
        self.master_key = None

    def unlock(self):
        """The master key, from the first key slot that opens."""
        if self.master_key is None:
            if self.key_file:
                secret = Path(self.key_file).read_bytes()
            elif self.passphrase_file:
                secret = Path(self.passphrase_file).read_bytes().split(b"\n")[0].removesuffix(b"\r")
            else:
                secret = os.fsencode(getpass.getpass("Pass phrase: "))
            for slot in self.descriptor["slots"]:
                if (slot["kind"] == "key-file") == bool(self.key_file):
                    self.master_key = self.master_key or self.open_slot(slot, secret)
            if self.master_key is None:
                raise SystemExit("the secret opens none of the key slots")
        return self.master_key

    def open_slot(self, slot, secret):
        kdf, salt = slot["kdf"], b64decode(slot["kdf"]["salt"])
        binding = [b"asyncbackup key slot v1", self.descriptor["repository"].encode(), slot["id"].encode()]
        binding += [kdf["name"].encode(), salt]
        if kdf["name"] == "argon2id":
            if not all(low <= kdf[name] <= high for name, (low, high) in ARGON2ID_BOUNDS.items()):
                raise SystemExit(f"key slot {slot['id']}: its parameters are out of bounds")
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

    def contents(self, key, *, sealed):
        """The plaintext of an object, piece by piece. Only when it has ended is it known to be whole."""
        with (self.folder / key).open("rb") as file:
            if not sealed:
                yield from iter(lambda: file.read(1 << 20), b"")
                return
            header, salt, commitment = file.read(16), file.read(24), file.read(32)
            stored, announced = os.fstat(file.fileno()).st_size - 72, int.from_bytes(header[8:], "big")
            chunks, rest = divmod(stored, SEALED_CHUNK)
            if header[:8] != MAGIC or stored < 16 or rest < 16:
                raise SystemExit(f"{key}: not a sealed object, or cut off")
            if announced not in (UNKNOWN_SIZE, stored - 16 * (chunks + 1)):
                raise SystemExit(f"{key}: it has not the size that its header says")
            # The key is bound to the object's place: nothing can stand in for anything else.
            context = framed(
                b"asyncbackup object v1",
                self.descriptor["repository"].encode(),
                key.split("/")[0].encode(),
                key.encode(),
                header,
            )
            info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
            derived = HKDFExpand(SHA512(), 76, info).derive(self.unlock())
            if not hmac.compare_digest(derived[44:], commitment):
                raise SystemExit(f"{key}: it belongs to another key or place, or was changed")
            cipher, base_nonce = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
            for number in range(chunks + 1):
                nonce = (base_nonce ^ number).to_bytes(12, "big")
                try:
                    yield cipher.decrypt(nonce, file.read(SEALED_CHUNK), None)
                except InvalidTag:
                    raise SystemExit(f"{key}: it was changed") from None

    def manifest(self, key):
        """The lines of one manifest, as objects; raises if the last one is missing."""
        sealed = self.is_sealed(key)
        if self.descriptor["slots"] and not sealed and not self.allow_plain:
            raise SystemExit(
                f"{key} is not encrypted, though others here are; if this section never was, "
                "say --allow-plain, or else somebody replaced it"
            )
        plain = io.BytesIO(b"".join(self.contents(key, sealed=sealed)))
        line = {}
        stream = zstandard.ZstdDecompressor(max_window_size=2**23).stream_reader(plain)
        for line in map(json.loads, io.BufferedReader(stream)):
            yield line
        if line.get("type") != "end":
            raise SystemExit(f"{key}: it is cut off")

    def entries(self, key):
        """Path → (manifest's run, entry) of a snapshot, differences to earlier ones resolved."""
        section, _, name = key.split("/")
        chain, wanted = [], name.removesuffix(".jsonl.zst")
        while wanted:
            lines = self.manifest(f"{section}/snapshots/{wanted}.jsonl.zst")
            header = next(lines)
            if header["format"] != 1 or header["requires"]:
                raise SystemExit(f"{wanted}: written by a newer asyncbackup than this script knows")
            if header["snapshot"] != wanted or len(chain) > 32:
                raise SystemExit(f"{wanted}: the manifest is not that of this snapshot")
            chain.append((wanted, list(lines)))
            wanted = header["base"]
        found = {}
        for run, lines in reversed(chain):
            for line in lines:
                if line["type"] == "deleted":
                    found.pop(checked_path(line["path"]), None)
                elif line["type"] in ("file", "folder", "symlink"):
                    found[checked_path(line["path"])] = (run, line)
        return section, found

    def write_file(self, section, run, line, path, temporary):
        """One file, under its name only once it is complete and has the right SHA-256."""
        extent = line["extent"]
        key = extent.get("key") or "files/" + line["path"]
        digest = hashlib.sha256()
        with open(temporary, "xb") as file:
            full_key = f"{section}/data/{extent.get('run') or run}/{key}"
            for piece in self.contents(full_key, sealed=extent.get("encrypted", False)):
                digest.update(piece)
                file.write(piece)
        if line.get("sha256") not in (None, digest.hexdigest()):
            raise SystemExit(f"{full_key}: its content is not that of the snapshot")
        os.rename(temporary, path)


def set_metadata(path, line):
    """Owner (for root), permissions without set-id bits, times."""
    if os.geteuid() == 0:
        os.chown(path, line["uid"], line["gid"], follow_symlinks=False)
    if line["type"] != "symlink":
        os.chmod(path, int(line["mode"], 8) & 0o777)
    with contextlib.suppress(OverflowError):  # a time that this system cannot express
        os.utime(path, ns=(line["mtime"], line["mtime"]), follow_symlinks=False)


def restore(copy, key, target):
    section, found = copy.entries(key)
    root = os.fsencode(target)
    os.umask(0o077)
    os.mkdir(root)
    temporary = os.path.join(root, b".part-" + os.urandom(8).hex().encode())
    linked, folders, links = {}, [], []
    for path, (run, line) in sorted(found.items(), key=lambda item: item[0].split(b"/")):
        place = os.path.join(root, path)
        os.makedirs(place if line["type"] == "folder" else os.path.dirname(place), exist_ok=True)
        if line["type"] == "folder":
            folders.append((place, line))
        elif line["type"] == "symlink":
            links.append((place, line))
        elif line.get("hardlink") in linked:
            os.link(linked[line["hardlink"]], place)
        else:
            copy.write_file(section, run, line, place, temporary)
            set_metadata(place, line)
            if line.get("hardlink"):
                linked[line["hardlink"]] = place
    # Symlinks come last: while files are written, none can lead out of the target.
    for place, line in links:
        os.symlink(unescape(line["target"]), place)
        set_metadata(place, line)
    for place, line in reversed(folders):
        set_metadata(place, line)


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
    restoring.add_argument("key")
    restoring.add_argument("target")
    commands.add_parser("show").add_argument("key")
    options = parser.parse_args()
    copy = Copy(options)
    if options.command == "list":
        for path in sorted(copy.folder.glob("*/snapshots/*.jsonl.zst")):
            print(path.relative_to(copy.folder))
    elif options.command == "restore":
        restore(copy, options.key, options.target)
    else:
        pieces = copy.contents(options.key, sealed=copy.is_sealed(options.key))
        if options.key.endswith(".jsonl.zst"):
            plain = io.BytesIO(b"".join(pieces))
            stream = zstandard.ZstdDecompressor(max_window_size=2**23).stream_reader(plain)
            shutil.copyfileobj(stream, sys.stdout.buffer)
        else:
            for piece in pieces:
                sys.stdout.buffer.write(piece)


if __name__ == "__main__":
    main()
'''.lstrip()
