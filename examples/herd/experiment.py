"""The proof by experiment with parameters and rules of your own: `python examples/herd/experiment.py`, two minutes.

`flashcast zombie demo` runs it as it stands. Here an impatient kind of app (two seconds instead of four, five retries)
meets the same service. The demo's own rules would act too late for it: rules.toml beside this file acts sooner, and the
launch shields more. docs/guides/herd.md says what the figures mean.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flashcast.zombie.experiment.demo import demo
from flashcast.zombie.experiment.parameters import DEFAULT
from flashcast.zombie.experiment.show import parameters_text, text

RULES = Path(__file__).with_name("rules.toml")


def main() -> int:
    impatient = DEFAULT.changed(timeout_s=2.0, retries=5, shield_share=0.4, seed=7)
    done = demo(impatient, Path("herd-experiment"), rules=RULES)
    print(parameters_text(done.with_zombie))
    print(text(*done.records))
    return 0 if done.document["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
