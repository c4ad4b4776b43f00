"""One table of requests, and three servers that must decide the same: the middleware, nginx and Envoy, each a real one.

Users are told apart by a header; nginx, which cannot hash, gets the bucket or cohort in another, as from a gateway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import servers_kit as kit
from test_servers_envoy import BOOTSTRAP
from test_servers_nginx import CONFIGURATION

from flashcast.zombie.buckets import bucket, cohort_of, cohorts_in
from flashcast.zombie.document import Document
from flashcast.zombie.servers import envoy, nginx
from flashcast.zombie.servers.routing import Routing

SERVERS = ("middleware", "nginx", "envoy")


@contextmanager
def _middleware(folder: Path, of: Document, routing: Routing, require: Callable[[str], str]) -> Iterator[kit.Proxy]:
    (folder / "routing.json").write_text(routing.model_dump_json())
    (folder / "shop.json").write_bytes(kit.sealed(of))
    command = [
        "env", f"PYTHONPATH={Path(__file__).parent}", f"TEST_FOLDER={folder}", f"TEST_KEY={kit.KEY.public.text}",
        sys.executable, "-m", "uvicorn", "servers_app:app", "--uds", f"{folder}/app.sock", "--log-level", "warning",
    ]  # fmt: skip
    with kit.serving(command, folder / "app.sock", folder / "log") as proxy:
        yield proxy


@contextmanager
def _nginx(folder: Path, of: Document, routing: Routing, require: Callable[[str], str]) -> Iterator[kit.Proxy]:
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder))
    (folder / "zombie-http.conf").write_text(nginx.http_part(of, routing))
    (folder / "zombie-server.conf").write_text(nginx.server_part())
    command = [require("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with kit.serving(command, folder / "nginx.sock", folder / "log") as proxy:
        yield proxy


@contextmanager
def _envoy(folder: Path, of: Document, routing: Routing, require: Callable[[str], str]) -> Iterator[kit.Proxy]:
    chosen = envoy.http_filter(of, routing)
    indented = "".join(f"{' ' * 10}{line}" if line.strip() else line for line in chosen.splitlines(True))
    (folder / "envoy.yaml").write_text(BOOTSTRAP.format(folder=folder, filter=indented))
    command = [require("envoy"), "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart"]
    with kit.serving([*command, "-l", "warning"], folder / "envoy.sock", folder / "log") as proxy:
        yield proxy


STARTS = {"middleware": _middleware, "nginx": _nginx, "envoy": _envoy}


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    shed: bool


def asked(table: str, headers: dict[str, str] | None = None) -> list[Asked]:
    """Requests from lines such as ``GET /api/feed shed``."""
    lines = [line.split() for line in table.strip().splitlines()]
    return [Asked(method, path, headers or {}, said == "shed") for method, path, said in lines]


CATCH_ALL = list(kit.ROUTES)
NO_CATCH_ALL = [route for route in kit.ROUTES if route["path"] != "/**"]

PATHS = asked("""
    GET /api/feed shed
    GET /api/feed/ shed
    GET /api/feed// shed
    GET /api/feed? shed
    GET /api/feed/x?y=/healthz shed
    GET /api/%66eed shed
    GET /api/feed%2Fx shed
    GET /api/feed/%C3%BC shed
    GET /api/feed/%FF shed
    GET /API/feed served
    GET /api/feedback served
    GET /api/feed;v=1 served
    GET /api/feed%3Fx served
    GET /api/feed%0Ax served
    GET /img/a.png shed
    GET /img/.png shed
    GET /img/a%0Ab.png shed
    GET /img/a.PNG served
    GET /img/a/b.png served
    GET /img/a%2Fb.png served
    GET /api/users/7/progress shed
    GET /api/users/7/progress/ shed
    GET /api/users/a+b/progress shed
    GET /api/users/%C3%BC/progress shed
    GET /api/users/7/progress/x served
    GET /api/users/a%2Fb/progress served
    GET /api/users//progress served
    GET /healthz served
    GET / served
    GET /elsewhere served
""")
"""Which route a path is. Prefetching is left out: see below."""

EVERYTHING = asked("""
    GET /healthz served
    GET /healthz/ served
    GET /healthz/x shed
    GET /api/payments served
    GET /api/payments/7 served
    POST /api/payments/7 served
    GET /api/search?q=x served
    POST /api/search served
    PUT /api/search shed
    GET /api/prefetch/next shed
    POST /api/prefetch/next shed
    GET /api/feed shed
    HEAD /api/feed shed
    POST /api/feed shed
    DELETE /api/feed/7 shed
    PATCH /api/feed/7 shed
    OPTIONS /api/feed served
    GET /elsewhere shed
    GET / shed
""")
"""`off = ["*"]`, `keep = ["search"]`, writes wait: payments and health are not reached, OPTIONS never is."""

WRITES_SENT = asked("""
    GET /api/feed shed
    HEAD /api/feed shed
    POST /api/feed served
    DELETE /api/feed/7 served
    GET /api/search shed
    POST /api/search shed
    PUT /api/search served
    POST /api/prefetch/next served
    GET /api/payments/7 served
    GET /healthz served
""")
"""`off = ["*"]` and writes are sent; a search by POST reads, says the routing."""

ONE_FEATURE = asked("""
    GET /api/prefetch/next shed
    GET /api/search shed
    GET /api/feed served
    GET /api/payments/7 served
    GET /healthz served
    GET /elsewhere served
