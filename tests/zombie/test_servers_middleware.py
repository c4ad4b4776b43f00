"""The ASGI middleware: it sheds whom clients would not let ask, and opens when in doubt."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import servers_kit as kit

from flashcast.clock import FixedClock
from flashcast.zombie.buckets import bucket, cohort_of, cohorts_in
from flashcast.zombie.client.core import Action, Core
from flashcast.zombie.client.http import HttpRequest, HttpResponse
from flashcast.zombie.keys import trusted
from flashcast.zombie.middleware import Gate, Routing, ZombieMiddleware

VECTORS = Path(__file__).parents[2] / "clients" / "conformance"


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


def gate_of(file: bytes | None, routing: Routing | None = None, **options: Any) -> Gate:
    """A gate that has asked once and asks no more."""
    given: dict[str, Any] = {
        "source": "http://unused", "trusted": [kit.KEY.public], "transport": kit.Published(file),
        "clock": FixedClock(kit.NOW), "random": lambda: 0.0,
    }  # fmt: skip
    gate = Gate(routing or kit.routing(), **(given | options))
    gate.stop()
    gate.poll()
    return gate


def behind(of: Any, routing: Routing | None = None, **options: Any) -> ZombieMiddleware:
    return ZombieMiddleware(app, gate_of(None if of is None else kit.sealed(of), routing, **options))


def scope_of(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "path": path, "headers": named, "client": ("192.0.2.7", 50_000)}


def asked(app: Any, scope: dict[str, Any]) -> kit.Reply:
    """One request, without a server."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("a request that is shed is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return kit.Reply(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


def statuses(app: ZombieMiddleware, scopes: list[dict[str, Any]]) -> list[int]:
    """Many requests in one event loop."""
    found: list[int] = []

    async def send(message: Any) -> None:
        if "status" in message:
            found.append(message["status"])

    async def run() -> None:
        for scope in scopes:
            await app(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(run())
    return found


# --- Whom it sheds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [0, 1, 10, 250, 500, 999, 1_000])
def test_of_all_thousand_buckets_exactly_those_below_are_shed_as_the_client_decides(buckets: int) -> None:
    of = kit.document(buckets=buckets)
    core = Core(app="shop", url="", trusted=trusted([kit.KEY]), random=lambda: 0.0, now=kit.NOW)
    core.answered(HttpResponse(200, {}, kit.sealed(of)), kit.NOW)
    users = kit.user_of_each_bucket()
    seen = statuses(behind(of), [scope_of("/api/feed", x_user_id=user) for user in users])
    assert [number for number, status in enumerate(seen) if status == 503] == list(range(buckets))
    for user, status in zip(users, seen, strict=True):
        assert (core.decide(user, "feed", kit.NOW).action is not Action.SEND) == (status == 503)


def test_steps_of_recovery_only_let_users_out() -> None:
    users = kit.user_of_each_bucket()
    published = kit.Published()
    gate = gate_of(None, transport=published)
    served: set[str] = set()
    for version, buckets in enumerate((1_000, 990, 950, 750, 500, 0), start=1):
        of = kit.document(version=version, buckets=buckets, level="recovering")
        published.publish(kit.sealed(of))
        gate.poll()
        seen = statuses(ZombieMiddleware(app, gate), [scope_of("/api/feed", x_user_id=user) for user in users])
        now = {user for user, status in zip(users, seen, strict=True) if status == 200}
        assert served <= now
        assert len(now) == 1_000 - buckets
        served = now


def _cases() -> list[Any]:
    cases = json.loads((VECTORS / "decisions.json").read_text(encoding="utf-8"))["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", _cases())
def test_it_agrees_with_the_vectors_that_all_clients_are_held_to(case: dict[str, Any]) -> None:
    vectors = json.loads((VECTORS / "decisions.json").read_text(encoding="utf-8"))
    features = sorted({call["feature"] for call in case["calls"]})
    routing = kit.routing(app=vectors["app"], routes=[{"path": f"/{name}", "feature": name} for name in features])
    clock = FixedClock(case["now"])
    file = base64.b64decode(case["file"]) if case["file"] else None
    identify = [lambda scope: case["user"]]
    gate = gate_of(file, routing, clock=clock, trusted=vectors["trusted"], identify=identify)
    clock.advance(case.get("later_s", 0))
    for call in case["calls"]:
        reply = asked(ZombieMiddleware(app, gate), scope_of(f"/{call['feature']}", "POST" if call["write"] else "GET"))
        assert (reply.status == 503) == (call["expect"]["action"] != "send"), call


def test_users_are_sorted_as_the_vectors_say() -> None:
    vectors = json.loads((VECTORS / "buckets.json").read_text(encoding="utf-8"))["buckets"]
    for salt in {one["salt"] for one in vectors}:
        chosen = [one for one in vectors if one["salt"] == salt and one["user"]]
        for limit in {one["bucket"] for one in chosen} - {0}:
            gate = gate_of(kit.sealed(kit.document(buckets=limit, salt=salt)))
            assert gate.table is not None
            assert [gate.table.is_inside(one["user"]) for one in chosen] == [one["bucket"] < limit for one in chosen]


def test_an_app_of_cohorts_is_shed_by_cohort() -> None:
    inside = cohorts_in(kit.SALT, 8, 250)
    users = [str(number) for number in range(200)]
    gated = behind(kit.document(buckets=250), kit.routing(cohorts=8))
    seen = statuses(gated, [scope_of("/api/feed", x_user_id=user) for user in users])
    assert [status == 503 for status in seen] == [cohort_of("shop", user, 8) in inside for user in users]


def test_priorities_and_features_decide_before_anybody_is_looked_at() -> None:
    def nobody(scope: Any) -> str | None:
        raise AssertionError("nobody needs to be told from another")

    of = kit.document(buckets=1_000, off=["*"], keep=["search"], writes="send")
    gated = behind(of, identify=[nobody])
    for method, path, status in (
        ("GET", "/healthz", 200),
        ("GET", "/api/payments/7", 200),
        ("GET", "/api/search", 200),
        ("GET", "/api/prefetch/next", 503),
        ("GET", "/api/feed", 503),
        ("HEAD", "/api/feed", 503),
        ("POST", "/api/feed", 200),
        ("OPTIONS", "/api/feed", 200),
        ("GET", "/anything", 503),
    ):
        assert asked(gated, scope_of(path, method)).status == status, (method, path)
    assert gated.gate.statistics().faults == 0


def test_a_request_that_is_nobody_s_is_served() -> None:
    gated = behind(kit.document(buckets=999), kit.routing(identify=["header:x-user-id", "cookie:uid"]))
    assert asked(gated, scope_of("/api/feed")).status == 200


def test_the_first_key_that_is_there_decides() -> None:
    users = kit.user_of_each_bucket()
    gated = behind(kit.document(), identify=["header:x-user-id", "cookie:uid", lambda scope: users[0]])
    assert asked(gated, scope_of("/api/feed")).status == 503
    assert asked(gated, scope_of("/api/feed", x_user_id=users[999], cookie=f"uid={users[0]}")).status == 200
    assert asked(gated, scope_of("/api/feed", cookie=f"uid={users[999]}")).status == 200
    by_address = behind(kit.document(), identify=["address"])
    assert asked(by_address, scope_of("/api/feed")).status == (503 if bucket(kit.SALT, "192.0.2.7") < 500 else 200)


# --- What it says ----------------------------------------------------------------------------------


def test_whoever_is_shed_is_told_when_to_come_back() -> None:
    user = kit.user_of_each_bucket()[0]
    gated = behind(kit.document(wait_s=30, drain_s=600), random=lambda: 0.5)
    reply = asked(gated, scope_of("/api/feed", x_user_id=user))
    assert reply.status == 503
    assert reply.headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "zombie-level": "zombie",
        "zombie-version": "7",
        "zombie-feature": "feed",
        "retry-after": "330",
        "content-length": str(len(reply.body)),
    }
    assert reply.said == {"error": "unavailable", "level": "zombie", "feature": "feed", "retry_after_s": 330}


def test_retry_after_is_spread_over_the_drain_period() -> None:
    drawn = [0.0]
    gated = behind(kit.document(buckets=1_000, wait_s=30, drain_s=600), random=lambda: drawn[0])

    def told(random: float) -> int:
        drawn[0] = random
        return int(asked(gated, scope_of("/api/feed")).headers["retry-after"])

    assert [told((n + 0.5) / 601) for n in range(601)] == list(range(30, 631))
    assert (told(0.0), told(1 - 2**-53)) == (30, 630)


def test_a_head_request_has_the_length_and_no_body() -> None:
    gated = behind(kit.document(buckets=1_000))
    head = asked(gated, scope_of("/api/feed", "HEAD"))
    assert head.body == b""
    assert head.headers["content-length"] == str(len(asked(gated, scope_of("/api/feed")).body))


def test_a_route_without_a_feature_names_none() -> None:
    reply = asked(behind(kit.document(buckets=1_000, off=["*"])), scope_of("/anything"))
    assert "zombie-feature" not in reply.headers
    assert reply.said.keys() == {"error", "level", "retry_after_s"}


def test_a_web_socket_is_refused_before_it_opens() -> None:
    sent: list[Any] = []
    gated = behind(kit.document(buckets=1_000))

    async def run(scope: dict[str, Any], first: str = "websocket.connect") -> list[Any]:
        sent.clear()

        async def receive() -> Any:
            return {"type": first}

        async def send(message: Any) -> None:
            sent.append(message)

        await gated(scope, receive, send)
        return sent

    scope: dict[str, Any] = {"type": "websocket", "path": "/api/feed/live", "headers": [], "client": None}
    assert asyncio.run(run(scope)) == [{"type": "websocket.close", "code": 1013, "reason": "shed"}]
    start, body = asyncio.run(run(scope | {"extensions": {"websocket.http.response": {}}}))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert json.loads(body["body"])["feature"] == "feed"
    assert asyncio.run(run(scope, "websocket.disconnect")) == []
    assert asyncio.run(run(scope | {"path": "/healthz"})) == [{"type": "websocket.accept"}]


def test_a_server_s_start_passes_through_and_starts_polling() -> None:
    polled = threading.Event()

    def transport(request: HttpRequest) -> HttpResponse:
        polled.set()
        return HttpResponse(404)

    gate = Gate(kit.routing(), source="http://unused", trusted=[kit.KEY.public], transport=transport)
    asyncio.run(ZombieMiddleware(app, gate)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert polled.wait(30)
    gate.stop()


def test_an_http_client_sees_it_through_a_whole_stack() -> None:
    gated = behind(kit.document(buckets=1_000))

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=gated), base_url="http://app") as client:  # type: ignore[arg-type]
            assert (await client.get("/healthz")).text == "served"
            return await client.get("/api/feed?page=2")

    response = asyncio.run(run())
    assert response.status_code == 503
    assert response.json()["retry_after_s"] == int(response.headers["retry-after"])


