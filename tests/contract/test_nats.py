"""The NATS engine keeps the contract on a real server."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from flashcast.engine.base import Engine
from flashcast.engine.nats import NatsEngine, NatsOptions
from flashcast.testing.engine_contract import EngineContract
from nats_servers import NatsServer

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as running:
        yield running


class TestNatsEngine(EngineContract):
    @pytest.fixture(autouse=True)
    def _on(self, server: NatsServer) -> None:
        self.server = server

    @asynccontextmanager
    async def open(self, clients: int = 1) -> AsyncIterator[Sequence[Engine]]:
        options = NatsOptions(bucket=f"contract-{next(_numbers)}")
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(NatsEngine(self.server.url, options)) for _ in range(clients)]