""")
"""`off = ["search"]`: prefetching is the first to go, whatever is off."""

PAYMENTS = asked("""
    GET /api/payments/7 shed
    POST /api/payments/7 shed
    GET /api/search shed
    GET /healthz served
""")
"""`off = ["*", "payments"]`: payments are the last to go, by their name alone; health never goes."""

NOTHING = asked("""
    GET /api/prefetch/next served
    GET /api/feed served
    POST /api/feed served
    GET / served
""")

USERS = [*kit.user_of_each_bucket()[360:380], *(f"user-{n}" for n in range(60)), "Jörg", "🧟", "x" * 300]


def by_bucket(buckets: int) -> list[Asked]:
    return [
        Asked("GET", "/api/feed", _named(user, bucket(kit.SALT, user)), bucket(kit.SALT, user) < buckets)
        for user in USERS
    ] + [Asked("GET", "/api/feed", {}, False)]


def by_cohort(buckets: int, of: int) -> list[Asked]:
    inside = cohorts_in(kit.SALT, of, buckets)
    return [
        Asked("GET", "/api/feed", _named(user, cohort), cohort in inside)
        for user in USERS
        for cohort in [cohort_of("shop", user, of)]
    ]


def _named(user: str, number: int) -> dict[str, str]:
    # http.client writes headers in Latin-1: these are the bytes of UTF-8.
    return {"X-User-Id": user.encode().decode("latin-1"), "X-Number": str(number)}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[Asked]]] = {
    "paths": ({"off": ["feed", "images", "progress"]}, {"routes": NO_CATCH_ALL}, PATHS),
    "everything": ({"off": ["*"], "keep": ["search"], "writes": "queue"}, {}, EVERYTHING),
    "writes are sent": ({"off": ["*"], "writes": "send"}, {}, WRITES_SENT),
    "one feature": ({"off": ["search"]}, {}, ONE_FEATURE),
    "payments as well": ({"off": ["*", "payments"], "writes": "queue"}, {}, PAYMENTS),
    "normal": ({"level": "normal", "buckets": 0, "off": []}, {}, NOTHING),
    "nobody": ({"off": ["*"], "buckets": 0}, {}, NOTHING),
    "over": ({"off": ["*"], "now": time.time() - 7_200, "lasts_s": 7_199}, {}, NOTHING),
    "37 % of buckets": ({"off": ["feed"], "buckets": 370}, {}, by_bucket(370)),
    "a bucket": ({"off": ["feed"], "buckets": 361}, {}, by_bucket(361)),
    "cohorts": ({"off": ["feed"], "buckets": 250}, {"cohorts": 8}, by_cohort(250, 8)),
}


@pytest.fixture(params=SERVERS)
def start(request: pytest.FixtureRequest, require_command: Callable[[str], str]) -> Callable[..., Any]:
    @contextmanager
    def started(of: dict[str, Any], routing: dict[str, Any]) -> Iterator[kit.Proxy]:
        document = kit.document(**({"now": time.time(), "buckets": 1_000} | of))
        with (
            kit.folder() as folder,
            STARTS[request.param](
                folder, document, kit.routing(carried="header:x-number", **routing), require_command
            ) as proxy,
        ):
            yield proxy

    return started


@pytest.mark.parametrize("case", CASES)
def test_every_server_decides_as_the_table_says(start: Callable[..., Any], case: str) -> None:
    of, routing, table = CASES[case]
    with start(of, routing) as proxy:
        replies = [proxy.get(one.path, one.headers, method=one.method) for one in table]
    wrong = [one for one, reply in zip(table, replies, strict=True) if (reply.status == 503) != one.shed]
    assert wrong == []
    assert {reply.status for reply in replies} <= {200, 503}
    for one, reply in zip(table, replies, strict=True):
        assert ("zombie-level" in reply.headers) == one.shed


def test_every_server_says_the_same_to_whom_it_sheds_and_spreads_when_they_come_back(
    start: Callable[..., Any],
) -> None:
    with start({"off": ["*"], "wait_s": 30, "drain_s": 600}, {}) as proxy:
        replies = [proxy.get("/api/feed") for _ in range(200)]
        unnamed = proxy.get("/elsewhere")
    seconds = [int(reply.headers["retry-after"]) for reply in replies]
    for reply, wait_s in zip(replies, seconds, strict=True):
        assert reply.said == {"error": "unavailable", "level": "zombie", "feature": "feed", "retry_after_s": wait_s}
        assert {name: reply.headers[name] for name in ("content-type", "cache-control")} == {
            "content-type": "application/json", "cache-control": "no-store",
        }  # fmt: skip
        said = [reply.headers[f"zombie-{name}"] for name in ("level", "version", "feature")]
        assert said == ["zombie", "7", "feed"]
    assert unnamed.said.keys() == {"error", "level", "retry_after_s"}
    assert all(30 <= wait_s <= 630 for wait_s in seconds)
    # The mean of 200 even draws is 330 give or take 12: six of those.
    assert abs(sum(seconds) / len(seconds) - 330) < 74
    assert max(seconds) - min(seconds) > 500


def test_paths_that_are_not_as_they_should_be_are_put_right_by_nginx_alone(
    start: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    """As the guide says: Envoy does so where its connection manager is told to, an app's server does not."""
    rights = request.node.callspec.params["start"] == "nginx"
    with start({"off": ["feed"]}, {"routes": NO_CATCH_ALL}) as proxy:
        for path in ("/api//feed", "/api/./feed", "/api/x/../feed"):
            assert (proxy.get(path).status == 503) == rights
        assert (proxy.get("/api/feed/../search").status == 503) == (not rights)