# --- Failing open ----------------------------------------------------------------------------------


def test_everything_is_served_where_nothing_valid_was_ever_read() -> None:
    of = kit.document(buckets=1_000, off=["*"])
    for file in (None, b"", b"{}", kit.sealed(of)[:-20], kit.sealed(of, kit.STRANGER), b"x" * 30_000):
        assert asked(ZombieMiddleware(app, gate_of(file)), scope_of("/api/feed")).status == 200


def test_everything_is_served_from_the_second_at_which_the_document_ends() -> None:
    clock = FixedClock(kit.NOW)
    published = kit.Published(kit.sealed(kit.document(buckets=1_000, lasts_s=600)))
    gated = behind(None, clock=clock, transport=published)
    clock.advance(599.9)
    published.answers = None
    gated.gate.poll()
    assert asked(gated, scope_of("/api/feed")).status == 503
    clock.advance(0.1)
    assert asked(gated, scope_of("/api/feed")).status == 200
    gated.gate.poll()
    assert gated.gate.table is None


def test_a_document_that_must_not_be_believed_leaves_the_last_good_one_in_force() -> None:
    published = kit.Published(kit.sealed(kit.document(version=8, buckets=1_000)))
    clock = FixedClock(kit.NOW)
    gated = behind(None, clock=clock, transport=published)
    opening = {"level": "normal", "buckets": 0, "off": []}
    refused = {
        "unknown_key": kit.sealed(kit.document(version=9, **opening), kit.STRANGER),
        "replayed": kit.sealed(kit.document(version=7, **opening)),
        "conflict": kit.sealed(kit.document(version=8, **opening)),
        "wrong_app": kit.sealed(kit.document(version=9, app="other", **opening)),
        "expired": kit.sealed(kit.document(version=9, now=kit.NOW - 4_000, **opening)),
        "too_early": kit.sealed(kit.document(version=9, now=kit.NOW + 4_000, **opening)),
        "malformed": b"\x00garbage",
        "oversized": b"{" * 30_000,
    }
    for file in refused.values():
        published.publish(file)
        gated.gate.poll()
        assert asked(gated, scope_of("/api/feed")).status == 503
    published.answers = HttpResponse(404)
    gated.gate.poll()
    assert asked(gated, scope_of("/api/feed")).status == 503
    assert gated.gate.statistics().refusals == dict.fromkeys(refused, 1)
    clock.advance(3_600)
    assert asked(gated, scope_of("/api/feed")).status == 200


