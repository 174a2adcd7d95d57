"""Names of files as printable text, and back, byte for byte (docs/format.md, "Escaping").

A name is arbitrary bytes; a key, a JSON string and a terminal want text. What
is ordinary stays as it is; these become ``%XX`` (upper-case hex, a byte each):

* bytes that are not part of valid UTF-8 (surrogates count as invalid),
* control characters: U+0000 to 001F, U+007F to 009F, and U+FFFE, U+FFFF,
* backslashes,
* a ``%`` that is followed by two hex digits,
* all non-ASCII bytes of a segment whose escaped form is not in NFC.

So escaping is reversible for every byte string, and two names that a server
or a file system may take for one (NFC and NFD) stay two.
"""

from __future__ import annotations

import re
from unicodedata import is_normalized

from asyncbackup.errors import FormatError

# "surrogateescape" decodes each invalid byte to U+DC80…DCFF; nothing else of that range can occur.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ufffe\uffff\udc80-\udcff]|%(?=[0-9A-Fa-f]{2})")
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_NON_ASCII = re.compile(r"[^\x00-\x7f]")


def escape_name(name: bytes) -> str:
    """``name`` as text in which every byte can be found again; a ``/`` stays a ``/``."""
    return escape_path(name)


def escape_path(path: bytes) -> str:
    """``path`` escaped segment by segment, ``/`` kept. The result is in NFC and has no control character."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return "/".join(map(_escape_segment, path.split(b"/")))
    # isprintable() also refuses harmless characters (U+00A0, U+2028): those take the slow way.
    if text.isprintable() and "%" not in text and "\\" not in text and is_normalized("NFC", text):
        return text
    return "/".join(map(_escape_segment, path.split(b"/")))


def unescape(text: str) -> bytes:
    """The bytes that were escaped to ``text``; hex digits of either case are read.

    Raises :class:`FormatError` if ``text`` holds a lone surrogate.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"the path {text!a} holds a lone surrogate") from None
    if "%" not in text:
        return raw
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), raw)


def _escape_segment(segment: bytes) -> str:
    text = _UNSAFE.sub(_escape_match, segment.decode(errors="surrogateescape"))
    if is_normalized("NFC", text):
        return text
    return _NON_ASCII.sub(_escape_match, text)


def _escape_match(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogateescape"))
