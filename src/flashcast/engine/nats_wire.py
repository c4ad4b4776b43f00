"""One connection to NATS, from dialling to its loss: a nats-py client that does not reconnect (see nats_link.py).

Replies are matched here, one inbox for all: a loss can then be told at once to every call that waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoServersError, UnexpectedEOF

from flashcast.engine.base import EngineUnavailable
from flashcast.engine.nats_options import NatsOptions, Server
from flashcast.errors import CredentialError, EnvironmentFault, FlashcastError

PING_S: Final = 0.5
PINGS_LOST_MAX: Final = 3
"""A connection that answers nothing for 0.5 * (3 + 1) = 2 s is given up."""
DROP_S_MAX: Final = 0.1
"""What a lost client gets to end its tasks; it waits for ever for a TLS connection that never came about."""
DENIALS_MAX: Final = 16
"""Refusals to keep: of the latest subjects that this user may not use."""
UNSENT_BYTES_MAX: Final = 64 << 20
"""Where nats-py waits while publishing. It swallows a cancellation there, so this is more than pipelining comes to:
500 claims of 200 bytes, or 64 launch records of their largest size."""

# Whatever nats-py says, the caller is told by exception; without a handler it would print to stderr.
logging.getLogger("nats").addHandler(logging.NullHandler())


class Wire:
    """One connection, from dialling to its loss. `lost` is set when it is gone."""

    def __init__(self, server: Server, options: NatsOptions, context: ssl.SSLContext | None) -> None:
        self.server = server
        self.lost = asyncio.Event()
        self.alarms: set[asyncio.Event] = set()
        """Set when it is lost, for those who wait for other things too."""
        self.client = Client()
        self._options = options
        self._context = context
        self._demands_tls = server.tls or options.demands_tls
        self._dialled = False
        self._heard: list[Exception] = []
        self._waiting: dict[str, tuple[str, asyncio.Future[Msg]]] = {}
        self._requests = 0
        self._inbox = ""
        self._denied: deque[str] = deque(maxlen=DENIALS_MAX)

    def __repr__(self) -> str:
        return f"<Wire {self.server.address} waiting={len(self._waiting)}{' lost' if self.lost.is_set() else ''}>"

    @property
    def alive(self) -> bool:
        return not self.lost.is_set() and self.client.is_connected

    async def dial(self) -> None:
        """Connects and authenticates. Raises CredentialError or EnvironmentFault, with what to do."""
        # Each time: the file may have been renewed.
        self._options.check_secrets()
        try:
            # A server that accepts and says nothing is waited for once, however many steps nats-py times by itself.
            async with asyncio.timeout(self._options.timeout_s):
                await self._connect()
                self._inbox, _ = await self.subscribe(self._on_reply)
        except BaseException as error:
            await self.drop()
            # Whatever a library may raise: who dials again and again must outlive it.
            if isinstance(error, FlashcastError) or not isinstance(error, Exception):
                raise
            raise _explained(self.server, self._options, self._cause(error)) from None
        self._dialled = True

    async def _connect(self) -> None:
        options, server = self._options, self.server
        user, password = options.user, options.password
        if user is None:
            user, password = server.user, server.password
        await self.client.connect(
            server.address,
            name="flashcast",
            error_cb=self._on_error,
            disconnected_cb=self._on_lost,
            closed_cb=self._on_lost,
            allow_reconnect=False,
            # It makes two tries then; 0 would be without end.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=options.timeout_s,  # type: ignore[arg-type]
            ping_interval=PING_S,  # type: ignore[arg-type]
            max_outstanding_pings=PINGS_LOST_MAX,
            pending_size=UNSENT_BYTES_MAX,
            flush_timeout=options.timeout_s,
            tls=self._context,
            tls_hostname=server.tls_name,
            user=None if user is None else self._guarded(user),
            password=None if password is None else self._guarded(password),
            token=None if server.token is None else self._guarded(server.token),
            user_credentials=options.credentials_file,
            nkeys_seed=None if options.nkey_file is None else str(options.nkey_file),
        )
        if not self.client.is_connected:
            raise ConnectionResetError("it closed the connection")
        self._check_tls()

    def _guarded(self, secret: str) -> Callable[[], str]:
        """Gives the secret when nats-py writes its first words, by when TLS is up or never will be."""

        def give() -> str:
            self._check_tls()
            return secret

        return give

    def _check_tls(self) -> None:
        # nats-py encrypts where the server asks for it, whatever the address says.
        if self._demands_tls and not self.info.get("tls_required"):
            raise EnvironmentFault(
                f"{self.server.address} does not ask for TLS, and this address or its certificates demand it",
                remedy="Configure `tls` in the server, or write nats:// and leave the certificate settings out.",
            )

    @property
    def version(self) -> tuple[int, ...]:
        """The server's, (2, 10, 4) for 2.10.4-beta.1."""
        words = re.match(r"(\d+)\.(\d+)\.(\d+)", str(self.info.get("version", "")))
        return tuple(int(word) for word in words.groups()) if words else (0, 0, 0)

    @property
    def info(self) -> Mapping[str, object]:
        """What the server says of itself: version, max_payload, jetstream."""
        found: Mapping[str, object] = self.client._server_info
        return found

    async def request(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Msg:
        """One reply. Raises EngineUnavailable at once when the connection is lost, and after the timeout."""
        if self._denied:
            self.check_allowed(subject)
        loop = asyncio.get_running_loop()
        self._requests += 1
        number = str(self._requests)
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[number] = (subject, future)
        timer = loop.call_later(self._options.timeout_s, self._expire, number)
        try:
            await self.client.publish(subject, payload, reply=f"{self._inbox}.{number}", headers=headers)
            return await future
        except (NatsError, OSError) as error:
            raise EngineUnavailable(f"NATS at {self.server.address}: {_text(error)}") from None
        finally:
            timer.cancel()
            self._waiting.pop(number, None)

    async def tell(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        """Publishes without waiting for anything. A lost connection is no error: nobody would hear of it."""
        try:
            await self.client.publish(subject, payload, reply=reply)
        except (NatsError, OSError):
            pass

    async def subscribe(self, callback: Callable[[Msg], Awaitable[None]]) -> tuple[str, Subscription]:
        """A new inbox: what comes below it goes to ``callback``. Raises EngineUnavailable."""
        inbox = self.client.new_inbox()
        try:
            # Without bounds: who asks for messages says how many (nats_watch.py), and a dropped one would be missed.
            subscription = await self.client.subscribe(
                f"{inbox}.>", cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except (NatsError, OSError) as error:
            raise EngineUnavailable(f"NATS at {self.server.address}: {_text(error)}") from None
        return inbox, subscription

    def fail(self) -> None:
        """The connection is gone: whoever waits is told."""
        if self.lost.is_set():
            return
        self.lost.set()
        for alarm in self.alarms:
            alarm.set()
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(
                    EngineUnavailable(f"the connection to NATS at {self.server.address} was lost before an answer")
                )

    async def drop(self) -> None:
        """Lets go of the socket and of nats-py's tasks, whatever state they are in."""
        self.fail()
        client = self.client
        tasks = [client._reading_task, client._ping_interval_task, client._flusher_task]
        tasks += [subscription._wait_for_msgs_task for subscription in client._subs.values()]
        # nats-py closes when all is sent, which in a partition never comes.
        writer = getattr(client._transport, "_bare_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        with suppress(Exception):
            async with asyncio.timeout(DROP_S_MAX):
                await client.close()
        await _ended([task for task in tasks if task is not None])

    # --- what nats-py calls --------------------------------------------------------------------------------

    async def _on_reply(self, message: Msg) -> None:
        _, future = self._waiting.get(message.subject.rpartition(".")[2], ("", None))
        if future is not None and not future.done():
            future.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        self._heard.append(error)
        del self._heard[:-4]
        if isinstance(error, (UnexpectedEOF, OSError)):
            # While dialling it is one try of two that has failed.
            if self._dialled:
                self.fail()
        elif "permissions violation" in str(error):
            self._on_denied(str(error))

    def check_allowed(self, subject: str) -> None:
        """Raises CredentialError where the server has said that we may not publish there, or not hear the answer."""
        # nats-py puts what the server says in small letters.
        for text in self._denied:
            if "subscription" in text or f'"{subject.lower()}"' in text:
                raise CredentialError(
                    f"{self.server.address}: {text.removeprefix('nats: ')}",
                    remedy="Allow this user to publish to $JS.API.> and $KV.>, and to subscribe to _INBOX.>.",
                )

    def _on_denied(self, text: str) -> None:
        """The server does not answer a request that it forbids: it says so on the side."""
        self._denied.append(text)
        for subject, future in self._waiting.values():
            try:
                self.check_allowed(subject)
            except CredentialError as error:
                if not future.done():
                    future.set_exception(error)

    async def _on_lost(self) -> None:
        self.fail()

    def _expire(self, number: str) -> None:
        future = self._waiting[number][1]
        if not future.done():
            future.set_exception(
                EngineUnavailable(
                    f"NATS at {self.server.address} did not answer within {self._options.timeout_s:g} s",
                    remedy="Look at the server's log and the network; in a cluster, whether most servers are up.",
                )
            )

    def _cause(self, error: Exception) -> Exception:
        """What nats-py met before it said that it has no servers."""
        if not isinstance(error, NoServersError):
            return error
        return next((heard for heard in reversed(self._heard) if not isinstance(heard, NoServersError)), error)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Ends nats-py's tasks where it has not, and looks at what they raised, which asyncio would print otherwise."""
    for task in tasks:
        task.cancel()
    if tasks:
        done, _ = await asyncio.wait(tasks, timeout=DROP_S_MAX)
        for task in done:
            if not task.cancelled():
                task.exception()


def _explained(server: Server, options: NatsOptions, error: Exception) -> FlashcastError:
    """What went wrong while dialling, in our words."""
    where, text = server.address, _text(error)
    if any(word in text.lower() for word in ("authorization", "authentication", "user credentials")):
        how = _identity(server, options)
        return CredentialError(f"{where} refused {how}", remedy="See that the server knows them and they are current.")
    if isinstance(error, ssl.SSLCertVerificationError):
        return EnvironmentFault(
            f"{where}: its certificate cannot be trusted: {error.verify_message}",
            remedy="Set FLASHCAST_NATS_CA_FILE to the PEM file of the authority that signed it, or call the server by "
            "a name that is in it.",
        )
    if isinstance(error, ssl.SSLError) or (options.demands_tls and isinstance(error, ConnectionError)):
        return EnvironmentFault(
            f"{where}: TLS failed: {text}",
            remedy="Where the server asks for a client certificate, set FLASHCAST_NATS_CERTIFICATE_FILE.",
        )
    if isinstance(error, TimeoutError):
        return EnvironmentFault(
            f"{where} did not answer within {options.timeout_s:g} s",
            remedy="See that the address is a NATS server's and that no firewall swallows packets to it.",
        )
    return EnvironmentFault(
        f"no NATS server at {where}: {text}",
        remedy="Start one (nats-server --jetstream), or correct --engine.",
    )


def _identity(server: Server, options: NatsOptions) -> str:
    """Who we claimed to be, without the secret."""
    if options.credentials_file is not None:
        return f"the credentials in {options.credentials_file}"
    if options.nkey_file is not None:
        return f"the nkey in {options.nkey_file}"
    user = options.user if options.user is not None else server.user
    if user is not None:
        return f"user {user!r} and the password given"
    if server.token is not None:
        return "the token in the address"
    return "a client without credentials (FLASHCAST_NATS_USER, _CREDENTIALS or _NKEY)"


def _text(error: Exception) -> str:
    """An exception's words without nats-py's prefix."""
    text = str(error)
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        # asyncio writes words of its own over the system's; those of looking up a name are below zero.
        text = os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return text.removeprefix("nats: ").strip() or type(error).__name__
