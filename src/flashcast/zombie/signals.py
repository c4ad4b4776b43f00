"""Signals: where values come from, each with its age. Nobody waits for a server here.

Each source asks at most one question at a time, in a thread of its own, and the answer is booked when it comes. Until
then its last value only grows older, until rules call it stale. So a server that accepts and says nothing costs one
thread until the timeout, and neither a decision nor another signal.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlencode

from flashcast.clock import Clock
from flashcast.errors import EnvironmentFault, FlashcastError, InputError
from flashcast.zombie.client.http import HttpRequest, HttpResponse, Transport, TransportError, urllib_transport
from flashcast.zombie.judging import Reading
from flashcast.zombie.measures import AHEAD_S_MAX, Pushed, Sample, Window, checked_push, prometheus_value, pushed_value
from flashcast.zombie.rule_parts import HttpSignal, PrometheusSignal, PushedSignal, ReportsSignal
from flashcast.zombie.rules import Rules
from flashcast.zombie.threads import in_thread

PROBE_BYTES_MAX: Final = 1 << 20
"""A page that says whether all is well has under 10 KB. More is cut off, and a failure."""
ANSWER_BYTES_MAX: Final = 4 << 20
"""A query that gives one number has 200 bytes; one without an aggregation may have 10,000 series of 300."""
TAIL_BYTES_MAX: Final = 64 << 10
"""Of a file of pushed values: some 1,000 lines, of 32 signals at most."""
TOKEN_BYTES_MAX: Final = 8 << 10


class Source(Protocol):
    """A signal's source. ``ask`` may block, in a thread; the rest is for the event loop's thread."""

    name: str
    every_s: float
    """Seconds from one question to the next; infinite where nothing is asked."""

    def ask(self) -> Callable[[], None]:
        """Asks, and returns what books the answer. Raises EnvironmentFault or ValueError where there is none."""
        ...

    def readings(self) -> dict[str, Reading]:
        """The values by the names that rules know, each with its age."""
        ...


class HttpProbe:
    """See `HttpSignal`."""

    def __init__(self, name: str, spec: HttpSignal, clock: Clock, transport: Transport) -> None:
        self.name, self.every_s = name, spec.every_s
        self._spec, self._clock, self._transport = spec, clock, transport
        self._window = Window(spec.window_s)

    def ask(self) -> Callable[[], None]:
        """See `Source`."""
        spec, begun_ns = self._spec, self._clock.monotonic_ns()
        headers = {"Cache-Control": "no-cache", **_authorized(spec.token_file)}
        request = HttpRequest("GET", spec.url, headers, timeout_s=spec.timeout_s, response_bytes_max=PROBE_BYTES_MAX)
        carry = _trusting(spec.ca_file, self._transport)
        try:
            status = carry(request).status
        except (TransportError, OSError):
            # Refused at once or silent for ever: for a user it is the longest wait there is.
            sample = Sample(begun_ns, True, spec.timeout_s * 1e3)
        else:
            fine = status in spec.expect if spec.expect else 200 <= status < 400
            sample = Sample(begun_ns, not fine, (self._clock.monotonic_ns() - begun_ns) / 1e6)
        return lambda: self._window.add(sample)

    def readings(self) -> dict[str, Reading]:
        """See `Source`."""
        age_s, measures = self._window.measures(self._clock.monotonic_ns())
        return {f"{self.name}.{measure}": Reading(value, age_s) for measure, value in measures.items()}


class PrometheusQuery:
    """See `PrometheusSignal`."""

    def __init__(self, name: str, spec: PrometheusSignal, clock: Clock, transport: Transport) -> None:
        self.name, self.every_s = name, spec.every_s
        self._spec, self._clock, self._transport = spec, clock, transport
        self._last: tuple[float, int] | None = None

    def ask(self) -> Callable[[], None]:
        """See `Source`. The value is as old as the question: what is true later was not asked."""
        spec, begun_ns = self._spec, self._clock.monotonic_ns()
        headers = {"Content-Type": "application/x-www-form-urlencoded", **_authorized(spec.token_file)}
        body = urlencode({"query": spec.query, "timeout": f"{spec.timeout_s:g}s"}).encode()
        request = HttpRequest(
            "POST", f"{spec.url.rstrip('/')}/api/v1/query", headers, body, spec.timeout_s, ANSWER_BYTES_MAX
        )
        answer = self._answer(request)
        # 400 and 422 bring a reason as JSON; anything else is told as it is.
        if answer.status not in (200, 400, 422):
            raise ValueError(f"the answer is {answer.status}")
        value = prometheus_value(answer.body, spec.many, spec.empty)
        return lambda: self._book(value, begun_ns)

    def readings(self) -> dict[str, Reading]:
        """See `Source`."""
        if self._last is None:
            return {}
        value, at_ns = self._last
        return {self.name: Reading(value, max(0.0, (self._clock.monotonic_ns() - at_ns) / 1e9))}

    def _answer(self, request: HttpRequest) -> HttpResponse:
        carry = _trusting(self._spec.ca_file, self._transport)
        try:
            return carry(request)
        except OSError as error:
            raise EnvironmentFault(f"no answer: {error.strerror or type(error).__name__}") from None

    def _book(self, value: float, at_ns: int) -> None:
        self._last = (value, at_ns)


class PushedValues:
    """See `PushedSignal`: the last line of a file, or what `push` was called with, whichever is newer."""

    def __init__(self, name: str, spec: PushedSignal, clock: Clock) -> None:
        self.name = name
        self.every_s = spec.every_s if spec.file is not None else math.inf
        self._file = Path(spec.file) if spec.file is not None else None
        self._clock = clock
        self._last: Pushed | None = None

    def ask(self) -> Callable[[], None]:
        """See `Source`."""
        assert self._file is not None, "nobody asks a source without a file"
        try:
            with self._file.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - TAIL_BYTES_MAX))
                lines, written_at = file.read(TAIL_BYTES_MAX), self._file.stat().st_mtime
        except OSError as error:
            raise EnvironmentFault(f"cannot read {self._file}: {error.strerror}") from None
        found = pushed_value(lines, self.name, written_at, self._clock.time())
        return lambda: self.book(found)

    def push(self, value: float, at: float | None = None) -> None:
        """A value that was so ``at`` (Unix seconds; default: now). Raises InputError where it is no number."""
        now = self._clock.time()
        try:
            self.book(checked_push(value, now if at is None else at, now))
        except ValueError as error:
            raise InputError(f"signal {self.name}: {error}") from None

    def book(self, found: Pushed) -> None:
        """Notes a value, unless a newer one is there."""
        if self._last is None or found.at >= self._last.at:
            self._last = found

    def readings(self) -> dict[str, Reading]:
        """See `Source`."""
        if self._last is None:
            return {}
        return {self.name: Reading(self._last.value, max(0.0, self._clock.time() - self._last.at))}


class ReportsAlarm:
    """See `ReportsSignal`."""

    def __init__(self, name: str, spec: ReportsSignal, clock: Clock, transport: Transport) -> None:
        self.name, self.every_s = name, spec.every_s
        self._spec, self._clock, self._transport = spec, clock, transport
        self._last: tuple[float, float] | None = None

    def ask(self) -> Callable[[], None]:
        """See `Source`. The value is as old as the last moment in which every source of complaints was heard."""
        # Arrow and SQLite are loaded where complaints are asked for, and nowhere else.
        from flashcast.zombie.reports import watching

        spec, now = self._spec, self._clock.time()
        if spec.config is not None:
            said = watching.document(watching.watch_file(Path(spec.config), now))
        else:
            said = json.loads(self._answer())
        value, at = watching.value_of(said, spec.feature)
        if at > now + AHEAD_S_MAX:
            raise ValueError(f"it is from {at - now:.0f} s ahead; are the clocks right?")
        if now - at > spec.stale_s:
            raise ValueError(f"no source of complaints has been heard for {now - at:.0f} s")
        return lambda: self._book(value, at)

    def readings(self) -> dict[str, Reading]:
        """See `Source`."""
        if self._last is None:
            return {}
        value, at = self._last
        return {self.name: Reading(value, max(0.0, self._clock.time() - at))}

    def _answer(self) -> bytes:
        spec = self._spec
        headers = {"Cache-Control": "no-cache", **_authorized(spec.token_file)}
        url = f"{(spec.url or '').rstrip('/')}/alarm"
        request = HttpRequest("GET", url, headers, timeout_s=spec.timeout_s, response_bytes_max=ANSWER_BYTES_MAX)
        carry = _trusting(spec.ca_file, self._transport)
        try:
            answer = carry(request)
        except OSError as error:
            raise EnvironmentFault(f"no answer: {error.strerror or type(error).__name__}") from None
        if answer.status != 200:
            raise ValueError(f"the answer is {answer.status}")
        return answer.body

    def _book(self, value: float, at: float) -> None:
        self._last = (value, at)


class Signals:
    """All signals of a rules file. Belongs to one event loop."""

    def __init__(self, sources: Iterable[Source], clock: Clock) -> None:
        self._sources: Final = {source.name: source for source in sources}
        self._clock = clock
        self._due_ns: dict[str, float] = dict.fromkeys(self._sources, -math.inf)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.faults: dict[str, str] = {}
        """Why a source's last question had no answer, by its name. Without secrets."""

    def __repr__(self) -> str:
        return f"<Signals {len(self._sources)} asking={len(self._asking)} faults={len(self.faults)}>"

    @classmethod
    def of(cls, rules: Rules, clock: Clock, transport: Transport = urllib_transport) -> Signals:
        """The signals that a rules file names."""
        found: list[Source] = []
        for name, spec in rules.signals.items():
            if isinstance(spec, HttpSignal):
                found.append(HttpProbe(name, spec, clock, transport))
            elif isinstance(spec, PrometheusSignal):
                found.append(PrometheusQuery(name, spec, clock, transport))
            elif isinstance(spec, ReportsSignal):
                found.append(ReportsAlarm(name, spec, clock, transport))
            else:
                found.append(PushedValues(name, spec, clock))
        return cls(found, clock)

    def push(self, name: str, value: float, at: float | None = None) -> None:
        """Brings a value from the event loop's thread. Raises InputError where no such signal is pushed."""
        source = self._sources.get(name)
        if not isinstance(source, PushedValues):
            known = ", ".join(n for n, one in self._sources.items() if isinstance(one, PushedValues)) or "none"
            raise InputError(f"signal {name}: nobody pushes it; pushed: {known}")
        source.push(value, at)

    def start_due(self) -> None:
        """Asks every source that is due and not still waiting for an answer. Returns at once."""
        now_ns = self._clock.monotonic_ns()
        for name, source in self._sources.items():
            if name in self._asking or math.isinf(source.every_s) or now_ns < self._due_ns[name]:
                continue
            self._due_ns[name] = now_ns + source.every_s * 1e9
            self._asking[name] = asyncio.get_running_loop().create_task(self._ask(source))

    def readings(self) -> dict[str, Reading]:
        """What is known now, by the names that rules know."""
        found: dict[str, Reading] = {}
        for source in self._sources.values():
            found |= source.readings()
        return found

    async def settle(self) -> None:
        """Waits until no question is open."""
        while self._asking:
            await asyncio.wait(list(self._asking.values()))

    async def close(self) -> None:
        """Forgets the questions that are open; their threads end by their timeouts."""
        open_now = list(self._asking.values())
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)

    async def _ask(self, source: Source) -> None:
        try:
            book = await in_thread(source.ask)
            book()
            self.faults.pop(source.name, None)
        except (FlashcastError, ValueError) as error:
            self.faults[source.name] = error.message if isinstance(error, FlashcastError) else str(error)
        finally:
            del self._asking[source.name]


def _trusting(ca_file: str | None, transport: Transport) -> Transport:
    """What carries a question: ``transport``, or one that trusts the authorities in a file, which is read each time.

    That the file cannot be used is a fault of ours, and says nothing of the server: it is no failed probe.
    """
    if ca_file is None:
        return transport
    try:
        tls = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise EnvironmentFault(
            f"ca_file {ca_file} holds no certificate authorities: {error.strerror or error}"
        ) from None
    return partial(urllib_transport, tls=tls)


def _authorized(token_file: str | None) -> dict[str, str]:
    """The header for a token, read anew each time: tokens are rotated."""
    if token_file is None:
        return {}
    try:
        with Path(token_file).open("rb") as file:
            token = file.read(TOKEN_BYTES_MAX + 1).decode("ascii").strip()
    except OSError as error:
        raise EnvironmentFault(f"cannot read {token_file}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not 0 < len(token) <= TOKEN_BYTES_MAX or not token.isprintable():
        raise EnvironmentFault(f"{token_file} holds no token")
    return {"Authorization": f"Bearer {token}"}
