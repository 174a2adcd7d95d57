"""``RESTORE.md``: what tells a stranger how to get the files back without asyncbackup."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from asyncbackup.format.decrypt_script import SCRIPT

_INTRODUCTION = """\
# How to get these files back

What lies here was written by asyncbackup. With it at hand, use it:

    asyncbackup -c CONFIG restore SECTION --target restored

This page is for the day when it is not at hand. {contents}

    asyncbackup.json                  which repository this is{slots}
    SECTION/snapshots/RUN.jsonl.zst   what a snapshot holds: zstd, then one JSON object a line{sealed}
    SECTION/data/RUN/                 what that run uploaded, new and changed files alone:
        files/...                       an object a file, with its own name
        long/...                        the same, for names that are too long for a key
        packs/000001.tar, .tar.zst      many small files, folders and symlinks in one{packs}
{hidden}
A RUN is named after its time in UTC, so names sort by time. What there is depends on how the section was set
up when it ran, and may differ from run to run. Sections known when this was written: {sections}.
"""
_SECTIONS = re.compile(r"Sections known when this was written: (.*)\.$", re.MULTILINE)

_IN_CLEAR = "Nothing here was encrypted then: contents are as they were, or compressed with zstd."
_ENCRYPTED = (
    "The contents of files and the snapshots are encrypted; names and times are not, unless they are "
    "hidden. You need the pass phrase or the key file."
)
_HIDDEN = """\
        hidden/...                      an object a file, where names are hidden

Where they are, nothing here tells what a file is called, where it lay or whether it is a folder: the keys are
made from the names with the master key. Only asyncbackup and the script below find out which is which.
"""

_S3_SETUP = """
In the commands, `aws` is the AWS CLI and takes credentials from its usual places. If the bucket is not at
AWS, say first where it is:

    export AWS_ENDPOINT_URL=https://s3.example.org
"""

_S3_PLAIN = """
## One file

An object below `files/` can be copied as it is; one whose metadata say `asyncbackup-encoding: zstd` is
expanded by `zstd -dc`. What is in a pack, tar lists and extracts.

    aws s3 ls --recursive {url}/{section}/data/
    aws s3 cp {url}/{section}/data/RUN/files/docs/report.pdf .
    aws s3 cp {url}/{section}/data/RUN/packs/000001.tar.zst - | zstd -dc | tar -tv

(`export AWS_ENDPOINT_URL=https://s3.example.org` first, if the bucket is not at AWS.)

## The latest version of everything

Needs the AWS CLI, tar and, where anything is compressed, zstd. First, which section, and where the bucket is
if it is not at AWS (else leave that line out). Credentials come from their usual places.

    SECTION={section}
    export AWS_ENDPOINT_URL=https://s3.example.org
    mkdir restored && touch mark
    expand() {{  # what lies compressed below files/: its metadata say so
        find restored -type f -cnewer mark | while IFS= read -r file; do
            case $(head -c 4 "$file" | od -An -tx1) in *28*b5*2f*fd*) ;; *) continue ;; esac
            key={prefix}$SECTION/data/${{run}}files/${{file#restored/}}
            aws s3api head-object --output json --bucket {bucket} --key "$key" </dev/null 2>/dev/null |
                grep -q '"asyncbackup-encoding": "zstd"' || continue
            zstd -dqc "$file" >expanded && touch -r "$file" expanded
            cat expanded >"$file" && touch -r expanded "$file"
        done
    }}

Then the runs over each other, oldest first. For one run alone put its name and a slash in place of `$(...)`;
after a first run that is the whole tree.

    for run in $(aws s3 ls {url}/$SECTION/data/ | awk '$1 == "PRE" {{print $2}}'); do
        data={url}/$SECTION/data/$run
        for pack in $(aws s3 ls "${{data}}packs/" | awk '{{print $4}}'); do
            aws s3 cp "${{data}}packs/$pack" - | zstd -dcf | {tar}
        done
        touch mark
        aws s3 cp --recursive "${{data}}files/" restored/
        expand
    done

## With times, permissions and owners

Packs bring them along if you are root. Of what lies below `files/` rclone reads them from the objects'
metadata; who is not root leaves `--metadata` out, and gets the times alone. After the first commands above:

    rclone config create backup s3 provider=Other env_auth=true endpoint=$AWS_ENDPOINT_URL
    for run in $(rclone lsf --dirs-only backup:{path}/$SECTION/data/ | sort); do
        data=backup:{path}/$SECTION/data/$run
        for pack in $(rclone lsf "${{data}}packs/"); do
            rclone cat "${{data}}packs/$pack" | zstd -dcf | {tar}
        done
        touch mark
        rclone copy --metadata --create-empty-src-dirs "${{data}}files" restored
        expand
    done

(For a bucket at AWS: `provider=AWS region=REGION`, without `endpoint`. Where a run has no packs or no files,
rclone says so and the loop goes on. What else the metadata hold it keeps as attributes `user.asyncbackup-…`)
"""

_FOLDER_PLAIN = """
## One file

An object below `files/` can be copied as it is; one whose metadata say `asyncbackup-encoding: zstd` is
expanded by `zstd -dc`. What is in a pack, tar lists and extracts.

    ls -R {url}/{section}/data/
    cp {url}/{section}/data/RUN/files/docs/report.pdf .
    zstd -dc <{url}/{section}/data/RUN/packs/000001.tar.zst | tar -tv

## The latest version of everything

