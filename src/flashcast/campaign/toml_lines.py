"""Where each key of a TOML file stands.

The problem: a fault must name its line, and tomllib gives values without positions. A parser that
keeps them (tomlkit) keeps them as trivia to write the file back, not as line numbers. So this scanner
walks a document that tomllib has already accepted and notes the line of every key. It judges nothing:
of values it understands only as much as it takes to step over them, and into arrays and inline tables.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_right

from flashcast.campaign.faults import Key

_BLANK = " \t\r"
_BARE_END = ",]}\n#"


class TomlLines:
    """The lines of one document."""

    def __init__(self, lines: dict[Key, int]) -> None:
        self._lines = lines

    def __repr__(self) -> str:
        return f"<TomlLines of {len(self._lines)} keys>"

    def exact(self, key: Key) -> int | None:
        """The line on which ``key`` is written, None where it is not."""
        return self._lines.get(key)

    def nearest(self, key: Key) -> int:
        """The line of ``key``, or of the innermost table around it that is written; 1 for the document."""
        for length in range(len(key), 0, -1):
            line = self._lines.get(key[:length])
            if line is not None:
                return line
        return 1


def toml_lines(text: str) -> TomlLines:
    """Scans ``text``, which tomllib must have accepted."""
    return TomlLines(_Scanner(text).scan())


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_ends = [i for i, char in enumerate(text) if char == "\n"]
        self._lines: dict[Key, int] = {}
        self._tables: dict[Key, int] = {}
        """The index of the newest element of each array of tables."""

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        self._skip_space(newlines=True)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip_space(newlines=True)
        return self._lines

    def _note(self, key: Key, since: int) -> None:
        line = bisect_right(self._line_ends, self._at - 1) + 1
        for length in range(since + 1, len(key) + 1):
            self._lines.setdefault(key[:length], line)

    def _header(self) -> Key:
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        names = self._names("]")
        key: Key = ()
        for name in names[:-1]:
            key = self._newest((*key, name))
        key = (*key, names[-1])
        if array:
            self._note(key, 0)
            self._tables[key] = self._tables.get(key, -1) + 1
        key = self._newest(key)
        self._note(key, 0)
        self._at += 2 if array else 1
        return key

    def _newest(self, key: Key) -> Key:
        return (*key, self._tables[key]) if key in self._tables else key

    def _pair(self, table: Key) -> None:
        start = self._at
        names = self._names("=")
        end, self._at = self._at, start
        key: Key = (*table, *names)
        self._note(key, len(table))
        self._at = end + 1
        self._skip_space()
        self._value(key)

    def _names(self, end: str) -> list[str]:
        """A dotted key up to ``end``, which is left unread. tomllib itself undoes quotes and escapes."""
        start = self._at
        while self._text[self._at] != end:
            if self._text[self._at] in "\"'":
                self._string()
            else:
                self._at += 1
        inner = tomllib.loads(f"{self._text[start : self._at].strip()} = 0")
        names: list[str] = []
        while isinstance(inner, dict):
            name, inner = next(iter(inner.items()))
            names.append(name)
        return names

    def _value(self, key: Key) -> None:
        char = self._text[self._at]
        if char in "\"'":
            self._string()
        elif char == "[":
            self._array(key)
        elif char == "{":
            self._inline_table(key)
        else:
            while self._at < len(self._text) and self._text[self._at] not in _BARE_END:
                self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        closing = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(closing)
        while not self._text.startswith(closing, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(closing)
        # A multi-line string may end in up to five quotes, the last three of which close it.
        while len(closing) == 3 and self._text.startswith(quote, self._at):
            self._at += 1

    def _array(self, key: Key) -> None:
        index = 0
        self._at += 1
        self._skip_space(newlines=True, commas=True)
        while self._text[self._at] != "]":
            self._note((*key, index), len(key))
            self._value((*key, index))
            index += 1
            self._skip_space(newlines=True, commas=True)
        self._at += 1

    def _inline_table(self, key: Key) -> None:
        self._at += 1
        self._skip_space(newlines=True, commas=True)
        while self._text[self._at] != "}":
            self._pair(key)
            self._skip_space(newlines=True, commas=True)
        self._at += 1

    def _skip_space(self, *, newlines: bool = False, commas: bool = False) -> None:
        skipped = _BLANK + ("\n" if newlines else "") + ("," if commas else "")
        while self._at < len(self._text):
            if self._text[self._at] in skipped:
                self._at += 1
            elif newlines and self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return
