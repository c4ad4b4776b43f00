"""Routing: which requests are which feature, what is given up first, and whose requests they are."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import servers_kit as kit
from hypothesis import given
from hypothesis import strategies as st

from flashcast.errors import InputError
from flashcast.zombie.client.core import Action, Core
from flashcast.zombie.client.http import HttpResponse
from flashcast.zombie.keys import trusted
from flashcast.zombie.servers.identify import by_address, by_claim, by_cookie, by_header, identifiers
from flashcast.zombie.servers.routing import Priority, Route, load_routing
from flashcast.zombie.servers.table import Routes, compiled, retry_spread

FEATURES = ("feed", "search", "payments", "prefetch")


def route(path: str, **said: Any) -> Route:
    return Route.model_validate({"path": path} | said)


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("/", ["/"], ["", "/a", "//"]),
        ("/api/feed", ["/api/feed", "/api/feed/"], ["/api/feeds", "/api/feed/x", "/API/feed", "/x/api/feed", "/api"]),
        ("/api/feed/**", ["/api/feed", "/api/feed/", "/api/feed/x/y", "/api/feed/\n"], ["/api/feeds", "/api"]),
        ("/users/*/feed", ["/users/7/feed", "/users/a b/feed/"], ["/users/feed", "/users//feed", "/users/7/8/feed"]),
        ("/img/*.png", ["/img/a.png", "/img/.png", "/img/a.b.png"], ["/img/a/b.png", "/img/apng", "/img/a.png2"]),
        ("/v*/x", ["/v1/x", "/v/x"], ["/w1/x"]),
        ("/a.b+c~d!e,f;g=h:i@j-k", ["/a.b+c~d!e,f;g=h:i@j-k"], ["/aXb+c~d!e,f;g=h:i@j-k", "/a.bb+c~d!e,f;g=h:i@j-k"]),
        ("/**", ["/", "/a", "/a/b\nc"], []),
        ("/*/**", ["/a", "/a/", "/a/b"], ["/"]),
    ],
)
def test_a_pattern_fits_whole_paths(pattern: str, fitting: list[str], others: list[str]) -> None:
    routes = Routes([route(pattern)])
    assert [path for path in fitting if routes.find("GET", path) != 0] == []
    assert [path for path in others if routes.find("GET", path) != -1] == []


@pytest.mark.parametrize(
    "path", ["", "api", "/api/", "//", "/a/**/b", "/a**", "/a b", "/a?b", "/a{b}", "/**/**", "/ä", '/"']
)
def test_what_is_no_pattern_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="is no pattern"):
        kit.routing(routes=[{"path": path}])


def test_the_first_route_that_fits_decides_and_methods_count() -> None:
    routes = Routes([route("/a", methods=["POST"]), route("/*", methods=["GET"]), route("/**"), route("/a")])
    assert routes.find("POST", "/a") == 0
    assert routes.find("GET", "/a") == 1
    assert routes.find("PATCH", "/a") == 2
    assert routes.find("GET", "/a/b") == 2
    assert Routes([route("/a", methods=["GET"])]).find("BREW", "/a") == -1


@given(
    off=st.sets(st.sampled_from((*FEATURES, "*"))),
    keep=st.sets(st.sampled_from(FEATURES)),
    level=st.sampled_from(["normal", "shielded", "zombie", "recovering"]),
    writes=st.sampled_from(["send", "queue"]),
    write=st.booleans(),
)
def test_a_route_of_normal_priority_is_reached_where_a_client_has_its_feature_off(
    off: set[str], keep: set[str], level: str, writes: str, write: bool
) -> None:
    of = kit.document(off=sorted(off), keep=sorted(keep), level=level, writes=writes, buckets=1_000)
    core = Core(app="shop", url="", trusted=trusted([kit.KEY]), random=lambda: 0.0, now=kit.NOW)
    if of.problems():
        return
    core.answered(HttpResponse(200, {}, kit.sealed(of)), kit.NOW)
    for feature in FEATURES:
        client_sends = core.decide("anybody", feature, kit.NOW, write=write).action is Action.SEND
        reached = {
            priority: route("/x", feature=feature, priority=priority).is_reached(of, write=write)
            for priority in Priority
        }
        assert reached[Priority.NORMAL] == (not client_sends)
        assert reached[Priority.NEVER] is False
        # Each is given up no later than the next.
        assert reached[Priority.FIRST] >= reached[Priority.NORMAL] >= reached[Priority.LAST]


def test_what_goes_first_goes_with_anything_that_is_off_unless_it_is_kept() -> None:
    first = route("/prefetch", priority="first", feature="prefetch")
    assert first.is_reached(kit.document(off=["feed"]), write=False)
    assert route("/prefetch", priority="first").is_reached(kit.document(off=["feed"]), write=False)
    assert not first.is_reached(kit.document(off=["*"], keep=["prefetch"]), write=False)
    assert not first.is_reached(kit.document(level="normal", buckets=0, off=[]), write=False)


def test_what_goes_last_goes_where_it_is_named() -> None:
    last = route("/payments", priority="last", feature="payments")
    assert not last.is_reached(kit.document(off=["*"]), write=False)
    assert last.is_reached(kit.document(off=["*", "payments"]), write=False)


def test_a_route_without_a_feature_goes_with_everything_and_not_before() -> None:
    other = route("/**")
    assert other.is_reached(kit.document(off=["*"], keep=["search"]), write=False)
    assert not other.is_reached(kit.document(off=["feed"]), write=False)


def test_a_document_that_sheds_nothing_makes_no_table() -> None:
    routing = kit.routing(routes=[{"path": "/feed", "feature": "feed"}])
    routes = Routes(routing.routes)
    assert compiled(kit.document(level="normal", buckets=0, off=[]), routing, routes) is None
    assert compiled(kit.document(buckets=0), routing, routes) is None
    assert compiled(kit.document(off=["search"]), routing, routes) is None
    assert compiled(kit.document(), routing, routes) is not None


@pytest.mark.parametrize(
    ("wait_s", "drain_s", "spread"),
    [(30, 600, (30, 600)), (30, 86_400, (30, 3_570)), (3_600, 600, (3_600, 0)), (1, 0, (1, 0))],
)
def test_retry_after_stays_within_what_clients_believe(wait_s: int, drain_s: int, spread: tuple[int, int]) -> None:
    assert retry_spread(kit.document(wait_s=wait_s, drain_s=drain_s)) == spread


# --- The file --------------------------------------------------------------------------------------


def test_routing_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "zombie.toml"
    path.write_text(
        'app = "shop"\nidentify = ["header:X-User-Id", "address"]\n'
        '[[routes]]\npath = "/healthz"\npriority = "never"\n'
        '[[routes]]\npath = "/api/feed/**"\nfeature = "feed"\nmethods = ["GET"]\n'
    )
    routing = load_routing(path)
    assert routing.routes[0].priority is Priority.NEVER
    assert routing.routes[1].methods == ("GET",)
    assert routing.problems() == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("app = ", "is no TOML"),
        ('app = "shop"', "routes"),
        ('app = "Shop"\nroutes = [{path = "/"}]', "app"),
        ('app = "shop"\nroutes = [{path = "/", featrue = "x"}]', "routes.0.featrue"),
        ('app = "shop"\nroutes = [{path = "/", methods = ["get"]}]', "routes.0.methods.0"),
        ('app = "shop"\nroutes = [{path = "/", priority = "last"}]', "needs a feature"),
        ('app = "shop"\ncohorts = 1\nroutes = [{path = "/"}]', "one cohort is no split"),
        ('app = "shop"\nidentify = ["headers:x"]\nroutes = [{path = "/"}]', "headers:x"),
        ('app = "shop"\ncarried = "query:x"\nroutes = [{path = "/"}]', "carried"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_field(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "zombie.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_routing(path)
    assert told in caught.value.message
    assert str(path) in caught.value.message


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_routing(tmp_path / "none.toml")


def test_what_nobody_can_have_meant_is_told() -> None:
    assert "health checks" in " ".join(kit.routing(routes=[{"path": "/**"}]).problems())
    assert kit.routing(routes=[{"path": "/**", "priority": "never"}]).problems() == []
    after = kit.routing(routes=[{"path": "/h", "priority": "never"}, {"path": "/**"}, {"path": "/x"}])
    assert "/x comes after /**" in after.problems()[0]
    assert "identify is empty" in kit.routing(identify=[]).problems()[0]


# --- Whose request it is ---------------------------------------------------------------------------


def scope(*headers: tuple[str, str], client: Any = None) -> dict[str, Any]:
    return {"headers": [(name.encode(), value.encode()) for name, value in headers], "client": client}


def token(claims: object) -> str:
    def part(of: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(of).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part(claims)}.c2ln"


def test_a_user_is_found_in_a_header() -> None:
    find = by_header("X-User-Id")
    assert find(scope(("x-user-id", "Jörg"), ("x-user-id", "other"))) == "Jörg"
    assert find(scope(("x-user", "7"))) is None
    assert find(scope(("x-user-id", ""))) is None
    assert find({"headers": [(b"x-user-id", b"\xff")]}) is None


def test_a_user_is_found_in_a_cookie_wherever_it_stands() -> None:
    find = by_cookie("uid")
    assert find(scope(("cookie", "uid=7"))) == "7"
    assert find(scope(("cookie", "xuid=1; uid=7=8;uid=9"))) == "7=8"
    assert find(scope(("cookie", "a=b"), ("cookie", "uid=7"))) == "7"
    assert find(scope(("cookie", "uid="))) is None
    assert find(scope(("cookie", "uidx=1"))) is None


def test_a_user_is_found_in_a_token_s_claim() -> None:
    find = by_claim("sub")
    assert find(scope(("authorization", f"Bearer {token({'sub': 'u-7'})}"))) == "u-7"
    assert find(scope(("authorization", f"bearer {token({'sub': 42})}"))) == "42"
    assert by_claim("uid", "x-token")(scope(("x-token", token({"uid": "a"})))) == "a"


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer a.b", "Bearer a.b.c", "Basic dTpw", "Bearer ..", "Bearer " + "x" * 9_000 + ".b.c"]
    + [f"Bearer {token(claims)}" for claims in ({}, {"sub": ""}, {"sub": True}, {"sub": 1.5}, {"sub": ["u"]}, [1], 7)],
)
def test_a_token_without_the_claim_is_nobody_s(value: str) -> None:
    assert by_claim("sub")(scope(("authorization", value))) is None


@given(value=st.binary(max_size=300))
def test_no_header_breaks_the_search(value: bytes) -> None:
    found = {"headers": [(b"authorization", b"Bearer " + value), (b"cookie", value), (b"x-user-id", value)]}
    for find in identifiers(["header:x-user-id", "cookie:uid", "claim:sub"]):
        assert find(found) is None or isinstance(find(found), str)


def test_a_user_may_be_told_by_the_address() -> None:
    assert by_address(scope(client=("192.0.2.7", 50_000))) == "192.0.2.7"
    assert by_address(scope(client=None)) is None
    assert by_address({"headers": []}) is None


def test_a_name_that_is_not_known_is_refused() -> None:
    for name in ("query:x", "header:", "header", "cookie", "header:ä"):
        with pytest.raises(InputError, match="identify"):
            identifiers([name])
