"""The same sender against servers nobody here wrote: nghttp2's nghttpd, node's http2, and Caddy (Go)."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from delivery_support import NO_REPLY, PATIENCE_S, LeapingClock, job_for, lanes_to, run, tokens_of

from certificates import Certificates
from flashcast.deliver.job import Job
from flashcast.model import Provider
from flashcast.transport.tls import Address, client_context

ROWS = 4_000
COUNT_JS = Path(__file__).parent / "servers" / "count.js"
Require = Callable[[str], str]


@pytest.fixture(params=[Provider.APNS, Provider.FCM])
def provider(request: pytest.FixtureRequest) -> Provider:
    return request.param  # type: ignore[no-any-return]


def deliver(provider: Provider, port: int, certificates: Certificates, *, lanes: int = 2) -> Job:
    """Sends ROWS rows over four connections; every one must be settled by a reply."""
    clock = LeapingClock()
    address, context = Address("localhost", port), client_context(certificates.ca_file)
    with lanes_to(address, context, clock, connections=2, lanes=lanes) as crew:
        job = job_for(provider, ROWS, clock, authority=address.authority, lanes=lanes)
        assert run(job, crew) == {"accepted": ROWS}
    assert (job.rows.attempts == 1).all()
    assert (job.rows.reply_ms != NO_REPLY).all()
    return job


@contextmanager
def running(command: Callable[[int], list[str]], folder: Path) -> Iterator[int]:
    """A server that cannot take port 0: one that is free is tried, and another where it was taken meanwhile."""
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=_home(folder)
            )
        try:
            if _listens(process, port):
                yield port
                return
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
    raise AssertionError(f"the server does not start: {(folder / 'server.log').read_text()[-2_000:]}")


def _home(folder: Path) -> dict[str, str]:
    return {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": "/usr/bin:/bin"}


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if process.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            pause.wait(0.02)
        else:
            return True
    return False


NGHTTPD = {
    "as it is": [],
    "with little of everything": ["-m", "7", "-w", "8", "-W", "14", "-c", "64", "--encoder-header-table-size=0"],
    "with padding and trailers": ["-b", "200", "--trailer", "x-checksum: 1"],
}


@pytest.mark.parametrize("options", NGHTTPD.values(), ids=NGHTTPD.keys())
def test_nghttpd_answers_every_request(
    provider: Provider, options: list[str], certificates: Certificates, require_command: Require, tmp_path: Path
) -> None:
    nghttpd = require_command("nghttpd")

    def command(port: int) -> list[str]:
        # --echo-upload answers a POST with its own body; without it there would be a 404 for lack of a file.
        places = [str(port), str(certificates.key_file), str(certificates.certificate_file)]
        return [nghttpd, "--address=127.0.0.1", "--echo-upload", "-d", str(tmp_path), *options, *places]

    with running(command, tmp_path) as port:
        deliver(provider, port, certificates)


@contextmanager
def counting_node(
    node: str, certificates: Certificates, settings: dict[str, int], answer: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """node with count.js; gives its port, and in the end what it counted."""
    counted: dict[str, Any] = {}
    command = [node, str(COUNT_JS), str(certificates.key_file), str(certificates.certificate_file)]
    process = subprocess.Popen(
        [*command, json.dumps(settings), answer], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), counted
        process.terminate()
        counted.update(json.loads(process.communicate(timeout=PATIENCE_S)[0]))
    finally:
        process.kill()
        process.communicate()


NODE = {
    "as it is": {},
    "with little of everything": {"maxConcurrentStreams": 5, "initialWindowSize": 20, "headerTableSize": 100},
}


@pytest.mark.parametrize("settings", NODE.values(), ids=NODE.keys())
def test_node_gets_every_request_once_with_the_right_path_and_body(
    provider: Provider, settings: dict[str, int], certificates: Certificates, require_command: Require
) -> None:
    answer = "" if provider is Provider.APNS else '{"name":"projects/project-7/messages/1"}'
    with counting_node(require_command("node"), certificates, settings, answer) as (port, counted):
        deliver(provider, port, certificates)
    tokens = [token.decode() for token in tokens_of(provider, ROWS)]
    if provider is Provider.APNS:
        wanted = {f'/3/device/{token} {{"aps":{{"alert":"kick-off"}}}}' for token in tokens}
    else:
        body = '{{"message":{{"token":"{}","notification":{{"title":"kick-off"}}}}}}'
        wanted = {f"/v1/projects/project-7/messages:send {body.format(token)}" for token in tokens}
    assert set(counted["requests"]) == wanted
    assert set(counted["requests"].values()) == {1}
    always = [":method: POST", ":scheme: https", f":authority: localhost:{port}", "authorization: bearer first"]
    assert [counted["headers"][header] for header in always] == [ROWS] * 4


CADDYFILE = """
{{
    admin off
    auto_https off
    log {{
        level ERROR
    }}
}}
https://localhost:{port} {{
    bind 127.0.0.1
    tls {certificate} {key}
    header content-type application/json
    respond `{answer}` 200
}}
"""


def test_caddy_answers_every_request(
    provider: Provider, certificates: Certificates, require_command: Require, tmp_path: Path
) -> None:
    """Go allows 250 streams, and answers without reading the body: it resets what it does not want to read."""
    caddy = require_command("caddy")
    answer = "" if provider is Provider.APNS else '{"name":"projects/project-7/messages/1"}'

    def command(port: int) -> list[str]:
        file = tmp_path / "Caddyfile"
        names = {"certificate": certificates.certificate_file, "key": certificates.key_file}
        file.write_text(CADDYFILE.format(port=port, answer=answer, **names))
        return [caddy, "run", "--config", str(file), "--adapter", "caddyfile"]

    with running(command, tmp_path) as port:
        deliver(provider, port, certificates)
