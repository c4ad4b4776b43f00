"""Records the incidents that tests replay: `python examples/herd/incidents.py tests/zombie/traces`, some three minutes.

Each is a run of the experiment with zombie mode, as the controller saw it: one that goes well, one in which monitoring
stops answering while users are let back in, and one by rules in a hurry, whose steps are too large and are taken back.
A run is measured, not simulated: no two recordings are the same.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from flashcast.zombie.experiment.conductor import run
from flashcast.zombie.experiment.control import RULES
from flashcast.zombie.experiment.parameters import DEFAULT
from flashcast.zombie.rules import parse_rules

HURRY = {
    "steps = [0.25, 0.4, 0.6, 0.8, 1.0]": "steps = [0.3, 0.8, 1.0]",
    "clear = 0.9": "clear = 1.2",
}
"""What rules in a hurry say instead."""
INCIDENTS = {
    "good": (DEFAULT, {}),
    "monitoring-down": (DEFAULT.changed(monitoring_down_s=(11.0, 18.0)), {}),
    "step-back": (DEFAULT, HURRY),
}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, (parameters, changes) in INCIDENTS.items():
        text = RULES.read_text(encoding="utf-8")
        for said, instead in changes.items():
            assert said in text, f"the rules no longer say {said!r}"
            text = text.replace(said, instead)
        with TemporaryDirectory(prefix="flashcast-incident-") as folder:
            record = run(parameters, parse_rules(text.encode()), zombie=True, folder=Path(folder))
        (out / f"{name}.jsonl").write_text(record.trace, encoding="utf-8")
        (out / f"{name}.rules.toml").write_text(text, encoding="utf-8")
        steps = ", ".join(f"{one['level']} {one['buckets'] / 10:g} %" for one in record.published)
        print(f"{name}: {steps}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
