"""Lines of keys in every form that TOML has for them."""

from __future__ import annotations

import tomllib

from asyncbackup.toml_lines import KeyPath, key_lines

DOCUMENT = '''\
title = "a = b # no comment" # comment = 1
a.b . "c d" = 1

[table]
text = """
[no] = table
x = "1" \\"""
"""
literal = \'\'\'
y = 2\'\'\'
items = [ # [x]
  1, "]",
  [2,
   3],
  { k = 4, l.m = 5 },
]
date = 1979-05-27T07:32:00Z
inline = { one = "}", two = { three = [1] } }
[table.'quoted.key']
"\\u0041" = true
[[array]]
n = 0
[[array]]
n = 1
[array.sub]
n = 2
[[array.nested]]
n = 3
'''

EXPECTED: dict[KeyPath, int] = {
    ("title",): 1,
    ("a",): 2,
    ("a", "b"): 2,
    ("a", "b", "c d"): 2,
    ("table",): 4,
    ("table", "text"): 5,
    ("table", "literal"): 9,
    ("table", "items"): 11,
    ("table", "items", 0): 12,
    ("table", "items", 1): 12,
    ("table", "items", 2): 13,
    ("table", "items", 2, 0): 13,
    ("table", "items", 2, 1): 14,
    ("table", "items", 3): 15,
    ("table", "items", 3, "k"): 15,
    ("table", "items", 3, "l"): 15,
    ("table", "items", 3, "l", "m"): 15,
    ("table", "date"): 17,
    ("table", "inline"): 18,
    ("table", "inline", "one"): 18,
    ("table", "inline", "two"): 18,
    ("table", "inline", "two", "three"): 18,
    ("table", "inline", "two", "three", 0): 18,
    ("table", "quoted.key"): 19,
    ("table", "quoted.key", "A"): 20,
    ("array",): 21,
    ("array", 0): 21,
    ("array", 0, "n"): 22,
    ("array", 1): 23,
    ("array", 1, "n"): 24,
    ("array", 1, "sub"): 25,
    ("array", 1, "sub", "n"): 26,
    ("array", 1, "nested"): 27,
    ("array", 1, "nested", 0): 27,
    ("array", 1, "nested", 0, "n"): 28,
}


def paths(value: object, path: KeyPath = ()) -> list[KeyPath]:
    items: list[tuple[str | int, object]]
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return []
    found: list[KeyPath] = []
    for key, item in items:
        found += [(*path, key), *paths(item, (*path, key))]
    return found


def test_every_form_of_key() -> None:
    assert key_lines(DOCUMENT) == EXPECTED
    assert sorted(map(str, paths(tomllib.loads(DOCUMENT)))) == sorted(map(str, EXPECTED))


def test_nothing() -> None:
    assert key_lines("") == {}
    assert key_lines("# only\n\n") == {}
