"""The ways to a server: through a proxy, to a wrong place, to one that speaks otherwise, to one not there yet."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from delivery_support import PATIENCE_S, LeapingClock, finish, job_for, lanes_to, run, start
from scripted_server import Proxy, Script, ScriptedServer, plain_server

from certificates import Certificates, make_certificates
from flashcast.deliver.lane import Lane
from flashcast.errors import EnvironmentFault, FlashcastError
from flashcast.model import Provider
from flashcast.transport.tls import Address, client_context

APNS = Provider.APNS


def fault_of(lane: Lane) -> FlashcastError:
    """The fault of a lane that cannot open: waited for, since it comes from another thread."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if lane.fault is not None:
            return lane.fault
        pause.wait(0.005)
    raise AssertionError(f"{lane!r} found no fault")


def test_a_proxy_leads_to_the_server(certificates: Certificates) -> None:
    clock = LeapingClock()
    with ScriptedServer(certificates, Script()) as server, Proxy() as proxy:
        address = Address("localhost", server.port, ("127.0.0.1", proxy.port))
        with lanes_to(address, server.context, clock, connections=2) as crew:
            assert run(job_for(APNS, 100, clock), crew) == {"accepted": 100}
        assert proxy.asked == [f"localhost:{server.port}"] * 2


def test_a_proxy_that_refuses_is_named_with_its_answer(certificates: Certificates) -> None:
    clock = LeapingClock()
    with Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        address = Address("localhost", 443, ("127.0.0.1", proxy.port))
        with lanes_to(address, client_context(certificates.ca_file), clock) as (lane,):
            fault = fault_of(lane)
    assert f"localhost:443 through the proxy 127.0.0.1:{proxy.port}" in fault.message
    assert "407 Proxy Authentication Required" in fault.message


def test_a_wrong_authority_is_told_with_the_setting_to_correct(certificates: Certificates, tmp_path: Path) -> None:
    clock, other = LeapingClock(), make_certificates(tmp_path)
    with (
        ScriptedServer(certificates, Script()) as server,
        lanes_to(server.address, client_context(other.ca_file), clock) as (lane,),
    ):
        fault = fault_of(lane)
    assert isinstance(fault, EnvironmentFault)
    assert not fault.retryable
    assert f"the certificate of 127.0.0.1:{server.port} is not trusted" in fault.message
    assert "ca_file" in fault.remedy


def test_a_port_where_nobody_listens_is_unreachable(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with lanes_to(Address("127.0.0.1", port), client_context(certificates.ca_file), LeapingClock()) as (lane,):
        fault = fault_of(lane)
    assert fault.message == f"cannot reach 127.0.0.1:{port}: Connection refused"
    assert fault.retryable


def test_a_server_without_http2_is_told_apart(certificates: Certificates) -> None:
    for protocols in ((), ("http/1.1",)):
        with (
            ScriptedServer(certificates, Script(), protocols=protocols) as server,
            lanes_to(server.address, server.context, LeapingClock()) as (lane,),
        ):
            fault = fault_of(lane)
        assert "HTTP/2" in fault.message or "alpn" in fault.message.lower()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_without_tls_is_told_apart(certificates: Certificates, answer: bytes) -> None:
    with (
        plain_server(answer) as port,
        lanes_to(Address("127.0.0.1", port), client_context(certificates.ca_file), LeapingClock()) as (lane,),
    ):
        fault = fault_of(lane)
    assert f"127.0.0.1:{port}" in fault.message
    assert isinstance(fault, EnvironmentFault)


def test_rows_wait_for_a_server_that_comes_back(certificates: Certificates) -> None:
    """The launch begins while the port is closed; the connection is tried again until it opens."""
    clock = LeapingClock()
    server = ScriptedServer(certificates, Script())
    with lanes_to(server.address, server.context, clock) as crew:
        job = job_for(APNS, 20, clock)
        start(job, crew)
        with server:
            assert finish(job, crew) == {"accepted": 20}
