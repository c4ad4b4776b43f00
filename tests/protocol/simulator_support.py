"""A simulator's connection without sockets, and ways to talk to it: raw frames, or the h2 library."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import hpack
import jwt
import numpy as np

from flashcast.clock import FixedClock
from flashcast.model import Provider
from flashcast.simulator.arrays import new_desk
from flashcast.simulator.auth import GRANT, ApnsGate, FcmGate
from flashcast.simulator.channel import Phase
from flashcast.simulator.connection import PREFACE, Connection
from flashcast.simulator.credentials import CLIENT_EMAIL, KEY_ID, PROJECT_ID, TEAM_ID, Credentials
from flashcast.simulator.front import Front
from flashcast.simulator.ledger import Ledger
from flashcast.simulator.profile import Profile, ProviderProfile
from flashcast.simulator.replies import frame
from flashcast.simulator.rules import ApnsRules, FcmRules

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
TOKEN_URI = "https://127.0.0.1:1/token"
PATH = f"/v1/projects/{PROJECT_ID}/messages:send"
BODY = b'{"aps":{"alert":{"title":"Goal","body":"1:0"}}}'

Headers = list[tuple[str, str]]
Frame = tuple[int, int, int, bytes]


def device(number: int) -> str:
    """An APNs device token."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def registration(number: int) -> str:
    """An FCM registration token."""
    name = str(number).encode()
    return f"{hashlib.md5(name).hexdigest()[:22]}:APA91b{hashlib.sha512(name).hexdigest()}"


def fcm_body(token: str, text: str = "1:0") -> bytes:
    return (f'{{"message":{{"token":"{token}","notification":{{"title":"Goal","body":"{text}"}}}}}}').encode()


def frames(data: bytes) -> list[Frame]:
    """What a run of whole frames consists of: type, flags, stream, payload."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        assert at + 9 + size <= len(data), "half a frame"
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        found.append((data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


def provider_token(
    made: Credentials, issued_s: float, *, key_id: str = KEY_ID, team: str = TEAM_ID, key: str | None = None
) -> str:
    claims = {"iss": team, "iat": int(issued_s)}
    return jwt.encode(claims, key or made.apns_key.read_text(), algorithm="ES256", headers={"kid": key_id})


def assertion(made: Credentials, now_s: float, **changes: object) -> str:
    account = __import__("json").loads(made.service_account.read_text())
    claims = {
        "iss": CLIENT_EMAIL, "aud": TOKEN_URI, "iat": int(now_s), "exp": int(now_s) + 3_600,
        "scope": "https://www.googleapis.com/auth/firebase.messaging", **changes,
    }  # fmt: skip
    headers = {"kid": account["private_key_id"]}
    return jwt.encode(claims, account["private_key"], algorithm="RS256", headers=headers)


@dataclass
class Bench:
    """One simulated provider without sockets."""

    provider: Provider
    made: Credentials
    clock: FixedClock
    ledger: Ledger
    front: Front
    authorization: str

    def headers(self, number: int = 1, **changes: str | None) -> Headers:
        """Good headers for device ``number``; ``changes`` by name, with _ for -, None to leave one out."""
        head = {":method": "POST", ":scheme": "https", ":authority": "simulator"}
        if self.provider is Provider.APNS:
            head |= {":path": f"/3/device/{device(number)}", "authorization": self.authorization}
            head |= {"apns-topic": "com.example.app", "apns-push-type": "alert"}
        else:
            head |= {":path": PATH, "authorization": self.authorization, "content-type": "application/json"}
        for name, value in changes.items():
            key = name.replace("_", "-") if not name.startswith("p_") else f":{name[2:]}"
            head.pop(key, None)
            if value is not None:
                head[key] = value
        pseudo = [(k, v) for k, v in head.items() if k.startswith(":")]
        return pseudo + [(k, v) for k, v in head.items() if not k.startswith(":")]

    def body(self, number: int = 1) -> bytes:
        return BODY if self.provider is Provider.APNS else fcm_body(registration(number))


def bench(
    made: Credentials,
    provider: Provider,
    own: ProviderProfile | None = None,
    *,
    seed: int = 0,
    reply_deadline_s: float = 10.0,
) -> Bench:
    """A provider that behaves as ``own`` says, with a clock that stands still."""
    clock = FixedClock(float(int(time.time())))
    settings: dict[str, object] = {"reply_deadline_s": reply_deadline_s}
    if own is not None:
        settings[provider.value] = own
    profile = Profile.model_validate(settings)
    ledger = Ledger()
    mine = profile.of(provider)
    rules: ApnsRules | FcmRules
    if provider is Provider.APNS:
        gate = ApnsGate(made.apns_public, KEY_ID, TEAM_ID, mine.token_updates_max, mine.token_update_window_s)
        rules = ApnsRules(gate, mine.topics)
        authorization = f"bearer {provider_token(made, clock.time())}"
    else:
        fcm = FcmGate(made.account_public, made.account_key_id, CLIENT_EMAIL, profile.access_token_lifetime_s)
        fcm.token_uri = TOKEN_URI
        rules = FcmRules(fcm, PROJECT_ID)
        grant = fcm.issue(GRANT, assertion(made, clock.time()), clock.time())
        authorization = f"Bearer {grant.document['access_token']}"
    front = Front(provider, profile, rules, ledger, new_desk(), seed, PROJECT_ID, clock)
    front.tick(clock.monotonic_ns())
    return Bench(provider, made, clock, ledger, front, authorization)


class Line:
    """A connection to a bench: bytes in, bytes out."""

    def __init__(self, at: Bench, *, certificate: bool = False) -> None:
        self.bench = at
        self.connection = Connection(at.front, at.clock.monotonic_ns(), certificate=certificate)
        self.out = bytearray()
        self._rest = b""
        self._take()

    def _take(self) -> None:
        data = self.connection.take_output()
        if data is not None:
            self.out += data

    def send(self, data: bytes) -> None:
        """Gives the connection bytes."""
        data = self._rest + data
        while True:
            buffer = np.zeros(len(data) + 8, np.uint8)
            buffer[: len(data)] = np.frombuffer(data, np.uint8)
            taken = self.connection.receive(buffer, len(data), self.bench.clock.monotonic_ns())
            again = self.connection.wants_flush
            self._take()
            data = data[taken:]
            if not again:
                break
        self._rest = data

    def wait(self, seconds: float) -> None:
        """Lets time pass, and the replies that fall due be written."""
        self.bench.clock.advance(seconds)
        now = self.bench.clock.monotonic_ns()
        self.bench.front.tick(now)
        while self.connection.release(now):
            self._take()
        self._take()

    def taken(self) -> bytes:
        """The bytes written since the last call."""
        data = bytes(self.out)
        self.out.clear()
        return data

    @property
    def hung_up(self) -> bool:
        return self.connection.phase is Phase.HANG_UP


class RawClient(Line):
    """Speaks in frames, and decodes what comes with its own HPACK decoder."""

    def __init__(
        self, at: Bench, settings: bytes = b"", *, certificate: bool = False, acknowledge: bool = True
    ) -> None:
        super().__init__(at, certificate=certificate)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.next_id = 1
        self.send(
            PREFACE
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big"))
        )
        if acknowledge:
            self.send(frame(SETTINGS, ACK, 0, b""))
            self.taken()

    def request(self, headers: Headers, body: bytes) -> bytes:
        """One request as HEADERS and DATA."""
        stream, self.next_id = self.next_id, self.next_id + 2
        return frame(HEADERS, END_HEADERS, stream, self.encoder.encode(headers)) + frame(
            DATA, END_STREAM, stream, body
        )

    def ask(self, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
        """Sends a request and reads its reply, which must come at once."""
        stream = self.next_id
        self.send(self.request(headers, body))
        return self.reply(stream, frames(self.taken()))

    def reply(self, stream: int, found: list[Frame]) -> tuple[int, Headers, bytes]:
        """The status, headers and body of a plain reply among frames."""
        headers: Headers = []
        body = b""
        for kind, _, sid, payload in found:
            if sid == stream and kind == HEADERS:
                headers += self.decoder.decode(payload)
            elif sid == stream and kind == DATA:
                body += payload
        return int(dict(headers)[":status"]), headers, body

    def fault(self) -> tuple[str, int]:
        """How the last bytes were punished: ("connection" or "stream" or "none", error code)."""
        for kind, _, _, payload in reversed(frames(self.taken())):
            if kind == GOAWAY:
                return "connection", int.from_bytes(payload[4:8], "big")
            if kind == RST_STREAM:
                return "stream", int.from_bytes(payload, "big")
        return "none", 0


@dataclass
class Answer:
    """What h2 made of one stream."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    informational: int = 0
    trailers: bool = False
    ended: bool = False
    reset: int | None = None


