"""On logs whose truth is known repair finds exactly that, to the second, for every user."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from repair_data import RULES, Span, made, published

from flashcast.zombie.repair.history import timeline
from flashcast.zombie.repair.rules import repair_rules_of
from flashcast.zombie.repair.spans import Found, find_spans

LINES = 1_000_000
BAD = 400


def found_in(path: Path) -> dict[Span, int]:
    def second(moment: datetime) -> int:
        assert moment.microsecond == 0
        return int(moment.timestamp())

    rows = pq.read_table(path).to_pylist()
    found = {
        (
            row["incident"], row["user"], second(row["from"]), second(row["until"]), row["level"], row["off"],
            row["keep"],
        ): row["polls"]
        for row in rows
    }  # fmt: skip
    assert len(found) == len(rows), "a user has one span twice"
    return found


def run(tmp_path: Path, lines: int, bad: int) -> tuple[Found, dict[Span, int], dict[Span, int]]:
    world = made(lines, bad=bad)
    logs = world.write(tmp_path, random.Random(2))
    told: list[int] = []
    out = tmp_path / "spans.parquet"
    found = find_spans(repair_rules_of(RULES), logs, timeline(published()), out, tell=told.append)
    assert told[-1] == sum(log.lines for log in found.logs)
    return found, found_in(out), world.truth


@pytest.mark.slow
def test_a_million_lines_give_exactly_the_spans_that_there_were(tmp_path: Path) -> None:
    found, spans, truth = run(tmp_path, LINES, BAD)
    assert sum(log.lines for log in found.logs) >= LINES
    assert spans == truth
    assert {span[0] for span in truth} == {"inc-1", "inc-2"}
    # Some garbage happens to look like a header or an empty line; none is lost.
    assert 0 < sum(log.bad for log in found.logs) <= BAD
    for log in found.logs:
        assert log.lines == log.skipped + log.bad + log.other + log.outside + log.nobody + log.events


def test_a_few_thousand_lines_do_as_well(tmp_path: Path) -> None:
    found, spans, truth = run(tmp_path, 20_000, 5)
    assert spans == truth
    assert found.spans == len(truth) and found.users == len({span[1] for span in truth})
