"""What a watch on NATS gives its reader, of whatever its consumers deliver."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from flashcast.engine.base import Entry
from flashcast.engine.nats_bucket import Bucket, Delivery, JetStream, delivered
from flashcast.engine.nats_watch import Feed

BUCKET = Bucket("b", "file", 1)


class _Nowhere:
    """A link that never comes up: the test delivers by itself."""

    @property
    def link(self) -> _Nowhere:
        return self

    async def connected(self) -> None:
        await asyncio.Event().wait()


async def _never() -> bool:
    raise AssertionError("nothing is gone")


def given(
    deliveries: Sequence[tuple[str, str | None, int, int]], prefix: str = ""
) -> list[tuple[str, str | None, int]]:
    """What a reader gets of such deliveries: key, value, revision and time of writing."""

    async def main() -> list[tuple[str, str | None, int]]:
        feed = Feed(cast("JetStream", _Nowhere()), BUCKET, prefix, _never)
        for number, (key, value, revision, stamp_ns) in enumerate(deliveries, 1):
            entry = Entry(key, None if value is None else value.encode(), revision)
            feed.take(Delivery(entry, stamp_ns, number))
        await feed.close()
        entries = [entry async for entry in feed]
        return [(e.key, None if e.value is None else e.value.decode(), e.revision) for e in entries if e is not None]

    return asyncio.run(main())


def test_what_came_before_is_not_given_again() -> None:
    assert given([("a", "1", 1, 10), ("b", "1", 2, 20), ("a", "1", 1, 10), ("b", "2", 3, 30), ("b", "2", 3, 30)]) == [
        ("a", "1", 1),
        ("b", "1", 2),
        ("b", "2", 3),
    ]


def test_a_replica_that_lags_does_not_take_its_reader_back() -> None:
    assert given([("a", "new", 7, 70), ("a", "old", 5, 50), ("a", "newer", 8, 80)]) == [
        ("a", "new", 7),
        ("a", "newer", 8),
    ]
    assert given([("a", "1", 5, 50), ("a", None, 6, 60), ("a", "1", 5, 50), ("a", None, 6, 60)]) == [
        ("a", "1", 5),
        ("a", None, 6),
    ]


def test_a_bucket_that_was_made_anew_counts_from_one() -> None:
    assert given([("a", "1", 900, 50), ("a", "anew", 1, 60), ("a", "more", 2, 70)]) == [
        ("a", "1", 900),
        ("a", "anew", 1),
        ("a", "more", 2),
    ]


def test_leaders_whose_clocks_differ_change_nothing() -> None:
    assert given([("a", "1", 1, 50), ("a", "2", 2, 40)]) == [("a", "1", 1), ("a", "2", 2)]


def test_a_deletion_is_told_to_those_who_knew_the_key() -> None:
    assert given([("never", None, 1, 10), ("a", "1", 2, 20), ("a", None, 3, 30), ("a", None, 4, 40)]) == [
        ("a", "1", 2),
        ("a", None, 3),
    ]


def test_what_is_not_below_the_prefix_is_left_out() -> None:
    assert given([("a.b", "1", 1, 10), ("a.bc", "1", 2, 20), ("a.b.c", "1", 3, 30), ("a", "1", 4, 40)], "a.b") == [
        ("a.b", "1", 1),
        ("a.b.c", "1", 3),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.KV_b.consumer.1.17.3.1795376702637724798.5",
        "$JS.ACK.hub.ACCOUNT.KV_b.consumer.1.17.3.1795376702637724798.5",
        "$JS.ACK.hub.ACCOUNT.KV_b.consumer.1.17.3.1795376702637724798.5.Ab3",
    ],
)
@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ({}, b"v"),
        (None, b"v"),
        ({"KV-Operation": "PUT"}, b"v"),
        ({"KV-Operation": "DEL"}, None),
        ({"KV-Operation": "PURGE"}, None),
        ({"Nats-Marker-Reason": "MaxAge"}, None),
    ],
)
def test_a_delivery_is_read(reply: str, headers: dict[str, Any] | None, value: bytes | None) -> None:
    message = Msg(Client(), "$KV.b.a.key", reply, b"v", headers)
    assert delivered(BUCKET, message) == Delivery(Entry("a.key", value, 17), 1795376702637724798, 3)
