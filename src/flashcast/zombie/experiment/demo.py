"""Both runs, one after the other, and what comes of them as files in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from flashcast.zombie.experiment.conductor import Progress, Record, run
from flashcast.zombie.experiment.parameters import Parameters
from flashcast.zombie.experiment.show import document, picture

PICTURE: Final = "herd.svg"
SUMMARY: Final = "herd.json"
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
    p: Parameters, out: Path | None = None, begun: Callable[[bool], Progress | None] = lambda zombie: None
) -> Demo:
    """Runs the experiment without and with zombie mode, and writes picture, summary and traces into ``out``.

    ``begun`` is called before each run with whether it has zombie mode, and gives what is told of its progress.
    """
    with TemporaryDirectory(prefix="flashcast-herd-") as folder:
        records = [
            run(p, zombie=zombie, folder=Path(folder, "with" if zombie else "without"), progress=begun(zombie))
            for zombie in (False, True)
        ]
    found = document(*records)
    files: list[Path] = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        texts = {PICTURE: picture(*records), SUMMARY: json.dumps(found, indent=2) + "\n"}
        texts |= {name: record.trace() for name, record in zip(TRACES, records, strict=True)}
        for name, written in texts.items():
            (out / name).write_text(written, encoding="utf-8")
            files.append(out / name)
    return Demo(records[0], records[1], found, tuple(files))
