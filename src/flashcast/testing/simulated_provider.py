"""APNs and FCM for a simulation: an HTTP/2 server on the h2 library that keeps books and misbehaves by a seed.

It shares no parser with the sender. Whatever breaks the protocol is noted as a fault of the client.

A request is judged when it is complete; the verdict is told after a delay, or never. A verdict is *final* when the
request was, or may have been, processed to an end: accepted, refused for good, taken without an answer, or lost with
the stream or the connection. Answers after which the same request may be repeated without harm are not: 429, APNs' 500
and 503, REFUSED_STREAM, and streams above a GOAWAY's last one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from flashcast.testing.network import Network, ServerEnd

_CODES: Final = h2.settings.SettingCodes
INTERNAL_ERROR: Final = 2
REFUSED_STREAM: Final = 7
_GOAWAY_FRAME: Final = 7


@dataclass
class Mood:
    """How a provider treats requests from now on. Probabilities of each request; what is left over is accepted."""

    think_s: tuple[float, float] = (0.005, 0.05)
    slow: float = 0.0
    """Answered after ``slow_s`` and not after ``think_s``."""
    slow_s: tuple[float, float] = (0.5, 1.5)
    throttle: float = 0.0
    """429."""
    unavailable: float = 0.0
    """503."""
    broken: float = 0.0
    """500."""
    retry_after: float = 0.5
    """Of a 429 or 503: it names seconds to wait."""
    refuse: float = 0.0
    """RST_STREAM with REFUSED_STREAM."""
    reset: float = 0.0
    """RST_STREAM with INTERNAL_ERROR, taken or not."""
    silence: float = 0.0
    """No answer, taken or not."""
    goaway: float = 0.0
    """GOAWAY; of the requests under way some, the latest, are disowned."""
    hang_up: float = 0.0
    """The connection is lost at this request, before or after it was taken."""
    bad_token: float = 0.0
    """Of a token, for good: the device is gone."""
    credential: float = 0.0
    """The credential is called expired."""
    stop: float = 0.0
    """A refusal that stops a launch: BadTopic, SENDER_ID_MISMATCH."""
    streams: int = 20
    streams_first: int = 20
    """What a new connection allows until it has answered one request."""
    window: int = 65_535


@dataclass(frozen=True, slots=True)
class Receipt:
    """One request for a token. Times are nanoseconds of the loop."""

    worker: str
    sent_ns: int
    """When the worker wrote the last byte of its headers."""
    received_ns: int
    verdict: str
    final: bool
    taken: bool


@dataclass(slots=True)
class _Request:
    headers: dict[str, str]
    sent_ns: int
    body: bytearray = field(default_factory=bytearray)


class SimulatedProvider:
    """One provider: listens on the network, and keeps its books by token."""

    def __init__(self, name: str, network: Network, rng: random.Random, mood: Mood) -> None:
        """``name`` is ``apns`` or ``fcm``."""
        self.name = name
        self.network = network
        self.random = rng
        self.mood = mood
        self.receipts: dict[str, list[Receipt]] = {}
        self.malformed: list[str] = []
        """What clients did wrong, in words."""
        self.reachable = True
        self._gone: dict[str, bool] = {}
        self._numbers = 0
        self._peers: list[_Peer] = []

    def __repr__(self) -> str:
        return f"<SimulatedProvider {self.name}: {len(self.receipts)} tokens>"

    def accept(self, end: ServerEnd) -> None:
        """A client has connected."""
        self._numbers += 1
        self._peers.append(_Peer(self, end, self._numbers))

    def go_away(self) -> None:
        """Says GOAWAY on every connection, as before a restart."""
        for peer in list(self._peers):
            peer.go_away()

    def change_settings(self) -> None:
        """Other limits on every connection, in the middle of everything."""
        rng = self.random
        for peer in list(self._peers):
            peer.change_settings(rng.choice((1, 4, 50)), rng.choice((60, 300, 65_535)), rng.choice((0, 100, 4_096)))

    def left(self, peer: _Peer) -> None:
        """A connection ended."""
        if peer in self._peers:
            self._peers.remove(peer)

    def is_gone(self, token: str) -> bool:
        """Whether the token's device is gone: drawn at its first request."""
        if token not in self._gone:
            self._gone[token] = self.random.random() < self.mood.bad_token
        return self._gone[token]

    def book(self, token: str, request: _Request, worker: str, verdict: str, *, final: bool, taken: bool) -> None:
        """Enters a request into the books."""
        now_ns = self.network.loop.now_ns
        self.receipts.setdefault(token, []).append(Receipt(worker, request.sent_ns, now_ns, verdict, final, taken))
        notes = (" taken" if taken else "") + ("" if final else " (again)")
        self.network.trace.note(f"{self.name}: {token[-12:]} from {worker}: {verdict}{notes}")


