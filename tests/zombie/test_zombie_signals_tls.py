"""Probes and Prometheus behind a private certificate authority, over real TLS."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitoring_server import Monitoring
from watch_data import rules
from zombie_data import NOW

from certificates import Certificates, make_certificates
from flashcast.clock import FixedClock
from flashcast.errors import InputError
from flashcast.zombie.signals import Signals


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Monitoring]:
    with Monitoring(certificates.server_context()) as monitoring:
        monitoring.value = "7"
        yield monitoring


def signals(url: str, ca_file: Path | None) -> Signals:
    """A probe and a query of one server."""
    named = {} if ca_file is None else {"ca_file": str(ca_file)}
    said: dict[str, Any] = {
        "api": {"kind": "http", "url": f"{url}/healthz", "every_s": 1, "window_s": 10, **named},
        "errors": {"kind": "prometheus", "url": url, "query": "sum(up)", "every_s": 1, **named},
    }
    return Signals.of(rules(signals=said, rules={}), FixedClock(NOW))


def asked(found: Signals) -> dict[str, float]:
    """The values after one question each."""

    async def story() -> None:
        found.start_due()
        await found.settle()

    asyncio.run(story())
    return {name: reading.value for name, reading in found.readings().items()}


def test_a_private_authority_is_trusted_where_it_is_named(server: Monitoring, certificates: Certificates) -> None:
    found = signals(server.url, certificates.ca_file)
    values = asked(found)
    assert (values["api.failures"], values["errors"]) == (0.0, 7.0)
    assert found.faults == {}


def test_it_is_trusted_by_nobody_else(server: Monitoring) -> None:
    found = signals(server.url, None)
    assert asked(found)["api.failures"] == 1.0
    assert "CERTIFICATE_VERIFY_FAILED" in found.faults["errors"] or "no answer" in found.faults["errors"]
    assert server.queries == []


def test_another_authority_is_not_trusted(server: Monitoring, tmp_path: Path) -> None:
    found = signals(server.url, make_certificates(tmp_path).ca_file)
    values = asked(found)
    assert (values["api.failures"], "errors" in values) == (1.0, False)
    assert server.queries == []


def test_a_certificate_for_another_name_is_refused(certificates: Certificates) -> None:
    with Monitoring(certificates.server_context()) as server:
        # The certificate is for 127.0.0.1; all of 127/8 is this machine.
        found = signals(server.url.replace("127.0.0.1", "127.0.0.2"), certificates.ca_file)
        assert asked(found)["api.failures"] == 1.0


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_that_cannot_be_used_says_nothing_of_the_server(
    server: Monitoring, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    found = signals(server.url, file)
    # No failed probe: that would raise the level for a slip in our own configuration.
    assert asked(found) == {}
    assert set(found.faults) == {"api", "errors"}
    assert all(f"ca_file {file} holds no certificate authorities" in fault for fault in found.faults.values())


def test_an_authority_that_is_replaced_is_taken_up_without_a_restart(
    server: Monitoring, certificates: Certificates, tmp_path: Path
) -> None:
    file = make_certificates(tmp_path).ca_file
    clock = FixedClock(NOW)
    errors = {"kind": "prometheus", "url": server.url, "query": "up", "every_s": 1, "ca_file": str(file)}
    found = Signals.of(rules(signals={"errors": errors}, rules={}), clock)
    assert asked(found) == {}
    shutil.copy(certificates.ca_file, file)
    clock.advance(1)
    assert asked(found) == {"errors": 7.0}


@pytest.mark.parametrize("kind", ["http", "prometheus"])
def test_an_authority_for_what_is_not_encrypted_is_a_mistake(kind: str) -> None:
    more = {"query": "up"} if kind == "prometheus" else {}
    said = {"errors": {"kind": kind, "url": "http://127.0.0.1:9090", "ca_file": "ca.pem", **more}}
    with pytest.raises(InputError, match=r"signals\.errors: ca_file is for https://"):
        rules(signals=said, rules={})
