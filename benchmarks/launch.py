"""Whole launches of growing size, against the simulators on the same machine.

    scripts/bench launch          a table
    python benchmarks/launch.py --json --rows 1000000 2000000 4000000 8000000

Each is `flashcast demo` in a process of its own. Cost growth is the CPU and the time per row at each size, relative to
the smallest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any


def launch(rows: int, apns_share: float, profile: str) -> dict[str, Any]:
    """One demo; returns its report. Raises SystemExit where the books do not balance."""
    with tempfile.TemporaryDirectory() as state:
        command = [
            sys.executable, "-m", "flashcast", "demo", "--devices", str(rows), "--apns-share", str(apns_share),
            "--profile", profile, "--state", state, "--json",
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        document: dict[str, Any] = json.loads(done.stdout)
        if done.returncode:
            raise SystemExit(f"{rows} rows: exit code {done.returncode}: {document}")
        return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000, 8_000_000])
    parser.add_argument("--apns-share", type=float, default=1.0)
    parser.add_argument("--profile", default="ideal")
    parser.add_argument("--rounds", type=int, default=1, help="the best of so many is kept")
    given = parser.parse_args()
    results = []
    for rows in given.rows:
        rounds = [launch(rows, given.apns_share, given.profile) for _ in range(given.rounds)]
        document = min(rounds, key=lambda d: d["go_to_last_reply_s"])
        us_per_row = document["go_to_last_reply_s"] * 1e6 / rows
        first = results[0]["us_per_row"] if results else us_per_row
        keys = (
            "go_to_first_request_ms",
            "go_to_last_reply_s",
            "sender_cpu_us_per_notification",
            "peak_rss_mib",
            "seal_s",
            "arm_s",
        )
        results.append(
            {"rows": rows, "us_per_row": us_per_row, "growth": us_per_row / first, **{k: document[k] for k in keys}}
        )
        print(
            f"{rows:>10,} rows: GO to last reply {document['go_to_last_reply_s']:6.2f} s, {us_per_row:.3f} us/row "
            f"({us_per_row / first:.2f} of the first), CPU {document['sender_cpu_us_per_notification']:.3f} us, "
            f"seal {document['seal_s']:.1f} s, arm {document['arm_s']:.1f} s, {document['peak_rss_mib']:.0f} MiB",
            file=sys.stderr,
        )
    if given.json:
        print(json.dumps({"apns_share": given.apns_share, "profile": given.profile, "launches": results}, indent=2))


if __name__ == "__main__":
    main()
