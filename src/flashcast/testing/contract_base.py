"""What every part of the engine contract stands on: how a test gets its engines, and how it waits."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import pytest

from flashcast.engine.base import Engine, Entry, KeyValue, Watch

P = ParamSpec("P")
C = TypeVar("C", bound="ContractBase")

HANG_S: Final = 180.0
"""A test that takes so long has hung. None waits for a set time, but an fsync can take seconds on a busy disk."""
SPACES: Final = ("durable", "volatile")
on_both_spaces: Final = pytest.mark.parametrize("space", SPACES)


class ContractBase:
    """How a test gets at the engine under test."""

    def open(self, clients: int = 1) -> AbstractAsyncContextManager[Sequence[Engine]]:
        """So many open engines, as separate as the engine allows, on one state that is empty and nobody else's.

        Leaving closes them; a test may have closed some before.
        """
        raise NotImplementedError

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Runs one test. May be replaced to run it on another event loop."""
        asyncio.run(main)


def contract(test: Callable[Concatenate[C, P], Coroutine[Any, Any, None]]) -> Callable[Concatenate[C, P], None]:
    """Makes a coroutine function a test that needs no plugin."""

    @functools.wraps(test)
    def run(self: C, *args: P.args, **kwargs: P.kwargs) -> None:
        self.run(asyncio.wait_for(test(self, *args, **kwargs), HANG_S))

    return cast("Callable[Concatenate[C, P], None]", run)


def of(engine: Engine, space: str) -> KeyValue:
    """One space of an engine, by name."""
    return engine.durable if space == "durable" else engine.volatile


async def until_caught_up(watch: Watch) -> list[Entry]:
    """What a watch gives before its marker."""
    entries: list[Entry] = []
    async for entry in watch:
        if entry is None:
            return entries
        entries.append(entry)
    raise AssertionError("the watch ended before it had caught up")


async def until_seen(watch: Watch, key: str, value: bytes | None) -> list[Entry]:
    """What a watch gives up to and including the entry of ``key`` with ``value``."""
    entries: list[Entry] = []
    async for entry in watch:
        if entry is not None:
            entries.append(entry)
            if entry.key == key and entry.value == value:
                return entries
    raise AssertionError(f"the watch ended before {key} was {value!r}")


async def told(attempt: Awaitable[object], *kinds: type[Exception]) -> Exception:
    """The error that an attempt raises; AssertionError where it succeeds."""
    try:
        await attempt
    except kinds as error:
        return error
    names = " or ".join(kind.__name__ for kind in kinds)
    raise AssertionError(f"it succeeded, and should have raised {names}")


def latest(entries: Sequence[Entry]) -> dict[str, bytes]:
    """What is present after ``entries``, by key."""
    final = {entry.key: entry.value for entry in entries}
    return {key: value for key, value in final.items() if value is not None}


def assert_in_order(entries: Sequence[Entry]) -> None:
    """Revisions never go back; one may come twice."""
    revisions = [entry.revision for entry in entries]
    assert revisions == sorted(revisions)
    assert all(revision > 0 for revision in revisions)
