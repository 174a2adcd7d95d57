"""What RESTORE.md at a destination says: how to get the files back without asyncbackup."""

from __future__ import annotations

RESTORE_SCRIPT = r'''
import json, os, re, subprocess, sys

def read(snapshot):
    """The lines of a snapshot by path, those of the snapshots it rests on included."""
    name = os.path.join(copy, section, "snapshots", snapshot + ".jsonl.zst")
    text = subprocess.run(["zstd", "-dc", name], check=True, stdout=subprocess.PIPE).stdout
    header, *lines = [json.loads(line) for line in text.splitlines()]
    found = read(header["base"]) if header.get("base") else {}
    for line in lines:
        if line["type"] in ("file", "folder", "symlink"):
            found[line["path"]] = (snapshot, line)
        elif line["type"] == "deleted":
            found.pop(line["path"], None)
    return found

def raw(text):
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda hex: bytes.fromhex(hex[1].decode()), text.encode())

def time(path, line, follow=True):
    os.utime(path, ns=(line["mtime"], line["mtime"]), follow_symlinks=follow)

copy, section, snapshot, target = sys.argv[1:]
entries = sorted(read(snapshot).items())
root = os.fsencode(target)
for text, (run, line) in entries:
    path = os.path.join(root, raw(text))
    if any(part in (b"", b".", b"..") for part in raw(text).split(b"/")) and text:
        sys.exit("refused: " + text)
    if line["type"] == "folder":
        os.makedirs(path, mode=0o700, exist_ok=True)
    elif line["type"] == "symlink":
        os.symlink(raw(line["target"]), path)
        time(path, line, follow=False)
    else:
        extent = line["extent"]
        if extent.get("encrypted"):
            sys.exit("encrypted: " + text)
        key = extent.get("key") or "files/" + text
        with open(os.path.join(copy, section, "data", extent.get("run") or run, key), "rb") as source:
            source.seek(extent.get("offset", 0))
            with open(path, "xb") as file:
                left = extent["length"]
                while left:
                    chunk = source.read(min(left, 1 << 20)) or sys.exit("too short: " + text)
                    left -= len(chunk)
                    file.write(chunk)
        os.chmod(path, int(line["mode"], 8) & 0o7777)
        time(path, line)
for text, (run, line) in reversed(entries):
    if line["type"] == "folder":
        path = os.path.join(root, raw(text))
        os.chmod(path, int(line["mode"], 8) & 0o7777)
        time(path, line)
'''.strip()

RESTORE_README = f"""\
# Getting the files back

This place holds backups made by asyncbackup. With the program at hand, its own command is the best way:

    asyncbackup restore SECTION --target DIR

What follows is for when it is not. Nothing here is needed for that but what lies here.

## What is where

    asyncbackup.json                          which repository this is, and its key slots if any
    SECTION/snapshots/ID.jsonl.zst            what a snapshot holds: JSON Lines, compressed with zstd
    SECTION/data/ID/files/docs/report.pdf     what the run ID uploaded: an object a file, content unchanged

The first run of a section uploaded every file, so this gives the tree as it was then:

    aws s3 cp --recursive s3://BUCKET/PREFIX/SECTION/data/ID/files/ TARGET/

and this the same with times and permissions, which stand as metadata on the objects:

    rclone copy --metadata REMOTE:BUCKET/PREFIX/SECTION/data/ID/files/ TARGET/

Later runs uploaded only what was new or had changed. The manifest of a snapshot names every path it holds
with the run and key of its content; `zstd -dc ID.jsonl.zst` shows it. In paths and keys `%XX` stands for a
byte that is no ordinary character; a path too long for a key lies under `long/` and its SHA-256.

## One snapshot, exactly

Copy all of this to a disk (`aws s3 sync s3://BUCKET/PREFIX COPY`), save the script below as `restore.py`,
and with Python 3 and the `zstd` command run

    python3 restore.py COPY SECTION ID TARGET

It restores content, permissions and times; owners, extended attributes and hard links stand in the
manifest too.

```python
{RESTORE_SCRIPT}
```

## Encrypted sections

Objects that begin with the bytes `ASBKENC` are sealed: a 16-byte header, then a Cobblestone-256 message (the
chunked-encryption specification of C2SP: AES-256-GCM), under the key that the slots in asyncbackup.json wrap.
The pass phrase or key file is needed, and asyncbackup or a reader written from its docs/format.md. Without
pass phrase and key file nobody can open them.
"""
