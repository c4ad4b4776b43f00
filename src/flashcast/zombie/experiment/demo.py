"""Both runs, one after the other, and what comes of them as files in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from flashcast.zombie.experiment.conductor import Progress, Record, run
from flashcast.zombie.experiment.control import RULES
from flashcast.zombie.experiment.parameters import Parameters
from flashcast.zombie.experiment.show import document, picture
from flashcast.zombie.rules import load_rules

PICTURE: Final = "herd.svg"
SUMMARY: Final = "herd.json"
RULES_USED: Final = "rules.toml"
TRACES: Final = ("trace-without.jsonl", "trace-with.jsonl")


@dataclass(frozen=True)
class Demo:
    """Both runs, the document about them, and the files that were written."""

    without: Record
    with_zombie: Record
    document: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def records(self) -> tuple[Record, Record]:
        """Without and with zombie mode."""
        return self.without, self.with_zombie


def demo(
    p: Parameters,
    out: Path | None = None,
    begun: Callable[[bool], Progress | None] = lambda zombie: None,
    *,
    rules: Path = RULES,
) -> Demo:
    """Runs the experiment without and with zombie mode, and writes picture, summary, traces and rules into ``out``.

    ``begun`` is called before each run with whether it has zombie mode, and gives what is told of its progress. Raises
    InputError for rules that are none.
    """
    said, rules_text = load_rules(rules), rules.read_text(encoding="utf-8")
    with TemporaryDirectory(prefix="flashcast-herd-") as folder:
        records = [
            run(p, said, zombie=zombie, folder=Path(folder, "with" if zombie else "without"), progress=begun(zombie))
            for zombie in (False, True)
        ]
    found = document(*records)
    files: list[Path] = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        texts = {PICTURE: picture(*records), SUMMARY: json.dumps(found, indent=2) + "\n"}
        texts |= {RULES_USED: rules_text} | {name: record.trace for name, record in zip(TRACES, records, strict=True)}
        for name, written in texts.items():
            (out / name).write_text(written, encoding="utf-8")
            files.append(out / name)
    return Demo(records[0], records[1], found, tuple(files))
