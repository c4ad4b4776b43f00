"""Counts and findings in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from flashcast.zombie.reports.spikes import Verdict
from flashcast.zombie.reports.watching import Watched

KIND = "text/plain; version=0.0.4; charset=utf-8"


def text_of(totals: Mapping[tuple[str, str], int], watched: Watched, received: Mapping[str, int]) -> str:
    """The page. What is not known is not there: a query over it has no value then, and a rule holds.

    ``totals`` falls when old complaints are deleted, so it is a gauge; ``received`` counts since the process began.
    """
    known = [one for one in watched.findings if one.verdict is not Verdict.UNKNOWN]
    expected = [one for one in watched.findings if not math.isnan(one.expected)]
    lines = [
        *_family("flashcast_reports_received_total", "counter", "Complaints that were new, since the process began.",
                 ((f'source="{source}"', count) for source, count in sorted(received.items()))),
        *_family("flashcast_reports_kept", "gauge", "Complaints that are kept.",
                 ((f'source="{source}",feature="{feature}"', n) for (source, feature), n in sorted(totals.items()))),
        *_family("flashcast_reports_window_count", "gauge", "Complaints in the window that counts most.",
                 ((f'feature="{one.feature}",window_m="{one.window_m}"', one.count) for one in watched.findings)),
        *_family("flashcast_reports_window_expected", "gauge", "What earlier days lead to expect there.",
                 ((f'feature="{one.feature}",window_m="{one.window_m}"', one.expected) for one in expected)),
        *_family("flashcast_reports_alarm", "gauge", "Times the expected count while there is an alarm, else 0.",
                 ((f'feature="{one.feature}"', one.value) for one in known)),
        *_family("flashcast_reports_heard_timestamp_seconds", "gauge", "Up to when the sources that are heard were.",
                 (("", watched.at),)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, told: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    # Labels are names of sources and features, which have no letter that must be escaped.
    rows = [f"{name}{{{labels}}} {value:.15g}" if labels else f"{name} {value:.15g}" for labels, value in samples]
    return [f"# HELP {name} {told}", f"# TYPE {name} {kind}", *rows]
