"""``RESTORE.md``: what tells a stranger how to get the files back without asyncbackup."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from asyncbackup.format.decrypt_script import SCRIPT

_INTRODUCTION = """\
# How to get these files back

What lies here was written by asyncbackup. With it at hand, use it:

    asyncbackup -c CONFIG restore SECTION --target restored

This page is for the day when it is not at hand. {contents}

    asyncbackup.json            which repository this is{slots}
    SECTION/snapshots/RUN.jsonl.zst   what a snapshot holds: zstd, then one JSON object a line{sealed}
    SECTION/data/RUN/files/...  what that run uploaded: new and changed files alone
    SECTION/data/RUN/long/...   the same, for names that are too long for a key

A RUN is named after its time in UTC, so names sort by time. Sections known when this was written: {sections}.
"""
_SECTIONS = re.compile(r"Sections known when this was written: (.*)\.$", re.MULTILINE)

_IN_CLEAR = "Nothing here is encrypted: every file is an object, with its content as it was."
_ENCRYPTED = (
    "The contents of files and the snapshots are encrypted; names and times are not. "
    "You need the pass phrase or the key file."
)

_S3_SETUP = """
In the commands, `aws` is the AWS CLI and takes credentials from its usual places. If the bucket is not at
AWS, say first where it is:

    export AWS_ENDPOINT_URL=https://s3.example.org
"""

_S3_PLAIN = """
## The files of one run

After a single run that is the whole tree.

    SECTION={section}
    aws s3 ls {url}/$SECTION/data/
    RUN=…                       # one of the names that were listed, without the slash
    aws s3 cp --recursive {url}/$SECTION/data/$RUN/files/ restored/

## The latest version of everything

The files of all runs over each other, oldest first. Files that were deleted between runs are there again.

    SECTION={section}
    for run in $(aws s3 ls {url}/$SECTION/data/ | awk '$1 == "PRE" {{print $2}}'); do
        aws s3 cp --recursive {url}/$SECTION/data/${{run}}files/ restored/
    done

## With times, permissions and owners

rclone reads them from the objects' metadata. Run it as root; anyone else leaves `--metadata` out, and gets
the times alone.

    rclone config create backup s3 provider=Other env_auth=true endpoint=$AWS_ENDPOINT_URL
    SECTION={section}
    for run in $(rclone lsf --dirs-only backup:{path}/$SECTION/data/ | sort); do
        rclone copy --metadata --create-empty-src-dirs backup:{path}/$SECTION/data/${{run}}files restored
    done

(For a bucket at AWS: `provider=AWS region=REGION`, without `endpoint`.)
"""

_FOLDER_PLAIN = """
## The files of one run

After a single run that is the whole tree.

    SECTION={section}
    ls {url}/$SECTION/data/
    RUN=…                       # one of the names that were listed
    mkdir restored
    cp -Rp {url}/$SECTION/data/$RUN/files/. restored/

## The latest version of everything

The files of all runs over each other, oldest first. Files that were deleted between runs are there again.

    SECTION={section}
    mkdir restored
    for run in {url}/$SECTION/data/*/; do
        cp -Rp "${{run}}files/." restored/
    done
"""

_PLAIN_LIMITS = """
## What these commands do not bring back

- Symlinks are empty files; their targets are in the snapshot and in the objects' metadata.
- In names, control characters, backslashes and what is not valid UTF-8 stand as `%XX`, a byte each in hex.
- Names too long for a key lie below `long/`; the snapshot says what they are.
- Owners, permissions and extended attributes, where the commands say nothing of them; set-id bits.

A snapshot says all of it, and can be read:

    zstd -dc < RUN.jsonl.zst | less

Where its first line names a `base`, it says what changed since that snapshot; the rest stands there.
"""

_SCRIPT = """
## {title}

{purpose}
Copy everything to a disk, take the Python script out of this page, and run it (Python 3.9 or later):

    {copy}
    sed -n '/^```python$/,/^```$/p' copy/RESTORE.md | sed '1d;$d' > decrypt.py
    pip install 'cryptography>=44' 'zstandard>=0.21'
    python3 decrypt.py copy list
    python3 decrypt.py copy restore {section}/snapshots/RUN.jsonl.zst restored

A copy of one section is enough (its folder, `asyncbackup.json` and this page). The format is specified in
`docs/format.md` of asyncbackup, so that such a script can be written again.

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
    url = urlsplit(destination)
    section = sections[0] if sections else "SECTION"
    if url.scheme == "s3":
        path = shlex.quote(f"{url.netloc}{url.path}".rstrip("/"))
        place = shlex.quote(destination.rstrip("/"))
        plain = _S3_PLAIN.format(section=section, url=place, path=path)
        copy = f"aws s3 cp --recursive {place}/ copy/"
    else:
        place = shlex.quote(unquote(url.path).rstrip("/"))
        plain = _FOLDER_PLAIN.format(section=section, url=place)
        copy = f"cp -R {place} copy"
    text = _INTRODUCTION.format(
        contents=_ENCRYPTED if encrypted else _IN_CLEAR,
        slots=", and the key slots" if encrypted else "",
        sealed=", encrypted" if encrypted else "",
        sections=", ".join(f"`{name}`" for name in sections) or "none",
    )
    if url.scheme == "s3":
        text += _S3_SETUP
    if not encrypted:
        text += plain + _PLAIN_LIMITS
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
