"""The NATS engine keeps the contract on a real server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from flashcast.engine.base import Engine
from flashcast.engine.nats import NatsEngine, NatsOptions
from flashcast.testing.engine_contract import EngineContract
from nats_servers import NatsCluster, NatsServer

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


class _OnServers(EngineContract):
    """Each test in buckets of its own."""

    url: str
    replicas = 1

    @asynccontextmanager
    async def open(self, clients: int = 1) -> AsyncIterator[Sequence[Engine]]:
        options = NatsOptions(bucket=f"contract-{next(_numbers)}", replicas=self.replicas)
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(NatsEngine(self.url, options)) for _ in range(clients)]


class TestNatsEngine(_OnServers):
    @pytest.fixture(autouse=True)
    def _on(self, server: NatsServer) -> None:
        self.url = server.url


class TestNatsEngineOnACluster(_OnServers):
    replicas = 3

    @pytest.fixture(autouse=True)
    def _on(self, cluster: NatsCluster) -> None:
        self.url = cluster.url
