"""docs/format.md against the program: its examples, numbers and names are those that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from asyncbackup.format import descriptor, envelope, keys, keyslots, manifest, metadata
from asyncbackup.format.escape import escape_path, unescape
from asyncbackup.format.manifest_lines import EndLine, ExtentLine, FileLine, FolderLine, Line, SymlinkLine
from asyncbackup.format.manifest_reader import MAX_WINDOW_BYTES
from tests.unit.format.manifests import symlink
from tests.unit.format.test_metadata import FILE, changed

TEXT = (Path(__file__).parents[3] / "docs/format.md").read_text()


def section(title: str) -> str:
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, title
    return match[1]


def rows(text: str) -> list[list[str]]:
    """The rows of a section's tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {number - 1 for number, line in enumerate(lines) if line.startswith("|---")}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if number not in heads and not line.startswith("|---")
    ]


EXAMPLES = rows(section("Escaping"))


def code_of(cell: str) -> str:
    match = re.match(r"`(.*?)`", cell)
    assert match is not None, cell
    return match[1]


@pytest.mark.parametrize("row", EXAMPLES, ids=[code_of(row[1]) for row in EXAMPLES])
def test_escaping_examples(row: list[str]) -> None:
    name, escaped = map(code_of, row)
    in_hex = re.fullmatch(r"[0-9A-F]{2}( [0-9A-F]{2})+", name)
    raw = bytes.fromhex(name) if in_hex else name.replace("␊", "\n").encode()
    assert escape_path(raw) == escaped
    assert unescape(escaped) == raw


def test_there_are_examples_of_every_rule() -> None:
    assert len(EXAMPLES) == 13


def test_metadata_names() -> None:
    documented = {name for row in rows(section("Metadata")) for name in re.findall(r"`([a-z0-9-]+)`", row[0])}
    everything = changed(
        nlink=2, sparse=True, hardlink="label", target=b"t", xattrs=((b"user.x", b"v" * 2000),)
    )
    written = set(metadata.encode_metadata(everything, original_size=None, long_path=True))
    written |= set(metadata.encode_metadata(FILE, original_size=5, long_path=False))
    written |= set(metadata.encode_metadata(everything, original_size=None, long_path=False, first_path=b"f"))
    small = changed(xattrs=((b"user.x", b"v"),))
    written |= set(metadata.encode_metadata(small, original_size=None, long_path=False))
    written |= set(metadata.encode_metadata(symlink(b"a"), original_size=None, long_path=False))
    assert written == documented


def test_entry_fields() -> None:
    documented = {name for row in rows(section("Entries")) for name in re.findall(r"`([a-z0-9_]+)`", row[0])}
    fields: set[str] = set()
    for line in (FileLine, FolderLine, SymlinkLine, ExtentLine):
        fields |= {field.encode_name for field in msgspec.structs.fields(line)}
    assert fields == documented


def test_example_lines_are_read() -> None:
    text = section("Deleted, packs, failed, end")
    examples = re.findall(r"^    (\{.*?\})$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == 4
    decoded = [msgspec.json.decode(example.encode(), type=Line) for example in examples]
    assert isinstance(decoded[-1], EndLine)
    (example,) = re.findall(r"^    (\{.*?\})$", section("Header"), re.MULTILINE | re.DOTALL)
    manifest.ManifestWriter(msgspec.json.decode(example.encode(), type=manifest.ManifestHeader))
    (example,) = re.findall(r"^    (\{.*?^    \})$", section("Descriptor"), re.MULTILINE | re.DOTALL)
    descriptor.decode_descriptor(example.encode())


@pytest.mark.parametrize(
    ("title", "facts"),
    [
        ("Keys", [f"{keys.MAX_KEY_BYTES:,}", str(keys.MAX_SEGMENT_BYTES)]),
        (
            "Metadata",
            [f"{metadata.MAX_METADATA_BYTES:,} bytes", "1,620", f"{metadata.MAX_PATH_VALUE_BYTES:,}"],
        ),
        ("Manifests", [f"{manifest.MAX_LINE_BYTES:,}", f"{MAX_WINDOW_BYTES >> 20} MiB"]),
        ("Header", [f"at most {manifest.MAX_DEPTH}"]),
        ("Descriptor", [f"{descriptor.MAX_DESCRIPTOR_BYTES:,}", f"at most {descriptor.MAX_SLOTS}"]),
        (
            "Key slots",
            [
                f"`iterations` is not {descriptor.FLOOR.iterations} … {descriptor.CEILING.iterations}",
                f"{descriptor.FLOOR.memory_kib:,} … {descriptor.CEILING.memory_kib:,}",
                f"`lanes` not {descriptor.FLOOR.lanes} … {descriptor.CEILING.lanes}",
                keyslots._WRAP_LABEL.decode(),
                keyslots._KEY_FILE_INFO.decode(),
            ],
        ),
        (
            "Sealed objects",
            [
                envelope.MAGIC.hex(" ").upper(),
                envelope._CONTEXT_LABEL.decode(),
                f"{envelope.CHUNK_SIZE:,}",
                f"({envelope.SEALED_CHUNK_SIZE:,} stored)",
            ],
        ),
    ],
)
def test_numbers_and_labels(title: str, facts: list[str]) -> None:
    for fact in facts:
        assert fact in section(title)


def test_links_within_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(#(.*?)\)", TEXT):
        assert target in anchors