Needs tar and, where anything is compressed, zstd and getfattr. The runs over each other, oldest first; for
one run alone put its name in place of `*`. After a first run that is the whole tree.

    SECTION={section}
    mkdir restored
    for run in {url}/$SECTION/data/*/; do
        for pack in "$run"packs/*; do
            [ ! -e "$pack" ] || zstd -dcf <"$pack" | {tar}
        done
        [ -d "${{run}}files" ] || continue
        tar -C "${{run}}files" -cf - . | tar -xpf - -C restored
        # Some of it may be compressed: its metadata, extended attributes of the file, say so.
        (cd "${{run}}files" && find . -type f) | while IFS= read -r name; do
            file=${{run}}files/$name
            case $(head -c 4 "$file" | od -An -tx1) in *28*b5*2f*fd*) ;; *) continue ;; esac
            getfattr --absolute-names -d "$file" | grep -q 'asyncbackup-encoding="zstd"' || continue
            zstd -dqc "$file" >"restored/$name" && touch -r "$file" "restored/$name"
        done
    done
"""

_TAR = "tar -xpf - --xattrs -C restored"

_PLAIN_LIMITS = """
(Where no pack is compressed, `zstd` may be left out; the tar of macOS and FreeBSD knows no `--xattrs`. As
root, these commands give files their setuid and setgid bits too, whoever put them into the bucket:
`find restored -type f '(' -perm -4000 -o -perm -2000 ')'` names them.)

## What these commands do not bring back

- Deletions and renamings: what was deleted since is there again, and so are old names. Where a folder was a
  file once, or the reverse, tar or the AWS CLI complains.
- A file of a pack whose content the section held already, under another name or of an earlier run: a pack
  only notes where that is.
- Changes of mode, owner or times alone, of a file that was uploaded before.
- The order of things after a prune: packs of a RUN without a snapshot may hold files of earlier runs, and an
  older version may then come last.
- Of what lies below `files/`: symlinks, which are empty files, and, but with rclone, empty folders, times,
  permissions and owners. In names, control characters, backslashes and what is not valid UTF-8 stand as
  `%XX`, a byte each in hex.
- What lies below `long/`: the snapshot says what its names are.

A snapshot says all of it, and can be read: `zstd -dc <RUN.jsonl.zst | less`. Where its first line names a
`base`, it says what changed since that snapshot. `RUN.1.jsonl.zst` takes the place of `RUN.jsonl.zst`, and so
on. A name below `SECTION/forgotten/` is that of a snapshot that does not count any more.
"""

_SCRIPT = """
## {title}

{purpose}
Copy everything to a disk, take the Python script out of this page, and run it (Python 3.9 or later):

    {copy}
    sed -n '/^```python$/,/^```$/p' copy/RESTORE.md | sed '1d;$d' > decrypt.py
    pip install 'cryptography>=44' 'zstandard>=0.21'
    python3 decrypt.py copy list
    python3 decrypt.py copy restore {section}/latest restored

`list` names the snapshots that may stand in place of `{section}/latest`; names of files or folders at the
end restore those alone. A copy of one section is enough (its folder, `asyncbackup.json` and this page). The
format is specified in `docs/format.md` of asyncbackup, so that such a script can be written again.

```python
{script}```
"""


def sections_of_readme(page: bytes) -> list[str]:
    """The sections that a page of :func:`restore_readme` was made for; none for any other text."""
    found = _SECTIONS.search(page.decode(errors="replace"))
    return [] if found is None else re.findall(r"`([^`]+)`", found[1])


def restore_readme(*, destination: str, sections: Sequence[str], encrypted: bool) -> bytes:
    """The text of ``RESTORE.md`` for a destination, in Markdown.

    ``destination`` is its URL (``s3://BUCKET/PREFIX`` or ``file:///FOLDER``);
    ``sections`` are those known now, the first of which stands in the
    examples. With ``encrypted``, the ways that need no decryption are left
    out. Every command works as it stands, but for the run's name.
    """
    scheme, _, rest = destination.rstrip("/").partition("://")
    section = sections[0] if sections else "SECTION"
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        place = shlex.quote(f"s3://{rest}")
        plain = _S3_PLAIN.format(
            section=section,
            url=place,
            path=shlex.quote(rest),
            bucket=shlex.quote(bucket),
            prefix=shlex.quote(prefix + "/") if prefix else "",
            tar=_TAR,
        )
        copy = f"aws s3 cp --recursive {place}/ copy/"
    else:
        place = shlex.quote(rest)
        plain = _FOLDER_PLAIN.format(section=section, url=place, tar=_TAR)
        copy = f"cp -R {place} copy"
    text = _INTRODUCTION.format(
        contents=_ENCRYPTED if encrypted else _IN_CLEAR,
        slots=", and the key slots" if encrypted else "",
        sealed=", encrypted" if encrypted else "",
        packs=", encrypted whole" if encrypted else "",
        hidden=_HIDDEN if encrypted else "",
        sections=", ".join(f"`{name}`" for name in sections) or "none",
    )
    if not encrypted:
        text += plain + _PLAIN_LIMITS
    elif scheme == "s3":
        text += _S3_SETUP
    text += _SCRIPT.format(
        title="Decrypting" if encrypted else "Exactly one snapshot",
        purpose=(
            "A script asks for the pass phrase and does the rest."
            if encrypted
            else "A snapshot refers to objects of earlier runs too; a script puts them together."
        ),
        copy=copy,
        section=section,
        script=SCRIPT,
    )
    return text.encode()
