"""The rules file: signals, thresholds, and what each level means for the document. TOML; every key is described here.

docs/reference/zombie-rules.md and its JSON Schema are made from these classes. Decisions know nothing of this file:
`Rules.table` is all that they see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from flashcast.errors import InputError
from flashcast.zombie.bounds import COHORTS_MAX, LIFETIME_S_MAX, SPLITS_MAX
from flashcast.zombie.document import App, Level, Terms, tidy_schema
from flashcast.zombie.levels import Table
from flashcast.zombie.rule_parts import (
    MEASURES,
    RULES_MAX,
    SIGNALS_MAX,
    HttpSignal,
    Levels,
    Look,
    Name,
    Recovery,
    RuleOf,
    Signal,
    Whole,
    whole_of,
)
from flashcast.zombie.toml_file import parse_toml, read_toml

RULES_BYTES_MAX: Final = 1 << 20
"""A rules file of 64 rules and 32 signals has 20 KB; messages in 50 languages add 100 KB."""
REMEDY: Final = "docs/reference/zombie-rules.md tells every key."


class Rules(Whole):
    """A rules file."""

    app: App = Field(description="The app whose document it is.")
    lasts_s: int = Field(
        3_600,
        ge=120,
        le=LIFETIME_S_MAX,
        description="Seconds a document holds; the controller publishes it anew at half of that. If the controller "
        "dies, zombie mode ends after that at the latest.",
    )
    tick_s: float = Field(1.0, ge=0.05, le=60, description="Seconds from one decision to the next.")
    look_s: float = Field(
        10.0,
        ge=0.1,
        le=600,
        description="Seconds from one look at the published document to the next: people publish too.",
    )
    cohorts: tuple[Annotated[int, Field(ge=2, le=COHORTS_MAX)], ...] = Field(
        (), max_length=SPLITS_MAX, description="Splits to publish beside the document, for clients that do not hash."
    )
    levels: Levels = Field(default_factory=Levels, description="What each level means for the document.")
    recovery: Recovery = Field(default_factory=Recovery, description="How users are let back in.")
    signals: dict[Name, Signal] = Field(default_factory=dict, max_length=SIGNALS_MAX, description="What is looked at.")
    rules: dict[Name, RuleOf] = Field(default_factory=dict, max_length=RULES_MAX, description="What follows from it.")

    @property
    def table(self) -> Table:
        """What decisions are made from."""
        shielded = self.levels.shielded
        return Table(
            rules=tuple(
                rule.compiled(name, self.signals[rule.signal.partition(".")[0]].stale_s)
                for name, rule in self.rules.items()
            ),
            shielded_min_s=shielded.min_s if shielded else 0.0,
            zombie_min_s=self.levels.zombie.min_s,
            step_min_s=self.recovery.step_min_s,
            back_min_s=self.recovery.back_min_s,
            shielded_buckets=shielded.buckets if shielded else 0,
            zombie_buckets=self.levels.zombie.buckets,
            steps=self.recovery.steps,
        )

    def look(self, level: Level) -> Look:
        """What a level means for the document. Raises InputError where the file does not say."""
        found = self.levels.shielded if level is Level.SHIELDED else self.levels.zombie
        if found is None:
            raise InputError("levels.shielded: is missing", remedy="Say what shielded means, or name features.")
        return found

    def terms(self, level: Level, buckets: int, *, origin: Level, salt: str, incident: str) -> Terms:
        """The document's terms. ``origin`` is the level whose features are off; it differs while recovering."""
        if level is Level.NORMAL:
            normal = self.levels.normal
            return Terms(
                app=self.app, salt=salt, incident=incident, poll_s=normal.poll_s, poll_jitter_s=normal.poll_jitter_s,
                # For apps that hear of the end only now, and still have writes from before it.
                drain_s=self.levels.zombie.drain_s, cohorts=self.cohorts,
            )  # fmt: skip
        look = self.look(origin)
        return Terms(
            app=self.app, level=level, buckets=buckets, salt=salt, off=look.off, keep=look.keep, writes=look.writes,
            drain_s=look.drain_s, wait_s=look.wait_s, poll_s=look.poll_s, poll_jitter_s=look.poll_jitter_s,
            message=look.message, incident=incident, cohorts=self.cohorts,
        )  # fmt: skip

    def faults(self) -> Iterator[str]:
        """What cannot be meant though each key is possible by itself."""
        yield from self._signal_faults()
        levels, looks = self.levels, {"zombie": self.levels.zombie}
        if levels.shielded is not None:
            looks["shielded"] = levels.shielded
            if levels.shielded.share > levels.zombie.share:
                yield (
                    f"levels.zombie.share: {levels.zombie.share:g} is less than the share of shielded "
                    f"({levels.shielded.share:g}): to raise the level would lower protection"
                )
        for name, look in looks.items():
            terms = self.terms(Level(name), look.buckets, origin=Level(name), salt="0", incident="")
            yield from (f"levels.{name}: {problem}" for problem in terms.problems())
            if (late := look.poll_s + look.poll_jitter_s) > self.recovery.step_min_s:
                yield (
                    f"recovery.step_min_s: {self.recovery.step_min_s:g} is less than poll_s + poll_jitter_s of "
                    f"levels.{name} ({late}): a step would be judged before apps have heard of it"
                )

    def _signal_faults(self) -> Iterator[str]:
        for name, rule in self.rules.items():
            source, _, measure = rule.signal.partition(".")
            signal = self.signals.get(source)
            if signal is None:
                known = ", ".join(self.signals) or "none"
                yield f"rules.{name}.signal: there is no signal {source!r}; there is: {known}"
            elif isinstance(signal, HttpSignal) and measure not in MEASURES:
                ways = ", ".join(f"{source}.{one}" for one in MEASURES)
                yield f"rules.{name}.signal: {rule.signal!r} does not say what to look at: one of {ways}"
            elif measure and not isinstance(signal, HttpSignal):
                yield f"rules.{name}.signal: {rule.signal!r}: {source} has one value only; write {source!r}"
            if rule.level == "shielded" and self.levels.shielded is None:
                yield f"rules.{name}.level: shielded, and levels.shielded does not say what that means"


def load_rules(path: Path) -> Rules:
    """The rules in a TOML file. Raises InputError with everything that is wrong."""
    return rules_of(read_toml(path, RULES_BYTES_MAX, REMEDY), str(path))


def parse_rules(data: bytes, where: str = "rules.toml") -> Rules:
    """As `load_rules`, of the bytes of a file that is called ``where``."""
    return rules_of(parse_toml(data, where, RULES_BYTES_MAX, REMEDY), where)


def rules_of(raw: Mapping[str, Any], where: str = "the rules file") -> Rules:
    """The rules from plain values. Raises InputError with everything that is wrong."""
    return whole_of(Rules, raw, where, REMEDY)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a rules file, for editors that complete and check TOML."""
    schema = Rules.model_json_schema()
    tidy_schema(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Rules of zombie mode"}
