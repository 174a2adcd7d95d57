"""Names from a tree or a bucket as text that is safe to print and to read back."""

from __future__ import annotations

import os
import unicodedata
from pathlib import PurePath

from asyncbackup.format.escape import escape_path

# Format characters turn text around or hide it; separators break lines.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def terminal_path(path: bytes) -> str:
    """A path for a person's eyes: escaped as in manifests, and also what a terminal would act upon.

    ``format.escape.unescape`` gives the bytes back. The root is ``"."``.
    """
    text = escape_path(path)
    if text.isprintable():
        return text or "."
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def terminal_text(text: str, *, keep_newlines: bool = False) -> str:
    """Any text with whatever a terminal would act upon shown as ``\\x1b`` or ``\\u202e``."""
    if text.isprintable():
        return text
    return "".join(
        character
        if unicodedata.category(character) not in _UNSAFE_CATEGORIES
        or (keep_newlines and character in "\n\t")
        else _backslashed(character)
        for character in text
    )


def is_utf8(value: str) -> bool:
    """Whether ``value`` can be written as UTF-8, as SQLite and every key of ours need it.

    Names that are none come from other systems: owners of a foreign machine,
    files of somebody else in the folder of a destination.
    """
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def local_path(path: PurePath) -> str:
    """A path of this machine for a person's eyes."""
    return terminal_path(os.fsencode(path))


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _backslashed(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