class _Peer:
    """One connection, seen from the provider."""

    def __init__(self, provider: SimulatedProvider, end: ServerEnd, number: int) -> None:
        self._provider = provider
        self._end = end
        self._number = number
        self._requests: dict[int, _Request] = {}
        self._waiting: set[int] = set()
        """Streams judged and not yet answered."""
        self._last: int | None = None
        """The GOAWAY's last stream, once there was one."""
        self._highest = 0
        """The highest stream opened, and of those judged: what was judged is not disowned later."""
        self._judged = 0
        self._closed = False
        self._left = False
        """Whether the client has said GOAWAY."""
        mood = provider.mood
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding="utf-8",
            normalize_outbound_headers=False,
            validate_outbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={_CODES.MAX_CONCURRENT_STREAMS: mood.streams_first, _CODES.INITIAL_WINDOW_SIZE: mood.window},
        )
        self._streams = mood.streams_first
        self._unacknowledged = 1
        """SETTINGS under way. The h2 library takes an acknowledgement for all of them, so there is one at a time."""
        self._h2.initiate_connection()
        end.on_bytes = self._received
        end.on_closed = self._gone
        self._flush()

    def _gone(self) -> None:
        self._closed = True
        self._provider.left(self)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._closed:
            self._end.write(data)

    # --- requests ------------------------------------------------------------------------------------------

    def _received(self, data: bytes, sent_ns: int) -> None:
        if self._closed:
            return
        try:
            for event in self._h2.receive_data(data):
                self._take(event, sent_ns)
        except h2.exceptions.ProtocolError as error:
            self._malformed(f"{type(error).__name__}: {error}")
            self._end.close()
            self._gone()
            return
        self._flush()

    def _malformed(self, what: str) -> None:
        self._provider.malformed.append(f"{self._provider.name} from {self._end.client}: {what}")

    def _take(self, event: h2.events.Event, sent_ns: int) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._highest = max(self._highest, event.stream_id)
            self._requests[event.stream_id] = _Request(dict(event.headers), sent_ns)
        elif isinstance(event, h2.events.DataReceived):
            request = self._requests.get(event.stream_id)
            if request is not None:
                request.body += event.data
            self._open_windows(event)
        elif isinstance(event, h2.events.StreamEnded):
            request = self._requests.pop(event.stream_id, None)
            if request is not None:
                self._judge(event.stream_id, request)
        elif isinstance(event, h2.events.StreamReset):
            self._requests.pop(event.stream_id, None)
            self._waiting.discard(event.stream_id)
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self._unacknowledged -= 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._left = True  # whatever it still waited for, it does no more
            self._waiting.clear()
            if event.error_code:
                self._malformed(f"GOAWAY with code {event.error_code}")

    def _open_windows(self, event: h2.events.DataReceived) -> None:
        if event.flow_controlled_length:
            self._h2.increment_flow_control_window(event.flow_controlled_length)
            if event.stream_ended is None:
                self._h2.increment_flow_control_window(event.flow_controlled_length, event.stream_id)

    def _judge(self, stream: int, request: _Request) -> None:
        provider = self._provider
        token = self._token(request)
        if token is None:
            self._malformed(f"no token in {request.headers.get(':path')}")
            return
        if self._last is not None and stream > self._last:
            self._book(token, request, "beyond GOAWAY", final=False)
            return
        verdict = provider.random.random()
        judged, self._judged = self._judged, max(self._judged, stream)
        if verdict < provider.mood.goaway:
            self._say_goodbye(stream, token, request, judged)
            return
        verdict -= provider.mood.goaway
        for chance, answer in self._ways(provider.mood):
            verdict -= chance
            if verdict < 0:
                answer(stream, token, request)
                return
        if provider.is_gone(token):
            self._refuse_for_good(stream, token, request)
        else:
            self._book(token, request, "accepted", taken=True)
            self._answer(stream, 200, b"" if provider.name == "apns" else b'{"name":"projects/simulated/messages/1"}')

    def _token(self, request: _Request) -> str | None:
        if self._provider.name == "apns":
            path = request.headers.get(":path", "")
            return path.removeprefix("/3/device/") if path.startswith("/3/device/") else None
        try:
            token = json.loads(bytes(request.body))["message"]["token"]
        except (ValueError, KeyError, TypeError):
            return None
        return token if isinstance(token, str) else None

    def _book(self, token: str, request: _Request, verdict: str, *, final: bool = True, taken: bool = False) -> None:
        self._provider.book(token, request, self._end.client, verdict, final=final, taken=taken)

    # --- ways to answer ------------------------------------------------------------------------------------

    def _ways(self, mood: Mood) -> tuple[tuple[float, Callable[[int, str, _Request], None]], ...]:
        return (
            (mood.throttle, self._throttle),
            (mood.unavailable, self._unavailable),
            (mood.broken, self._broken),
            (mood.refuse, self._refuse),
            (mood.reset, self._reset),
            (mood.silence, self._say_nothing),
            (mood.hang_up, self._hang_up),
            (mood.credential, self._refuse_credential),
            (mood.stop, self._stop),
        )

    def _throttle(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "429", final=False)
        self._answer(stream, 429, self._words("TooManyRequests", "RESOURCE_EXHAUSTED"), **self._retry_after())

    def _unavailable(self, stream: int, token: str, request: _Request) -> None:
        self._overloaded(stream, token, request, 503, self._words("ServiceUnavailable", "UNAVAILABLE"))

    def _broken(self, stream: int, token: str, request: _Request) -> None:
        self._overloaded(stream, token, request, 500, self._words("InternalServerError", "INTERNAL"))

    def _overloaded(self, stream: int, token: str, request: _Request, status: int, body: bytes) -> None:
        # APNs answers 5xx before it takes a notification; FCM may have taken it.
        doubtful = self._provider.name == "fcm"
        taken = doubtful and self._provider.random.random() < 0.5
        self._book(token, request, str(status), final=doubtful, taken=taken)
        self._answer(stream, status, body, **self._retry_after())

    def _retry_after(self) -> dict[str, str]:
        rng = self._provider.random
        return {"retry-after": str(rng.randint(1, 2))} if rng.random() < self._provider.mood.retry_after else {}

    def _refuse(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "REFUSED_STREAM", final=False)
        self._reset_with(stream, REFUSED_STREAM)

    def _reset(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "reset", taken=self._coin())
        self._reset_with(stream, INTERNAL_ERROR)

    def _say_nothing(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "silence", taken=self._coin())

    def _say_goodbye(self, stream: int, token: str, request: _Request, judged: int) -> None:
        """GOAWAY at this request: it is taken or, where no later one was judged, the first that is disowned."""
        disowned = self._last is None and judged < stream and self._coin()
        if disowned:
            self._book(token, request, "disowned", final=False)
            self.go_away(max(judged, stream - 2))
        else:
            self._book(token, request, "accepted", taken=True)
            self._answer(stream, 200)
            self.go_away()

    def _hang_up(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "connection lost", taken=self._coin())
        self._end.abort()
        self._gone()

    def _refuse_for_good(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "gone")
        if self._provider.name == "fcm":
            self._answer(stream, 404, self._words("", "NOT_FOUND", "UNREGISTERED"))
        elif token[-1] in "01234567":
            self._answer(stream, 410, b'{"reason":"Unregistered","timestamp":1700000000000}')
        else:
            self._answer(stream, 400, self._words("BadDeviceToken", ""))

    def _refuse_credential(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "credential expired", final=False)
        status = 403 if self._provider.name == "apns" else 401
        self._answer(stream, status, self._words("ExpiredProviderToken", "UNAUTHENTICATED"))

    def _stop(self, stream: int, token: str, request: _Request) -> None:
        self._book(token, request, "stop")
        status = 400 if self._provider.name == "apns" else 403
        self._answer(stream, status, self._words("BadTopic", "PERMISSION_DENIED", "SENDER_ID_MISMATCH"))

    def _words(self, apns: str, fcm: str, detail: str = "") -> bytes:
        document: dict[str, Any] = {"reason": apns}
        if self._provider.name == "fcm":
            document = {"error": {"status": fcm, "details": [{"errorCode": detail}] if detail else []}}
        return json.dumps(document).encode()

    def _coin(self) -> bool:
        return self._provider.random.random() < 0.5

    # --- answers -------------------------------------------------------------------------------------------

    def _when(self, then: Callable[[], None]) -> None:
        mood, rng = self._provider.mood, self._provider.random
        self._provider.network.after(mood.slow_s if rng.random() < mood.slow else mood.think_s, then)

    def _answer(self, stream: int, status: int, body: bytes = b"", **headers: str) -> None:
        self._waiting.add(stream)
        self._when(lambda: self._send(stream, status, body, headers))

    def _send(self, stream: int, status: int, body: bytes, headers: dict[str, str]) -> None:
        if self._closed or stream not in self._waiting:
            return
        self._waiting.discard(stream)
        try:
            self._h2.send_headers(stream, [(":status", str(status)), *headers.items()], end_stream=not body)
            if body:
                self._h2.send_data(stream, body, end_stream=True)
        except h2.exceptions.ProtocolError as error:  # the client's windows are too small, or it has reset the stream
            self._malformed(f"cannot answer stream {stream}: {type(error).__name__}")
        self._widen()
        self._flush()
        self._end_if_drained()

    def _reset_with(self, stream: int, code: int) -> None:
        self._waiting.add(stream)

        def reset() -> None:
            if not self._closed and stream in self._waiting:
                self._waiting.discard(stream)
                self._h2.reset_stream(stream, code)
                self._flush()
                self._end_if_drained()

        self._when(reset)

    def change_settings(self, streams: int, window: int, table: int) -> None:
        """Announces other limits; they hold from the client's acknowledgement on."""
        if not (self._closed or self._left or self._unacknowledged) and self._last is None:
            self._streams = streams
            changed = {
                _CODES.MAX_CONCURRENT_STREAMS: streams, _CODES.INITIAL_WINDOW_SIZE: window,
                _CODES.HEADER_TABLE_SIZE: table,
            }  # fmt: skip
            self._unacknowledged += 1
            self._h2.update_settings(changed)
            self._flush()

    def _widen(self) -> None:
        """The first answer proves the client: more streams are allowed."""
        wanted = self._provider.mood.streams
        if self._streams < wanted and not self._unacknowledged:
            self._streams = wanted
            self._unacknowledged += 1
            self._h2.update_settings({_CODES.MAX_CONCURRENT_STREAMS: wanted})

    # --- endings -------------------------------------------------------------------------------------------

    def go_away(self, last: int | None = None) -> None:
        """Says GOAWAY with ``last``, or with a stream drawn from the last one judged to the last one opened."""
        if self._closed or self._left or self._last is not None:
            return
        if last is None:
            last = self._highest if self._coin() else max(self._judged, 0)
        self._last = last
        self._provider.network.trace.note(f"{self._provider.name}: connection {self._number} GOAWAY {last}")
        self._flush()
        # The h2 library would refuse to go on talking after a GOAWAY of its own, so it is not asked.
        payload = last.to_bytes(4, "big") + (0).to_bytes(4, "big")
        self._end.write(len(payload).to_bytes(3, "big") + bytes((_GOAWAY_FRAME, 0)) + bytes(4) + payload)
        for stream in [stream for stream in self._requests if stream > last]:
            del self._requests[stream]
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._last is None or self._waiting or self._closed:
            return
        if not any(stream <= self._last for stream in self._requests):
            self._end.close()
            self._gone()
