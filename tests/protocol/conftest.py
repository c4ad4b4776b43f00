"""Certificates for the servers of these tests, and credentials for the simulator's."""

from __future__ import annotations

import pytest

from certificates import Certificates, make_certificates
from flashcast.simulator.credentials import Credentials, prepare_credentials


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """What the simulator would hand out."""
    return prepare_credentials(tmp_path_factory.mktemp("simulator"))
