"""From a text to a feature: whole words by Python, patterns by RE2, whose time grows with the text and no faster.

Texts come from strangers. Python's own regular expressions can take for ever on a text that was made for that, so the
patterns that operators write go to RE2 (through Arrow, which has it); a list of literal words cannot be misled.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from flashcast.zombie.reports.bounds import TEXT_CHARS_MAX

if TYPE_CHECKING:
    from flashcast.zombie.reports.config import ReportsConfig


def check_pattern(pattern: str) -> None:
    """Raises ValueError where RE2 does not take ``pattern`` (https://github.com/google/re2/wiki/Syntax)."""
    try:
        pc.match_substring_regex(pa.array(["x"]), pattern, ignore_case=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"is no regular expression of RE2: {str(error).partition(': ')[2]}") from None


def joined(patterns: Sequence[str]) -> str:
    """One pattern for all of a feature's; empty where it has none."""
    return "|".join(f"(?:{one})" for one in patterns)


def plain(text: str) -> str:
    """Composed letters, lower case, single spaces: as both texts and words are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Sorter:
    """Finds features. Holds no state."""

    def __init__(self, config: ReportsConfig) -> None:
        self._named: dict[str, str] = {}
        self._rules: list[tuple[str, re.Pattern[str] | None, str]] = []
        for name, feature in config.features.items():
            for called in (name, *feature.names):
                self._named.setdefault(plain(called), name)
            literal = "|".join(re.escape(plain(word)) for word in feature.words)
            words = re.compile(rf"(?<!\w)(?:{literal})(?!\w)") if literal else None
            self._rules.append((name, words, joined(feature.patterns)))

    def __repr__(self) -> str:
        return f"<Sorter {len(self._rules)} features>"

    def features(self, complaints: Sequence[tuple[str | None, str | None]]) -> list[str]:
        """The feature of each (name it gives, text). A name that is not known is no name; "other" where none fits."""
        from flashcast.zombie.reports.config import OTHER

        found: list[str | None] = [self._named.get(plain(given)) if given else None for given, _ in complaints]
        texts = {
            i: plain(text[:TEXT_CHARS_MAX])
            for i, (_, text) in enumerate(complaints)
            if text and found[i] is None
        }  # fmt: skip
        for name, words, pattern in self._rules:
            if not texts:
                break
            fits = {i for i, text in texts.items() if words is not None and words.search(text)}
            rest = [i for i in texts if i not in fits] if pattern else []
            if rest:
                matched = pc.match_substring_regex(pa.array([texts[i] for i in rest]), pattern, ignore_case=True)
                fits |= {i for i, yes in zip(rest, matched.to_pylist(), strict=True) if yes}
            for i in fits:
                found[i] = name
                del texts[i]
        return [one or OTHER for one in found]