def test_a_function_that_fails_serves_the_request(caplog: pytest.LogCaptureFixture) -> None:
    def broken(scope: Any) -> str:
        raise KeyError("session")

    gated = behind(kit.document(buckets=999), identify=[broken])
    assert asked(gated, scope_of("/api/feed")).status == 200
    assert asked(gated, scope_of("/api/feed")).status == 200
    assert gated.gate.statistics().faults == 2
    assert sum(record.exc_info is not None for record in caplog.records) == 1
    # The next key is tried all the same.
    user = kit.user_of_each_bucket()[0]
    fallback = behind(kit.document(buckets=999), identify=[broken, "header:x-user-id"])
    assert asked(fallback, scope_of("/api/feed", x_user_id=user)).status == 503


def test_a_function_that_returns_no_text_serves_the_request() -> None:
    gated = behind(kit.document(buckets=999), identify=[lambda scope: 42])
    assert asked(gated, scope_of("/api/feed")).status == 200
    assert gated.gate.statistics().faults == 1


# --- Beside requests -------------------------------------------------------------------------------


def test_no_request_waits_for_a_poll() -> None:
    asking, answer = threading.Event(), threading.Event()

    def transport(request: HttpRequest) -> HttpResponse:
        asking.set()
        assert answer.wait(30)
        return HttpResponse(200, {}, kit.sealed(kit.document(buckets=1_000)))

    clock = FixedClock(kit.NOW)
    gate = Gate(kit.routing(), source="http://unused", trusted=[kit.KEY.public], transport=transport, clock=clock)
    gated = ZombieMiddleware(app, gate)
    assert asked(gated, scope_of("/api/feed")).status == 200
    assert asking.wait(30)
    # The poll hangs, and requests go on.
    assert asked(gated, scope_of("/api/feed")).status == 200
    answer.set()
    with gate._polling:
        pass  # held while it polls
    assert asked(gated, scope_of("/api/feed")).status == 503
    gate.stop()


