"""The line of every key, whatever stands between them."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flashcast.campaign.faults import Key
from flashcast.campaign.toml_lines import toml_lines

DOCUMENT = '''\
# a comment with [brackets] and "quotes
name = "x # no comment"   # a comment
a.b.c = 1

[t."quoted.key"]
list = [
  1, # one ]
  "two ]",
  { in = "}", line = [3] },
]
long = """
[not.a.table]
key = "no key" ""\\"""
still"""""
raw = \'\'\'it's
\\\'\'\'
after = 1

[[items]]
x = 1
[items.sub]
y = 2
[[items.inner]]
z = 3
[[items.inner]]
z = 4
[[items]]
x = 5
[[items.inner]]
z = 6
'''


def test_keys_are_found_in_every_kind_of_place() -> None:
    tomllib.loads(DOCUMENT)
    lines = toml_lines(DOCUMENT)
    expected: dict[Key, int] = {
        ("name",): 2,
        ("a", "b", "c"): 3,
        ("a",): 3,
        ("t", "quoted.key"): 5,
        ("t", "quoted.key", "list"): 6,
        ("t", "quoted.key", "list", 1): 8,
        ("t", "quoted.key", "list", 2, "line", 0): 9,
        ("t", "quoted.key", "long"): 11,
        ("t", "quoted.key", "raw"): 15,
        ("t", "quoted.key", "after"): 17,
        ("items", 0): 19,
        ("items", 0, "sub", "y"): 22,
        ("items", 0, "inner", 1, "z"): 26,
        ("items", 1, "x"): 28,
        ("items", 1, "inner", 0, "z"): 30,
    }
    assert {key: lines.exact(key) for key in expected} == expected


def test_what_is_not_written_is_told_at_the_table_around_it() -> None:
    lines = toml_lines(DOCUMENT)
    assert lines.exact(("items", 1, "missing")) is None
    assert lines.nearest(("items", 1, "missing", "deeper")) == 27
    assert lines.nearest(("nowhere",)) == 1


VALUES = st.sampled_from(
    [
        "1", "-1.5e3", "true", "2026-02-08 18:30:00Z", '"a [b] = {c} # d"', "'it is \\'", '""', "''", '"\\"]\\\\"',
        '"""one"""', '"""\ntwo # [\n"""', "'''\nthree\n\n'''", '"""four\\""""', '""""five"""""', "[]", "{}",
        '[1, [2, "]"], # x ]\n]', "[\n  'a',\n\n  'b', ]", '{ a = 1, b.c = "}", d = [{ e = "\'" }] }', "'''x''''",
    ]
)  # fmt: skip
KEYS = st.sampled_from(["key", '"quo ted"', "'li.te#ral'", '"es\\u00e9\\"ape"', "dotted . \"k.e=y\" . 'z'", "3.14"])


@given(st.lists(st.tuples(KEYS, VALUES, st.sampled_from(["", "\n", " # c ] }\n\n", "\r"])), max_size=8))
def test_any_value_is_stepped_over(pairs: list[tuple[str, str, str]]) -> None:
    text = ""
    expected: dict[Key, int] = {}
    for number, (key, value, blank) in enumerate(pairs):
        expected["items", number] = text.count("\n") + 1
        text += "[[items]]\n"
        if blank:
            text += f"{blank}\n"
        inner: Any = tomllib.loads(f"{key} = 0")
        path: Key = ("items", number)
        while isinstance(inner, dict):
            name, inner = next(iter(inner.items()))
            path = (*path, name)
        expected[path] = text.count("\n") + 1
        text += f"{key}\t= {value}\n"
    tomllib.loads(text)
    lines = toml_lines(text)
    assert {key: lines.exact(key) for key in expected} == expected


def _paths(value: Any, key: Key = ()) -> list[Key]:
    if isinstance(value, dict):
        return [key, *(path for name, item in value.items() for path in _paths(item, (*key, name)))]
    if isinstance(value, list):
        return [key, *(path for index, item in enumerate(value) for path in _paths(item, (*key, index)))]
    return [key]


def test_every_key_that_tomllib_knows_has_a_line() -> None:
    lines = toml_lines(DOCUMENT)
    for path in _paths(tomllib.loads(DOCUMENT)):
        assert path == () or lines.exact(path) is not None, path
