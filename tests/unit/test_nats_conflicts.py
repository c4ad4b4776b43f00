"""What the NATS engine makes of a refused write, when a cluster says one thing and shows another for a while."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from flashcast.engine.base import EngineUnavailable, Entry, KeyExistsError, RevisionConflictError
from flashcast.engine.nats import CONFLICT_ROUNDS_MAX, NatsKeyValue
from flashcast.engine.nats_bucket import Bucket, JetStream
from flashcast.engine.nats_link import Link
from flashcast.errors import EnvironmentFault

REFUSED = {"error": {"code": 400, "err_code": 10164, "description": "wrong last sequence"}}
NOTHING = {"error": {"code": 404, "err_code": 10037, "description": "no message found"}}


def taken(revision: int) -> dict[str, Any]:
    """A write that went through."""
    return {"stream": "KV_b", "seq": revision}


def there(value: bytes | None, revision: int) -> dict[str, Any]:
    """What the leader shows of the key; None where it is deleted."""
    headers = b"" if value is not None else b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"
    found = {
        "subject": "$KV.b.key",
        "seq": revision,
        "time": "2026-02-08T18:30:00Z",
        "hdrs": base64.b64encode(headers).decode(),
        "data": base64.b64encode(value or b"").decode(),
    }
    return {"message": found}


class _Cluster:
    """Answers writes and reads in turn; the last answer of each for ever."""

    address = "nats://a:4222"
    options = SimpleNamespace(timeout_s=2.0)

    def __init__(self, writes: Sequence[Mapping[str, Any]], reads: Sequence[Mapping[str, Any]]) -> None:
        self.answers = {"write": list(writes), "read": list(reads)}
        self.expected: list[str] = []

    async def request(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        kind = "write" if subject.startswith("$KV.") else "read"
        if kind == "write":
            self.expected.append((headers or {}).get("Nats-Expected-Last-Subject-Sequence", ""))
        answers = self.answers[kind]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return Msg(Client(), subject, "", json.dumps(answer).encode(), None)


def attempt(cluster: _Cluster, what: Callable[[NatsKeyValue], Awaitable[Any]]) -> Any:
    """One call, on a bucket that this cluster keeps."""

    async def main() -> Any:
        return await what(NatsKeyValue(JetStream(cast("Link", cluster)), Bucket("b", "file", 3)))

    return asyncio.run(main())


def test_a_key_that_is_there_is_shown() -> None:
    with pytest.raises(KeyExistsError) as caught:
        attempt(_Cluster([REFUSED], [there(b"other", 5)]), lambda kv: kv.create("key", b"mine"))
    assert caught.value.entry == Entry("key", b"other", 5)


def test_a_deleted_key_is_created_over_its_deletion() -> None:
    cluster = _Cluster([REFUSED, taken(9)], [there(None, 7)])
    assert attempt(cluster, lambda kv: kv.create("key", b"mine")) == 9
    assert cluster.expected == ["0", "7"]


def test_a_write_on_its_way_is_waited_for_and_then_shown() -> None:
    # It may be an earlier try of the same caller's: only the entry tells.
    cluster = _Cluster([REFUSED], [NOTHING, NOTHING, there(b"mine", 5)])
    with pytest.raises(KeyExistsError) as caught:
        attempt(cluster, lambda kv: kv.create("key", b"mine"))
    assert caught.value.entry == Entry("key", b"mine", 5)


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        (lambda kv: kv.create("key", b"mine"), NOTHING),
        (lambda kv: kv.create("key", b"mine"), there(None, 3)),
        (lambda kv: kv.update("key", b"mine", 3), there(b"old", 3)),
        (lambda kv: kv.delete("key", 3), there(b"old", 3)),
    ],
)
def test_as_long_as_nobody_can_tell_it_says_that_nobody_can(
    what: Callable[[NatsKeyValue], Awaitable[Any]], shown: dict[str, Any]
) -> None:
    cluster = _Cluster([REFUSED], [shown])
    with pytest.raises(EngineUnavailable, match="on its way"):
        attempt(cluster, what)
    assert len(cluster.expected) == CONFLICT_ROUNDS_MAX


def test_a_write_that_came_to_nothing_lets_the_next_through() -> None:
    cluster = _Cluster([REFUSED, REFUSED, taken(9)], [there(b"old", 3)])
    assert attempt(cluster, lambda kv: kv.update("key", b"mine", 3)) == 9
    assert cluster.expected == ["3", "3", "3"]


@pytest.mark.parametrize("shown", [NOTHING, there(None, 8), there(b"newer", 8)])
def test_an_update_of_what_has_changed_is_a_conflict(shown: dict[str, Any]) -> None:
    with pytest.raises(RevisionConflictError):
        attempt(_Cluster([REFUSED], [shown]), lambda kv: kv.update("key", b"mine", 3))


def test_a_deletion_of_what_is_gone_is_none() -> None:
    assert attempt(_Cluster([REFUSED], [NOTHING]), lambda kv: kv.delete("key", 3)) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 503, "err_code": 10077, "description": "no space left on device"}, EngineUnavailable),
        ({"code": 503, "err_code": 10008, "description": "temporarily unavailable"}, EngineUnavailable),
        ({"code": 400, "err_code": 10054, "description": "message size exceeds maximum allowed"}, EnvironmentFault),
    ],
)
def test_other_refusals_are_told_as_they_are(error: dict[str, Any], kind: type[EnvironmentFault]) -> None:
    with pytest.raises(kind, match=error["description"]) as caught:
        attempt(_Cluster([{"error": error}], [NOTHING]), lambda kv: kv.create("key", b"mine"))
    assert type(caught.value) is kind
