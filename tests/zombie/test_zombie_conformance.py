"""The Python client does what the vectors of clients/conformance say, as every client must."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flashcast.zombie.buckets import bucket, cohort_of
from flashcast.zombie.client.core import Core, Why
from flashcast.zombie.client.http import HttpResponse, retry_after_s
from flashcast.zombie.client.writes import Fate, Queue, Write
from flashcast.zombie.document import Cohort, RefusedError
from flashcast.zombie.envelope import Opened, admit, open_sealed
from flashcast.zombie.keys import PublicKey, trusted

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "clients" / "conformance"


def _script() -> ModuleType:
    folder = str(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("zombie_vectors", ROOT / "scripts" / "zombie_vectors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


script = _script()
NOW = script.NOW


@cache
def _read(name: str) -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads((VECTORS / name).read_text(encoding="ascii"))
    return vectors


def _named(name: str, key: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in _read(name)[key]]


class Drawn:
    """Random numbers as a vector gives them: as many as it says, and no other."""

    def __init__(self) -> None:
        self.numbers: Iterator[float] = iter(())

    def __call__(self) -> float:
        return next(self.numbers)

    def gives(self, numbers: list[float], act: Callable[[], Any]) -> Any:
        self.numbers = iter(numbers)
        done = act()
        assert list(self.numbers) == [], "numbers were left over"
        return done


@pytest.mark.parametrize("name", script.FILES)
def test_the_vectors_are_what_the_script_writes(name: str) -> None:
    assert (VECTORS / name).read_text(encoding="ascii") == script.text(name), (
        "run .venv/bin/python scripts/zombie_vectors.py"
    )


def test_users_have_their_buckets_and_cohorts() -> None:
    vectors = _read("buckets.json")
    for row in vectors["buckets"]:
        assert bucket(row["salt"], row["user"]) == row["bucket"], row
    for row in vectors["cohorts"]:
        assert cohort_of(row["app"], row["user"], row["of"]) == row["cohort"], row


def test_signatures_are_told_apart_and_keys_named() -> None:
    vectors = _read("ed25519.json")
    for row in vectors["signatures"]:
        key = PublicKey(bytes.fromhex(row["public"]))
        assert key.verifies(bytes.fromhex(row["signature"]), bytes.fromhex(row["message"])) is row["valid"], row["name"]
    for row in vectors["key_ids"]:
        assert PublicKey.parse(row["public"]).id == row["id"]


@pytest.mark.parametrize("case", _named("documents.json", "cases"))
def test_documents_are_believed_or_refused_with_the_reason(case: dict[str, Any]) -> None:
    keys = trusted(case["trusted"])

    def judged(file: str, last: Opened | None) -> Opened:
        opened = open_sealed(base64.b64decode(file), keys)
        admit(opened, app=case["app"], cohort=_cohort(case["cohort"]), last=last, now=case["now"])
        return opened

    last = None if case["last"] is None else open_sealed(base64.b64decode(case["last"]), keys)
    try:
        found: dict[str, Any] = {"version": judged(case["file"], last).document.version}
    except RefusedError as error:
        found = {"refused": error.reason.value}
    assert found == case["expect"]


def _cohort(said: dict[str, int] | None) -> Cohort | None:
    return None if said is None else Cohort(**said)


@pytest.mark.parametrize("sequence", _named("polls.json", "sequences"))
def test_polls_are_made_judged_and_spaced(sequence: dict[str, Any]) -> None:
    vectors, drawn = _read("polls.json"), Drawn()
    core = Core(
        app=vectors["app"],
        url=vectors["url"],
        trusted=trusted(vectors["trusted"]),
        random=drawn,
        now=sequence["start"],
    )
    for number, step in enumerate(sequence["steps"]):
        assert _polled(core, drawn, step) == _expected(step), f"step {number}: {step['op']} at {step.get('now')}"


def _polled(core: Core, drawn: Drawn, step: dict[str, Any]) -> Any:
    now = step.get("now")
    match step["op"]:
        case "is_due":
            return core.is_due(now)
        case "request":
            request = core.request(now)
            assert request.method == "GET"
            return request.headers.get("If-None-Match")
        case "level":
            return core.standing("somebody", now).level.value
        case "restore":
            return core.restore(base64.b64decode(step["file"]), step["etag"])
        case "poll_soon":
            core.poll_soon(now)
            return core.next_poll_at
    if step["op"] == "answered":
        answer = step["answer"]
        response = HttpResponse(answer["status"], answer["headers"], base64.b64decode(answer["file"]))
        polled = drawn.gives(step["random"], lambda: core.answered(response, now))
    else:
        polled = drawn.gives(step["random"], lambda: core.failed(now))
    return {
        "news": polled.news.value,
        "refusal": polled.refusal.value if polled.refusal else None,
        "next_poll_at": pytest.approx(core.next_poll_at, abs=1e-6),
        "version": core.last.version if core.last else None,
    }


def _expected(step: dict[str, Any]) -> Any:
    return step[
        "next_poll_at" if step["op"] == "poll_soon" else "if_none_match" if step["op"] == "request" else "expect"
    ]


def _core(file: str | None, drawn: Drawn) -> Core:
    vectors = _read("decisions.json")
    core = Core(app=vectors["app"], url="", trusted=trusted(vectors["trusted"]), random=drawn, now=NOW)
    if file is not None:
        assert core.restore(base64.b64decode(file), "")
    return core


@pytest.mark.parametrize("case", _named("decisions.json", "cases"))
def test_calls_are_sent_answered_or_queued(case: dict[str, Any]) -> None:
    core, now = _core(case["file"], Drawn()), case["now"] + case.get("later_s", 0)
    for call in case["calls"]:
        action, why, wait_s = core.decide(case["user"], call["feature"], now, write=call["write"])
        assert {"action": action, "why": why, "wait_s": wait_s} == call["expect"], call
    for message in case.get("messages", ()):
        assert core.standing(case["user"], now).message(message["locale"]) == message["expect"], message


@pytest.mark.parametrize("case", _named("decisions.json", "held"))
def test_a_server_that_asks_is_left_alone(case: dict[str, Any]) -> None:
    drawn, now = Drawn(), NOW
    core = _core(case["file"], drawn)
    headers = {} if case["retry_after"] is None else {"retry-after": case["retry_after"]}
    drawn.gives(case["random"], lambda: core.heard("feed", case["status"], headers, now))
    end = now + case["until_s"]
    if case["until_s"]:
        assert core.decide("42", "feed", end - 1) == ("fallback", Why.HELD, pytest.approx(1.0, abs=1e-3))
        assert core.decide("42", "feed", end - 1, write=True).action == "queue"
    assert core.decide("42", "feed", end).action == "send"
    assert core.decide("42", "search", now).action == "send"


def test_retry_after_is_read_in_both_forms() -> None:
    vectors = _read("retry_after.json")
    for case in vectors["cases"]:
        assert retry_after_s({"retry-after": case["value"]}, vectors["now"]) == case["seconds"], case


@pytest.mark.parametrize("sequence", _named("queue.json", "sequences"))
def test_queued_writes_are_sent_in_time_and_order(sequence: dict[str, Any]) -> None:
    drain_s, drawn = _read("queue.json")["drain_s"], Drawn()
    queue = Queue(drawn, user="u1")
    for number, op in enumerate(sequence["ops"]):
        told = f"operation {number}: {op['op']} {op.get('id', '')} at {op.get('now')}"
        assert _queued(queue, drawn, op, drain_s) == op.get("expect"), told


def _queued(queue: Queue, drawn: Drawn, op: dict[str, Any], drain_s: float) -> Any:
    now = op.get("now", 0)
    match op["op"]:
        case "add":
            queue.add(replace(Write(**op["write"]), body=b"{}"))
        case "log_in":
            before, queue.user = queue.user, op["user"]
            if op["take_writes"]:
                queue.take_over(before)
        case "again":
            assert queue.again(op["id"], now) is not None
        case "plan":
            drawn.gives(op["random"], lambda: queue.plan(op["off"].__contains__, drain_s, now))
            return {write.id: pytest.approx(write.due_at, abs=1e-6) for write in queue.writes}
        case "take":
            taken = queue.take(now)
            return taken.id if taken else None
        case "next_at":
            return queue.next_at(now)
        case "request":
            write = queue.get(op["id"])
            assert write is not None
            request = write.request()
            headers = {name.lower(): value for name, value in request.headers.items()}
            return {"method": request.method, "url": request.url, "headers": headers}
        case "answered":
            response = None if op["status"] is None else HttpResponse(op["status"], op["headers"])
            judged = drawn.gives(op["random"], lambda: queue.answered(op["id"], response, now))
            fate, write = judged
            due_at = None if fate is Fate.APPLIED or write.due_at is None else pytest.approx(write.due_at, abs=1e-6)
            return {"fate": fate.value, "due_at": due_at, "refused": write.refused}
    return None
