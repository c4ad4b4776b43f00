"""`flashcast.Sender`: arrays of tokens in, outcomes out, against a simulator in a process of its own."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flashcast import Message, Sender
from flashcast.config import Config, load_config
from flashcast.errors import CampaignError, CredentialError, EnvironmentFault, InputError
from flashcast.model import UnknownPolicy
from flashcast.outcomes import Outcome, Reason
from flashcast.simulator.process import SimulatorProcess

ROOT = Path(__file__).parents[2]
APNS = {"topic": "com.example.app", "alert": {"title": "Goal!", "body": "1:0"}}
FCM = {"notification": {"title": "Goal!", "body": "1:0"}}
PERSONAL = {"topic": "com.example.app", "alert": {"title": "{{name|You}}", "body": "{{score}}"}}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with SimulatorProcess(tmp_path_factory.mktemp("simulator"), "realistic", seed=2) as running:
        yield running


@pytest.fixture(scope="module")
def config(simulator: SimulatorProcess) -> Config:
    return load_config(simulator.config_path)


def iphones(count: int) -> list[str]:
    return [secrets.token_hex(32) for _ in range(count)]


def androids(count: int) -> list[str]:
    return [f"{secrets.token_urlsafe(16)}:APA91b{secrets.token_urlsafe(96)}" for _ in range(count)]


def run(body: Callable[[Sender], Coroutine[Any, Any, Any]], config: Config, **options: Any) -> Any:
    async def main() -> Any:
        async with Sender(**({"apns": config.apns, "fcm": config.fcm} | options)) as sender:
            return await body(sender)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "form",
    [
        list,
        lambda tokens: [token.encode() for token in tokens],
        lambda tokens: np.array(tokens, "S64"),
        lambda tokens: np.array(tokens, "U64"),
        lambda tokens: np.array(tokens, object),
        pa.array,
        lambda tokens: pa.chunked_array([pa.array(tokens[:40]), pa.array(tokens[40:])]),
        lambda tokens: pa.array(["x", *tokens])[1:],
        lambda tokens: pa.array(tokens, pa.large_string()),
        lambda tokens: [token.upper() for token in tokens],
    ],
    ids=["list", "bytes", "S", "U", "object", "arrow", "chunked", "sliced", "large", "upper case"],
)
def test_every_form_of_an_array_of_tokens_is_taken(
    form: Callable[[list[str]], Any], config: Config, simulator: SimulatorProcess
) -> None:
    before = simulator.counts()["received"]
    tokens = iphones(100)
    outcomes = run(lambda sender: sender.send(form(tokens), Message(apns=APNS)), config, fcm=None)
    assert len(outcomes) == 100
    assert outcomes.counts()["accepted"] + outcomes.counts()["rejected"] == 100
    assert outcomes.accepted.sum() > 80
    assert simulator.counts()["received"] == before + 100


def test_outcomes_are_in_the_order_of_the_tokens(config: Config) -> None:
    tokens = iphones(2_000)

    async def body(sender: Sender) -> tuple[Any, Any]:
        first = await sender.send(tokens, Message(apns=APNS))
        return first, await sender.send(tokens[::-1], Message(apns=APNS))

    first, reverse = run(body, config)
    assert 0 < first.gone.size < 200, "the simulator calls some devices gone, by token"
    assert np.array_equal(first.outcome, reverse.outcome[::-1])
    assert np.array_equal(first.gone, np.flatnonzero(first.reason == Reason.UNREGISTERED.code))
    assert first.reasons() == {"Unregistered": first.gone.size}
    assert (first.attempts == 1).all()
    assert (first.reply_ms < 60_000).all()
    assert "accepted" in repr(first)


def test_a_token_with_a_wrong_character_is_rejected_without_being_sent(
    config: Config, simulator: SimulatorProcess
) -> None:
    before = simulator.counts()["received"]
    tokens = iphones(5)
    tokens[1], tokens[3] = "not a token", ""

    async def body(sender: Sender) -> list[Any]:
        return [
            await sender.send(tokens, Message(apns=APNS)),
            await sender.send(['"}}', "x" * 100], Message(fcm=FCM)),
            await sender.send([], Message(apns=APNS)),
            await sender.send(["nope"], Message(apns=APNS)),
        ]

    apple, google, nothing, only_bad = run(body, config)
    assert [int(i) for i in np.flatnonzero(apple.outcome == Outcome.REJECTED) if i in (1, 3)] == [1, 3]
    assert apple.reasons()["BadDeviceToken"] == 2
    assert list(apple.attempts) == [1, 0, 1, 0, 1]
    assert google.reasons()["INVALID_ARGUMENT"] == 1
    assert len(nothing) == 0
    assert only_bad.counts()["rejected"] == 1
    assert simulator.counts()["received"] == before + 4


def test_fields_are_filled_from_columns(config: Config, simulator: SimulatorProcess) -> None:
    tokens = iphones(4)
    columns = {"name": ['"Jo"', "", "Zoë 🏈", None], "score": np.array(["1:0", "a\\b", "\n", "x"])}
    outcomes = run(lambda s: s.send(tokens, Message(apns=PERSONAL), columns=columns), config)
    assert outcomes.counts()["accepted"] + outcomes.gone.size == 4
    assert simulator.counts()["malformed"] == 0, "a strict reader took every body"


def test_both_providers_send_at_the_same_time_and_many_messages_follow_each_other(config: Config) -> None:
    async def body(sender: Sender) -> list[Any]:
        sends = []
        for i in range(4):
            alert = {"title": f"Goal {i}!" + "!" * 300 * i}
            apns = {"topic": "com.example.app", "alert": alert, "collapse_id": f"goal-{i}"}
            sends.append(sender.send(iphones(300), Message(apns=apns)))
            sends.append(sender.send(androids(300), Message(fcm={"data": {"goal": str(i)}}), provider="fcm"))
        return await asyncio.gather(*sends)

    for outcomes in run(body, config, lanes=2):
        assert outcomes.counts()["accepted"] + outcomes.gone.size == 300


def test_cancelling_a_send_stops_it_and_leaves_the_sender_usable(config: Config, simulator: SimulatorProcess) -> None:
    before = simulator.counts()["received"]

    async def body(sender: Sender) -> Any:
        slow = asyncio.create_task(sender.send(iphones(50_000), Message(apns=APNS), pace_per_s=1_000))
        while simulator.counts()["received"] < before + 200:
            await asyncio.sleep(0)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        received = simulator.counts()["received"]
        assert received < before + 25_000
        after = await sender.send(iphones(100), Message(apns=APNS))
        assert simulator.counts()["received"] == received + 100
        return after

    after = run(body, config)
    assert after.counts()["accepted"] + after.gone.size == 100


def test_what_the_window_leaves_no_time_for_has_expired(config: Config) -> None:
    outcomes = run(
        lambda sender: sender.send(
            iphones(5_000), Message(apns=APNS), pace_per_s=500, window_s=0.5, policy=UnknownPolicy.RESEND
        ),
        config,
    )
    assert outcomes.counts()["expired"] > 2_000
    assert outcomes.reasons()["WindowClosed"] == outcomes.counts()["expired"]
    assert sum(outcomes.counts().values()) == 5_000


def test_a_wrong_message_is_told_key_by_key() -> None:
    with pytest.raises(CampaignError, match=r"titel") as caught:
        Message(apns={"topic": "com.example.app", "alert": {"titel": "x"}})
    assert caught.value.remedy
    with pytest.raises(CampaignError, match=r"topic"):
        Message(apns={"alert": {"title": "x"}})
    with pytest.raises(CampaignError, match=r"4,096|4,0"):
        Message(apns={"topic": "t", "alert": {"body": "x" * 4_096}})
    with pytest.raises(CampaignError):
        Message()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tokens": "abc"}, "tokens"),
        ({"tokens": [1, 2]}, "tokens"),
        ({"tokens": None}, "tokens"),
        ({"tokens": [b"\xff"]}, "tokens"),
        ({"message": Message(apns=APNS, fcm=FCM)}, "provider"),
        ({"message": Message(fcm=FCM), "provider": "apns"}, "apns"),
        ({"message": Message(fcm=FCM)}, "not connected to fcm"),
        ({"provider": "apple"}, "apple"),
        ({"message": Message(apns=PERSONAL)}, "name"),
        ({"message": Message(apns=PERSONAL), "columns": {"name": ["a"], "score": ["b"]}}, "1 values for 2 tokens"),
        ({"window_s": 0}, "window_s"),
        ({"pace_per_s": 0}, "pace_per_s"),
        ({"policy": "sometimes"}, "policy"),
    ],
)
def test_arguments_that_do_not_fit_are_told(arguments: dict[str, Any], words: str, config: Config) -> None:
    told = {"tokens": iphones(2), "message": Message(apns=APNS)} | arguments

    async def body(sender: Sender) -> None:
        with pytest.raises(InputError, match=words):
            await sender.send(told.pop("tokens"), told.pop("message"), **told)

    run(body, config, fcm=None)


def test_a_row_whose_fields_make_it_too_long_is_told_by_its_position(config: Config) -> None:
    async def body(sender: Sender) -> None:
        with pytest.raises(CampaignError, match=r"tokens\[1\].*4,096"):
            await sender.send(
                iphones(3), Message(apns=PERSONAL), columns={"name": ["a", "b" * 5_000, "c"], "score": ["1"] * 3}
            )

    run(body, config)


def test_a_sender_needs_a_provider_and_an_async_with() -> None:
    with pytest.raises(InputError, match="apns or fcm"):
        Sender()


def test_sending_before_it_is_entered_and_after_it_is_left_is_told(config: Config) -> None:
    sender = Sender(apns=config.apns)

    async def early() -> None:
        with pytest.raises(InputError, match="async with"):
            await sender.send(iphones(1), Message(apns=APNS))

    async def late() -> None:
        async with sender:
            assert "apns" in repr(sender)
        with pytest.raises(InputError, match="async with"):
            await sender.send(iphones(1), Message(apns=APNS))

    asyncio.run(early())
    asyncio.run(late())


def test_what_is_wrong_with_a_provider_is_told_when_it_is_entered(config: Config, tmp_path: Path) -> None:
    assert config.apns is not None
    gone = config.apns.model_copy(update={"key_file": tmp_path / "gone.p8"})
    with pytest.raises(CredentialError, match="key_file"):
        run(_nothing, config, apns=gone, fcm=None)
    refused = config.apns.model_copy(update={"endpoint": "https://127.0.0.1:1"})
    with pytest.raises(EnvironmentFault, match=r"127\.0\.0\.1:1"):
        run(_nothing, config, apns=refused, fcm=None)


async def _nothing(sender: Sender) -> None:
    pass


def test_two_senders_share_nothing(config: Config) -> None:
    @asynccontextmanager
    async def both() -> AsyncIterator[tuple[Sender, Sender]]:
        async with Sender(apns=config.apns, connections=1) as one, Sender(apns=config.apns, connections=2) as two:
            yield one, two

    async def main() -> None:
        async with both() as (one, two):
            mine, yours = await asyncio.gather(
                one.send(iphones(500), Message(apns=APNS)), two.send(iphones(700), Message(apns=APNS))
            )
            assert (len(mine), len(yours)) == (500, 700)
            assert mine.accepted.sum() + mine.gone.size == 500
            assert yours.accepted.sum() + yours.gone.size == 700

    asyncio.run(main())


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, "examples/sender.py"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tokens to delete" in done.stdout
    assert "'accepted': 9" in done.stdout