class StrictClient(Line):
    """The h2 library as a client: it raises on anything the RFC forbids a server."""

    def __init__(self, at: Bench, settings: dict[int, int] | None = None) -> None:
        super().__init__(at)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        if settings:
            self.h2.local_settings.update(settings)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 30)
        self.answers: dict[int, Answer] = {}
        self.goaway: tuple[int, bytes] | None = None
        self.pings = 0
        self.limits: list[int] = []
        self.exchange()

    def exchange(self) -> None:
        """Lets both sides say everything they have to say."""
        while True:
            data = self.h2.data_to_send()
            if data:
                self.send(data)
            reply = self.taken()
            if not data and not reply:
                return
            for event in self.h2.receive_data(reply):
                self._note(event)

    def _note(self, event: h2.events.Event) -> None:
        stream = getattr(event, "stream_id", None)
        answer = self.answers.get(stream or 0, Answer())
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = dict(event.headers)
            answer.status = int(answer.headers[":status"])
        elif isinstance(event, h2.events.InformationalResponseReceived):
            answer.informational += 1
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = True
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = (event.last_stream_id, event.additional_data or b"")
        elif isinstance(event, h2.events.PingReceived):
            self.pings += 1
        elif isinstance(event, h2.events.RemoteSettingsChanged):
            changed = event.changed_settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
            if changed is not None:
                self.limits.append(changed.new_value)

    def post(self, headers: Headers, body: bytes) -> int:
        """Starts a request and sends as much of it as the windows allow; its stream id."""
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, headers)
        self.exchange()
        while body:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(body))
            assert room > 0, "the window stays shut"
            self.h2.send_data(stream, body[:room], end_stream=room == len(body))
            body = body[room:]
            self.exchange()
        return stream

    def post_all(self, numbers: Iterable[int]) -> dict[int, Answer]:
        """One good request per device, one after the other; the answers by device."""
        return {n: self.answers[self.post(self.bench.headers(n), self.bench.body(n))] for n in numbers}


def profile_file(folder: Path, text: str) -> Path:
    path = folder / "profile.toml"
    path.write_text(text, encoding="utf-8")
    return path
