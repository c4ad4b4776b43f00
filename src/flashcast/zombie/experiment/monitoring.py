"""Monitoring: asks the service how it is, and answers queries as Prometheus would. A process of its own.

It can be told to fall silent: it then takes connections and requests, and never answers, as a server does whose disk
hangs. The controller's questions go to it as they would to the real one; of PromQL it knows names alone.

    POST /api/v1/query   query=NAME     https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final
from urllib.parse import parse_qs

from flashcast.zombie.client.http import HttpRequest
from flashcast.zombie.experiment.children import begin, stdin_reader
from flashcast.zombie.experiment.wire import Exchange, NoAnswerError, call, listen

SCRAPE_S: Final = 1.0
"""Seconds of the run's clock from one look at the service to the next."""
SCRAPE_TIMEOUT_S: Final = 1.0
SILENT_MAX: Final = 1_024
"""Requests that are left without an answer; the controller gives up on each, so that there are few."""


class Monitoring:
    """The latest value of each metric."""

    def __init__(self, metrics_port: int) -> None:
        self._port = metrics_port
        self._values: dict[str, tuple[float, float]] = {}
        """By name: when it was seen (Unix seconds), and the value."""
        self._unanswered: list[Exchange] = []
        self.speaks = True

    async def scrape(self) -> None:
        """Looks at the service once. What is not seen has no value."""
        try:
            answer = await call(self._port, HttpRequest("GET", "http://service/metrics"), SCRAPE_TIMEOUT_S)
        except NoAnswerError:
            self._values.clear()
            return
        self._values = {name: (time.time(), value) for name, value in metrics_of(answer.body.decode()).items()}

    def handle(self, exchange: Exchange) -> None:
        """Answers a query, or does not."""
        if not self.speaks:
            del self._unanswered[: -SILENT_MAX + 1]
            self._unanswered.append(exchange)
            return
        if exchange.method != "POST" or exchange.path != "/api/v1/query":
            exchange.answer(404)
            return
        (query,) = parse_qs(exchange.body.decode("latin-1")).get("query", [""])[:1]
        found = self._values.get(query)
        series = [] if found is None else [{"metric": {"__name__": query}, "value": [found[0], f"{found[1]:.9g}"]}]
        body = {"status": "success", "data": {"resultType": "vector", "result": series}}
        exchange.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def metrics_of(text: str) -> dict[str, float]:
    """The values of a page in Prometheus's text format; labels and times are not known here."""
    pairs = (line.split() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def _main(config: dict[str, Any]) -> None:
    monitoring = Monitoring(config["metrics_port"])

    async def scrape_for_ever() -> None:
        while True:
            await monitoring.scrape()
            await asyncio.sleep(SCRAPE_S / config["clock_factor"])

    await monitoring.scrape()
    scraping = asyncio.create_task(scrape_for_ever())
    server, port = await listen(monitoring.handle)
    stdin = await stdin_reader()
    begin({"port": port})
    while line := await stdin.readline():
        monitoring.speaks = json.loads(line)["speaks"]
    scraping.cancel()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
