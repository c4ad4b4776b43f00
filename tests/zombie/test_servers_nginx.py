"""nginx's configuration, in a real nginx: it sheds whom it should, and nobody else."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import servers_kit as kit
from hypothesis import given
from hypothesis import strategies as st

from flashcast.errors import InputError
from flashcast.zombie.buckets import cohort_of, cohorts_in
from flashcast.zombie.document import Document
from flashcast.zombie.servers import nginx
from flashcast.zombie.servers.routing import Routing

CONFIGURATION = """\
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 10000;
    include {folder}/zombie-http.conf;
    server {{
        listen unix:{folder}/nginx.sock;
        include {folder}/zombie-server.conf;
        location / {{ return 200 "served"; }}
        location = /broken {{ return 503; }}
    }}
}}
"""


@pytest.fixture(scope="session")
def nginx_path(require_command: Callable[[str], str]) -> str:
    return require_command("nginx")


@pytest.fixture
def run(nginx_path: str) -> Callable[..., Any]:
    """Starts nginx with a document and routing."""

    @contextmanager
    def start(of: Document | None, routing: Routing, **options: Any) -> Iterator[kit.Proxy]:
        with kit.folder() as folder:
            (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder))
            (folder / "zombie-http.conf").write_text(nginx.http_part(of, routing, **options))
            prefix = options.get("prefix", "zombie")
            (folder / "zombie-server.conf").write_text(nginx.server_part(prefix=prefix))
            command = [nginx_path, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
            with kit.serving(command, folder / "nginx.sock", folder / "log") as proxy:
                yield proxy

    return start


def current(**said: Any) -> Document:
    """A document that holds by the machine's own clock, which nginx looks at."""
    return kit.document(now=time.time(), **said)


def test_a_request_whose_cohort_is_in_it_is_told_when_to_come_back(run: Any) -> None:
    of = current(buckets=300, wait_s=30, drain_s=600)
    inside = min(cohorts_in(kit.SALT, 100, 300))
    with run(of, kit.routing(cohorts=100, carried="cookie:zombie_cohort")) as proxy:
        reply = proxy.get("/api/feed/latest?page=2", {"Cookie": f"a=b; zombie_cohort={inside}"})
    assert reply.status == 503
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["zombie-level"] == "zombie"
    assert reply.headers["zombie-version"] == "7"
    assert reply.headers["zombie-feature"] == "feed"
    seconds = int(reply.headers["retry-after"])
    assert 30 <= seconds <= 630
    assert reply.said == {"error": "unavailable", "level": "zombie", "feature": "feed", "retry_after_s": seconds}


def test_exactly_the_cohorts_that_are_in_it_are_shed(run: Any) -> None:
    of = current(buckets=370)
    with run(of, kit.routing(cohorts=100, carried="header:x-cohort")) as proxy:
        shed = {index for index in range(100) if proxy.get("/api/feed", {"X-Cohort": str(index)}).status == 503}
        assert proxy.get("/api/feed", {"X-Cohort": "100"}).status == 200
        assert proxy.get("/api/feed", {"X-Cohort": "1; drop"}).status == 200
        assert proxy.get("/api/feed").status == 200
    assert shed == cohorts_in(kit.SALT, 100, 370)


def test_a_user_is_shed_where_the_client_of_its_cohort_would_not_ask(run: Any) -> None:
    of = current(buckets=250, off=["*"], keep=["search"])
    off = cohorts_in(kit.SALT, 8, 250)
    with run(of, kit.routing(cohorts=8, carried="header:x-cohort")) as proxy:
        for user in ("1", "42", "Jörg", "🧟"):
            cohort = cohort_of("shop", user, 8)
            assert (proxy.get("/api/feed", {"X-Cohort": str(cohort)}).status == 503) == (cohort in off)
            assert proxy.get("/api/search", {"X-Cohort": str(cohort)}).status == 200


