"""The document of a launch: its fixed keys, and what it says in words."""

from __future__ import annotations

import io
import json

import pytest
from report_data import Rows, accepted, facts, rows, simulator_ledger, snapshot
from rich.console import Console

from flashcast.errors import ExitCode
from flashcast.model import Provider
from flashcast.outcomes import Outcome, Reason
from flashcast.report.summary import exit_code, report_document
from flashcast.report.text import ACCEPTANCE, render_list, render_text

FIXED = {
    "launch": str,
    "devices": int,
    "outcomes": dict,
    "reasons": dict,
    "go_to_first_request_ms": float,
    "go_to_last_reply_s": float,
    "reply_latency_ms": dict,
    "sender_cpu_us_per_notification": float,
    "peak_rss_mib": float,
    "seal_s": float,
    "arm_s": float,
    "simulator": dict,
}
MIXED = rows(
    (Outcome.ACCEPTED, Reason.NONE),
    (Outcome.REJECTED, Reason.UNREGISTERED),
    (Outcome.UNKNOWN, Reason.SILENCE),
    (Outcome.EXPIRED, Reason.WINDOW_CLOSED),
    (Outcome.UNSENT, Reason.ABORTED),
    (Outcome.ACCEPTED, Reason.NONE),
    (Outcome.FAILED, Reason.FCM_QUOTA_EXCEEDED),
    (Outcome.ACCEPTED, Reason.NONE),
)


def _text(document: dict[str, object], width: int = 100) -> str:
    out = io.StringIO()
    render_text(document, Console(file=out, width=width))
    return out.getvalue()


def test_the_fixed_keys_are_there_with_their_types() -> None:
    of = snapshot()
    document = report_document(of, accepted(8), facts(), simulator_ledger(of, [1] * 8))
    assert {key: type(document[key]) for key in FIXED} == FIXED
    assert list(document["outcomes"]) == ["accepted", "rejected", "failed", "unknown", "expired", "unsent"]
    assert {"p50", "p95", "p99"} <= set(document["reply_latency_ms"])
    assert {k: document["simulator"][k] for k in ("received", "distinct", "duplicates", "malformed")} == {
        "received": 8,
        "distinct": 8,
        "duplicates": 0,
        "malformed": 0,
    }


def test_a_launch_to_a_provider_has_no_simulator() -> None:
    assert report_document(snapshot(), accepted(8), facts())["simulator"] is None


def test_the_document_is_json_without_nan_also_where_nothing_was_measured() -> None:
    from flashcast import latency

    bare = facts(
        latency_us_histogram=latency.empty(),
        go_to_last_reply_s=None,
        go_to_first_request_ms=None,
        sender_cpu_us_per_notification=float("nan"),
        connections={},
    )
    document = report_document(snapshot(), rows(*[(Outcome.UNSENT, Reason.NONE)] * 8), bare)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["reply_latency_ms"]["p50"] is None
    assert document["accepted_per_s"] is None
    assert document["sender_cpu_us_per_notification"] is None
    assert "sender CPU" not in _text(document)


def test_outcomes_add_up_to_the_devices_of_each_provider() -> None:
    document = report_document(snapshot(), MIXED, facts())
    for part in (document, *document["providers"].values()):
        assert sum(part["outcomes"].values()) == part["devices"]
    assert document["providers"]["apns"]["devices"] == 5
    assert document["reasons"] == {
        "Aborted": 1,
        "QUOTA_EXCEEDED": 1,
        "Silence": 1,
        "Unregistered": 1,
        "WindowClosed": 1,
    }
    assert document["prune"] == 1


def test_percentiles_are_in_milliseconds() -> None:
    latency_ms = report_document(snapshot(), accepted(8), facts())["reply_latency_ms"]
    assert latency_ms["p50"] == pytest.approx(40, rel=1 / 64)
    assert latency_ms["p99"] == pytest.approx(80, rel=1 / 64)


def test_books_that_do_not_balance_are_told_and_end_with_another_exit_code() -> None:
    of = snapshot(apns=2, fcm=0)
    good = report_document(of, accepted(2), facts(), simulator_ledger(of, [1, 1]))
    bad = report_document(of, accepted(2), facts(), simulator_ledger(of, [1, 0]))
    assert (good["balanced"], exit_code(good)) == (True, ExitCode.OK)
    assert (bad["balanced"], exit_code(bad)) == (False, ExitCode.UNBALANCED)
    assert "1 accepted rows were never taken by the provider" in _text(bad)


def test_a_provider_that_stopped_the_launch_ends_it_with_another_exit_code_and_a_remedy() -> None:
    document = report_document(snapshot(), MIXED, facts(stopped={Provider.APNS: Reason.BAD_TOPIC}))
    assert document["providers"]["apns"]["stopped"] == "BadTopic"
    assert document["providers"]["fcm"]["stopped"] is None
    assert exit_code(document) is ExitCode.UNBALANCED
    assert "apns was stopped: it answered BadTopic" in _text(document, 200)


def test_an_aborted_launch_leaves_with_the_code_of_an_abort() -> None:
    document = report_document(snapshot(), MIXED, facts(aborted=True, overshoot=12))
    assert exit_code(document) is ExitCode.ABORTED
    assert "12 requests were on the wire" in _text(document)


def test_a_mass_of_bad_tokens_warns_against_pruning() -> None:
    bad = (Outcome.REJECTED, Reason.BAD_DEVICE_TOKEN)
    good = (Outcome.ACCEPTED, Reason.NONE)
    many = report_document(snapshot(apns=4, fcm=0), rows(bad, bad, good, good), facts())
    few = report_document(snapshot(apns=4, fcm=0), rows(bad, good, good, good), facts())
    assert "2 of 4 APNs tokens are BadDeviceToken" in many["warnings"][0]
    assert few["warnings"] == []


def test_the_text_says_once_that_acceptance_is_not_delivery() -> None:
    assert _text(report_document(snapshot(), MIXED, facts())).count(ACCEPTANCE) == 1
    assert "acceptance is not delivery" in ACCEPTANCE


def test_the_numbers_of_the_text_stand_under_each_other() -> None:
    lines = _text(report_document(snapshot(), MIXED, facts())).splitlines()
    table = [line.rstrip() for line in lines if line.startswith(("outcome ", "accepted  ", "failed ", "devices "))]
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1


def test_names_from_outside_are_no_markup() -> None:
    of = snapshot()
    of.name = "[red]hello[/] [link=x]"
    assert "[red]hello[/] [link=x]" in _text(report_document(of, MIXED, facts()))


def test_the_list_tells_of_launches_with_and_without_a_report() -> None:
    out = io.StringIO()
    document = report_document(snapshot(), MIXED, facts())
    render_list([("20260921-141320-k3f9", document), ("20260921-150000-aaaa", None)], Console(file=out, width=100))
    first, second = out.getvalue().splitlines()[1:]
    assert "Final whistle" in first
    assert "not finished" in second


def test_an_empty_audience_balances() -> None:
    import numpy as np

    none = Rows(np.zeros(0, np.uint8), np.zeros(0, np.uint8), np.zeros(0, np.uint32))
    document = report_document(snapshot(0, 0), none, facts())
    assert document["devices"] == 0
    assert document["balanced"]
    assert "0 devices" in _text(document)
