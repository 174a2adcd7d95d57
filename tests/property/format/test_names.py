from __future__ import annotations

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from asyncbackup.format.escape import escape_name, escape_path, unescape
from asyncbackup.format.keys import check_path, content_key, long_key, path_of_content_key
from asyncbackup.model import Kind
from tests.property.format.strategies import any_bytes, fixed, names, paths
from tests.unit.format import independent_reader

NASTY = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\ufffe\uffff]")


@fixed
@given(any_bytes)
def test_every_byte_comes_back(raw: bytes) -> None:
    text = escape_path(raw)
    assert unescape(text) == raw
    assert independent_reader.unescape(text) == raw


@fixed
@given(any_bytes)
def test_escaped_text_is_stable_and_harmless(raw: bytes) -> None:
    text = escape_path(raw)
    assert unicodedata.normalize("NFC", text) == text
    assert NASTY.search(text) is None
    assert text.count("/") == raw.count(b"/")
    assert escape_path(raw) == "/".join(escape_name(segment) for segment in raw.split(b"/"))


@fixed
@given(st.lists(any_bytes, min_size=2, max_size=2, unique=True))
def test_different_names_stay_different_also_when_normalized(pair: list[bytes]) -> None:
    first, second = map(escape_path, pair)
    assert unicodedata.normalize("NFC", first) != unicodedata.normalize("NFC", second)


@fixed
@given(st.text())
def test_valid_text_in_nfc_without_specials_is_unchanged(text: str) -> None:
    text = unicodedata.normalize("NFC", NASTY.sub("", text).replace("%", ""))
    assert escape_path(text.encode()) == text


@fixed
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_unescapes_as_the_document_says(text: str) -> None:
    assert unescape(text) == independent_reader.unescape(text)


@fixed
@given(paths | st.just(b""), st.sampled_from(Kind), st.integers(0, 1000))
def test_keys_fit_and_lead_back_to_the_path(path: bytes, kind: Kind, prefix_bytes: int) -> None:
    key = content_key(path, kind, prefix_bytes=prefix_bytes)
    if key == long_key(path):
        assert path_of_content_key(key) is None
        return
    assert path_of_content_key(key) == path
    assert prefix_bytes + len(key.encode()) <= 1024
    assert all(len(segment.encode()) <= 255 for segment in key.split("/"))
    assert key.endswith("/") == (kind is Kind.FOLDER or not path)


@fixed
@given(names)
def test_possible_names_make_possible_paths(name: bytes) -> None:
    check_path(name)
    check_path(b"folder/" + name)