@pytest.mark.parametrize("buckets", [1, 9, 10, 11, 99, 100, 101, 370, 999])
def test_exactly_the_buckets_below_the_document_s_are_shed(run: Any, buckets: int) -> None:
    with run(current(buckets=buckets), kit.routing(carried="header:x-zombie-bucket")) as proxy:
        shed = [n for n in range(1_000) if proxy.get("/api/feed", {"X-Zombie-Bucket": str(n)}).status == 503]
        for odd in ("", "-1", "00", "1000", "1e1", "0x1", "5 5"):
            assert proxy.get("/api/feed", {"X-Zombie-Bucket": odd}).status == 200
    assert shed == list(range(buckets))


def test_when_everybody_is_in_it_paths_alone_decide(run: Any) -> None:
    of = current(buckets=1_000, off=["*"], keep=["search"], writes="queue")
    with run(of, kit.routing()) as proxy:
        assert proxy.get("/healthz").status == 200
        assert proxy.get("/api/payments/7").status == 200
        assert proxy.get("/api/search?q=x").status == 200
        assert proxy.get("/api/feed").status == 503
        assert proxy.get("/api/feed/").status == 503
        assert proxy.get("/api/%66eed/x%0Ay").status == 503
        assert proxy.get("/api/users/7/progress", method="POST").status == 503
        assert proxy.get("/api/users/7/progress", method="OPTIONS").status == 200
        other = proxy.get("/elsewhere")
        assert other.status == 503
        assert "zombie-feature" not in other.headers
        assert other.said.keys() == {"error", "level", "retry_after_s"}
        head = proxy.get("/api/feed", method="HEAD")
        assert (head.status, head.body) == (503, b"")


def test_prefetching_goes_first_and_payments_last(run: Any) -> None:
    with run(current(buckets=1_000, off=["feed"]), kit.routing()) as proxy:
        assert proxy.get("/api/prefetch/next").status == 503
        assert proxy.get("/api/search").status == 200
        assert proxy.get("/api/payments/7").status == 200
    with run(current(buckets=1_000, off=["*", "payments"], writes="queue"), kit.routing()) as proxy:
        assert proxy.get("/api/payments/7", method="POST").status == 503
        assert proxy.get("/healthz").status == 200


def test_writes_pass_where_the_document_lets_them(run: Any) -> None:
    with run(current(buckets=1_000, off=["*"], writes="send"), kit.routing()) as proxy:
        assert proxy.get("/api/users/7/progress", method="POST").status == 200
        assert proxy.get("/api/users/7/progress").status == 503
        # A search by POST reads, says the rule.
        assert proxy.get("/api/search", method="POST").status == 503
        assert proxy.get("/api/search", method="PUT").status == 200


def test_it_is_open_when_the_document_has_ended_though_nobody_renewed_the_configuration(run: Any) -> None:
    of = kit.document(now=time.time() - 7_200, lasts_s=7_199, buckets=1_000)
    with run(of, kit.routing()) as proxy:
        assert proxy.get("/api/feed").status == 200


@pytest.mark.parametrize("of", [None, {"buckets": 0}, {"level": "normal", "buckets": 0, "off": []}])
def test_a_document_by_which_nothing_is_off_makes_a_configuration_that_serves_all(run: Any, of: Any) -> None:
    with run(None if of is None else current(**of), kit.routing()) as proxy:
        assert proxy.get("/api/feed", {"X-User-Id": "1"}).status == 200


def test_a_503_of_the_service_itself_is_not_dressed_as_ours(run: Any) -> None:
    routing = kit.routing(routes=[{"path": "/api/feed", "feature": "feed"}])
    with run(current(buckets=1_000), routing) as proxy:
        reply = proxy.get("/broken")
    assert reply.status == 503
    assert "zombie-level" not in reply.headers


def test_a_write_that_is_shed_spoils_no_later_request_on_its_connection(run: Any) -> None:
    of = current(buckets=1_000, off=["*"], writes="queue")
    with run(of, kit.routing()) as proxy:
        for _ in range(3):
            assert proxy.get("/api/feed", method="POST", body=b"GET /healthz HTTP/1.1\r\n" * 1_000).status == 503
            assert proxy.get("/healthz").status == 200


def test_the_place_that_answers_cannot_be_asked_for(run: Any) -> None:
    with run(None, kit.routing()) as proxy:
        assert proxy.get("/.zombie-shed").status == 404


