"""The core believes nothing it should not, never goes quiet and never raises, whatever it is given."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from zombie_data import KEY, NOW, OTHER, TRUSTED, document, normal, sealed, zombie

from flashcast.zombie.bounds import CLIENT_WAIT_S_MAX, POLL_S_MIN
from flashcast.zombie.client.core import Action, Core, News
from flashcast.zombie.client.http import HttpResponse
from flashcast.zombie.envelope import seal

BODIES = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([sealed(version=5), sealed(version=6), sealed(version=8), sealed(normal(), version=9)]),
    st.sampled_from(
        [sealed(version=20)[:-1], seal(document(version=21), [OTHER]), sealed(version=22, now=NOW - 10**5)]
    ),
)
HEADERS = st.dictionaries(st.sampled_from(["etag", "retry-after"]), st.text(max_size=30) | st.just("99999999999"))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answered"), st.integers(100, 599) | st.sampled_from([200, 304]), HEADERS, BODIES),
        st.tuples(st.just("failed")),
        st.tuples(st.just("soon")),
        st.tuples(st.just("passes"), st.integers(0, 4_000)),
    ),
    max_size=30,
)


@given(STEPS, st.integers(0, 10**6))
def test_whatever_servers_answer_versions_grow_and_polls_go_on(steps: list[Any], seed: int) -> None:
    now = float(NOW)
    core = Core(app="shop", url="http://cdn", trusted=TRUSTED, random=random.Random(seed).random, now=now)
    for what, *given_ in steps:
        before = core.last.version if core.last else 0
        match what:
            case "answered":
                core.request(now)
                polled = core.answered(HttpResponse(*given_), now)
                assert (polled.refusal is not None) == (polled.news is News.REFUSED)
            case "failed":
                core.failed(now)
            case "soon":
                core.poll_soon(now)
            case "passes":
                now += given_[0]
        after = core.last.version if core.last else 0
        assert after >= before
        assert after in (0, 5, 6, 8, 9)
        if what in ("answered", "failed"):
            assert POLL_S_MIN <= core.next_poll_at - now <= CLIENT_WAIT_S_MAX
        file, etag = core.saved
        assert bool(file) == bool(after)
        assert etag.isascii() and "\n" not in etag
        if core.last is not None and now >= core.last.expires_at:
            assert core.decide("u1", "feed", now).action is Action.SEND


@given(st.text(max_size=20), st.text(st.characters(codec="utf-8"), max_size=20), st.floats(0, 1e11), st.booleans())
def test_any_question_has_an_answer(feature: str, user: str, now: float, write: bool) -> None:
    core = Core(app="shop", url="http://cdn", trusted=TRUSTED, random=random.random, now=0.0)
    assert core.decide(user, feature, now, write=write).action is Action.SEND
    core.answered(HttpResponse(200, {}, sealed(zombie(message={"*": "x"}))), NOW)
    standing = core.standing(user, now)
    decided = core.decide(user, feature, now, write=write)
    assert (decided.action is Action.SEND) != standing.is_off(feature)
    assert standing.message(feature) == ("x" if standing.is_inside else None)


def test_a_server_that_names_ten_thousand_features_is_remembered_for_the_last_to_end() -> None:
    core = Core(app="shop", url="", trusted=TRUSTED, random=lambda: 0.0, now=0.0)
    for number in range(10_000):
        core.heard(f"f{number}", 503, {"retry-after": "3000"}, number / 10)
    held = [number for number in range(10_000) if core.decide("u", f"f{number}", 1_000).action is not Action.SEND]
    assert held == list(range(10_000 - 256, 10_000))


def test_a_key_that_is_given_up_takes_its_high_version_with_it() -> None:
    core = Core(app="shop", url="", trusted=TRUSTED, random=lambda: 0.0, now=0.0)
    assert core.restore(sealed(version=2**53 - 1), "")
    assert core.answered(HttpResponse(200, {}, sealed()), NOW).news is News.REFUSED
    other = Core(app="shop", url="", trusted={OTHER.id: OTHER.public}, random=lambda: 0.0, now=0.0)
    assert not other.restore(sealed(version=2**53 - 1), "")
    assert other.answered(HttpResponse(200, {}, seal(document(), [OTHER])), NOW).news is News.CHANGED
    assert KEY.id not in repr(other)