def test_threads_and_loops_see_one_document_or_the_other_and_every_count_is_kept() -> None:
    """Documents change under four event loops; an answer's parts always belong together."""
    features = {1: "feed", 2: "search"}
    published = kit.Published()
    gate = gate_of(None, transport=published)
    # Odd versions have the feed off, even ones the search.
    files = [kit.sealed(kit.document(version=v, buckets=1_000, off=[features[2 - v % 2]])) for v in range(1, 81)]
    gated = ZombieMiddleware(app, gate)
    wrong: list[kit.Reply] = []
    shed = [0] * 4

    def ask(thread: int) -> None:
        for number in range(500):
            reply = asked(gated, scope_of("/api/feed" if number % 2 else "/api/search"))
            if reply.status == 503:
                shed[thread] += 1
                feature = features[2 - int(reply.headers["zombie-version"]) % 2]
                if reply.said["feature"] != feature or reply.headers["zombie-feature"] != feature:
                    wrong.append(reply)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for file in files:
        published.publish(file)
        gate.poll()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(gate.statistics().shed.values()) == sum(shed)
    assert gate.statistics().version == 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_that_was_forked_polls_for_itself() -> None:
    published = kit.Published(kit.sealed(kit.document(buckets=1_000)))
    gate = Gate(
        kit.routing(), source="http://unused", trusted=[kit.KEY.public], transport=published, clock=FixedClock(kit.NOW)
    )
    gate.start()
    assert not gate.needs_start
    reading, writing = os.pipe()
    # A thread may hold a lock at this moment; in the child there is nobody to let it go.
    with gate._counting, gate._starting:
        child = os.fork()
        if child == 0:
            with os.fdopen(writing, "w") as file:
                file.write(str(gate.needs_start))
                gate.start()
                file.write(f" {gate.needs_start} {gate.statistics().faults}")
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == "True False 0"
    os.waitpid(child, 0)
    gate.stop()


def test_what_is_shed_is_counted_by_feature() -> None:
    gated = behind(kit.document(buckets=1_000, off=["*"]))
    for path in ("/api/feed", "/api/feed/2", "/api/search", "/else", "/healthz"):
        asked(gated, scope_of(path))
    assert gated.gate.statistics().shed == {"feed": 2, "search": 1, "": 1}
    assert "version=7" in repr(gated)