def test_retry_after_is_spread_over_the_drain_period(run: Any) -> None:
    with run(current(buckets=1_000, wait_s=30, drain_s=600), kit.routing()) as proxy:
        seen = {int(proxy.get("/api/feed").headers["retry-after"]) for _ in range(400)}
    assert all(30 <= seconds <= 630 for seconds in seen)
    # Each of 20 values has missed 400 draws with a chance of 1 in 800 million.
    assert len(seen) == 20


def test_those_without_a_number_are_sorted_by_nginx_where_that_is_wanted(run: Any) -> None:
    routing = kit.routing(identify=["header:x-user-id", "cookie:uid"], carried="header:x-zombie-bucket")
    users = [f"user-{n}" for n in range(600)]
    with run(current(buckets=300), routing, share_others=True) as proxy:
        first = {user for user in users if proxy.get("/api/feed", {"X-User-Id": user}).status == 503}
        again = {user for user in users if proxy.get("/api/feed", {"Cookie": f"uid={user}"}).status == 503}
        assert proxy.get("/api/feed").status == 200
        assert proxy.get("/api/feed", {"X-User-Id": min(first), "X-Zombie-Bucket": "300"}).status == 200
    assert first == again
    # 180 are expected, the standard deviation is 11.
    assert 120 < len(first) < 240
    with run(current(buckets=500), routing, share_others=True) as proxy:
        assert all(proxy.get("/api/feed", {"X-User-Id": user}).status == 503 for user in first)


def test_an_nginx_that_serves_several_apps_has_variables_for_each(run: Any) -> None:
    with run(current(buckets=1_000), kit.routing(), prefix="zombie_shop") as proxy:
        assert proxy.get("/api/feed").headers["zombie-feature"] == "feed"


def test_nginx_finds_the_configuration_sound(nginx_path: str) -> None:
    of = current(off=["*"], keep=["search"], writes="queue", buckets=999)
    routing = kit.routing(identify=["cookie:uid", "header:x-user-id", "address"], carried="cookie:n", cohorts=100)
    with kit.folder() as folder:
        (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder))
        (folder / "zombie-http.conf").write_text(nginx.http_part(of, routing, share_others=True))
        (folder / "zombie-server.conf").write_text(nginx.server_part())
        command = [nginx_path, "-t", "-q", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        tested = subprocess.run(command, check=False, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "emerg" not in tested.stderr


@given(limit=st.integers(1, 300_000_000_000), near=st.integers(-12, 12), far=st.integers(0, 400_000_000_000))
def test_the_expression_for_smaller_numbers_fits_those_and_no_others(limit: int, near: int, far: int) -> None:
    for number in {0, limit - 1, limit, max(0, limit + near), far, limit * 10, limit // 10}:
        assert bool(re.fullmatch(nginx.below(limit), str(number))) == (number < limit)


def test_the_same_document_gives_the_same_text_and_another_another() -> None:
    of = kit.document()
    assert nginx.http_part(of, kit.routing()) == nginx.http_part(of, kit.routing())
    assert nginx.http_part(of, kit.routing()) != nginx.http_part(kit.document(version=8), kit.routing())


def test_what_nginx_cannot_do_is_said() -> None:
    with pytest.raises(InputError, match="claim:sub: nginx cannot read it"):
        nginx.http_part(kit.document(), kit.routing(identify=["claim:sub"]), share_others=True)
    with pytest.raises(InputError, match="cookie:zombie-cohort"):
        nginx.http_part(kit.document(), kit.routing(carried="cookie:zombie-cohort"))
    with pytest.raises(InputError, match="identify is empty"):
        nginx.http_part(kit.document(), kit.routing(identify=[]), share_others=True)
    with pytest.raises(InputError, match="prefix"):
        nginx.http_part(kit.document(), kit.routing(), prefix="$x")


def test_the_server_s_part_is_the_same_for_every_document(tmp_path: Path) -> None:
    assert nginx.server_part() == nginx.server_part(prefix="zombie")
    with pytest.raises(InputError, match="prefix"):
        nginx.server_part(prefix="A")
