"""A whole launch from a fourth terminal: create, seal, arm, preflight, go, status, report, with three workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleet_judge import judge
from fleet_processes import CAMPAIGN, NAME, Fleet

from flashcast.audience.synthetic import write_synthetic
from flashcast.model import UnknownPolicy

ROWS = 200_000
"""Four shards, two of each provider: every one of three workers has something to send."""


@pytest.mark.parametrize("engine", ["embedded", "nats"], indirect=True)
def test_three_workers_send_what_an_operator_orders_from_another_process(fleet: Fleet) -> None:
    workers = [worker.until_ready() for worker in fleet.start_workers("anna", "bert", "carl")]
    devices, campaign = fleet.folder / "devices.parquet", fleet.folder / "campaign.toml"
    write_synthetic(devices, ROWS, 0.5, 1)
    pace = "pace.apns = 60_000\npace.fcm = 60_000"
    campaign.write_text(CAMPAIGN.format(window_s=60, policy=UnknownPolicy.DROP, pace=pace), encoding="utf-8")

    assert fleet.said("campaign", "create", NAME, campaign)["campaign"] == NAME
    assert fleet.said("seal", NAME, "--audience", devices)["launch"] == fleet.launch
    assert fleet.said("arm", NAME, "--to", fleet.simulator.config_path)["state"] == "armed"
    preflight = fleet.said("preflight", NAME)
    assert preflight["go"] is True
    assert {row["worker"] for row in fleet.said("workers")["workers"]} == {worker.name for worker in workers}

    watching = fleet.command("status", NAME, "--watch")
    assert watching.stdout is not None
    seen = [json.loads(watching.stdout.readline())]
    assert seen[0]["state"] == "armed"
    done = fleet.flashcast("go", NAME, "--yes")
    assert done.code == 0, done.told
    seen += [json.loads(line) for line in watching.stdout]
    watching.communicate()
    assert watching.returncode == 0

    assert [status["state"] for status in seen][-1] == "done"
    live = [status for status in seen if status["state"] == "live"]
    assert len(live) > 2, "status --watch is live"
    for status in seen:
        assert _sent(status["total"]) == sum(_sent_by(worker, fleet) for worker in status["workers"] if worker["alive"])
    for worker in workers:
        told = [_sent_by(one, fleet) for status in seen for one in status["workers"] if one["worker"] == worker.name]
        assert told == sorted(told), "no count falls, not even when the worker lets go of the launch"
        assert 0 < told[-1] <= ROWS

    verdict = judge(fleet, unknown_at_most=0)
    assert done.document == verdict.report, "whoever pressed GO is shown the same report"
    assert verdict.ledger.received == ROWS
    rows = [worker["devices"] for worker in verdict.report["workers"]]
    assert len(rows) == 3 and sum(rows) == ROWS
    assert all(worker["go_to_first_request_ms"] > 0 for worker in verdict.report["workers"])
    assert verdict.report["first_request_spread_ms"] >= 0
    trail = [entry["what"] for entry in fleet.said("audit", NAME)["trail"]]
    assert trail == ["seal", "arm", "ready", "go", "close"]
    for worker in workers:
        assert worker.end() == 0
    assert fleet.said("workers")["workers"] == []


def _sent(counts: dict[str, Any]) -> int:
    return sum(part["sent"] for part in counts["providers"].values())


def _sent_by(worker: dict[str, Any], fleet: Fleet) -> int:
    return _sent(worker["launches"].get(fleet.launch, {"providers": {}}))
