"""The reference client: what an app needs to know, and to keep, while its back end recovers.

- core, writes: the rules, without IO
- session, store: the rules with a file and locks
- sync, aio, shell: carrying requests and waiting, for threads and for asyncio; what these two share
- options: what a client is told, and what it tells
- http: requests and replies, and the plain transport
"""

from __future__ import annotations

from flashcast.zombie.client.aio import AsyncZombieClient
from flashcast.zombie.client.core import Action, Decision, News, Polled, Standing, Why
from flashcast.zombie.client.http import HttpRequest, HttpResponse, TransportError
from flashcast.zombie.client.options import Options, QueueFullError, Result, Statistics, Written
from flashcast.zombie.client.sync import ZombieClient
from flashcast.zombie.client.writes import Fate, Write

__all__ = [
    "Action",
    "AsyncZombieClient",
    "Decision",
    "Fate",
    "HttpRequest",
    "HttpResponse",
    "News",
    "Options",
    "Polled",
    "QueueFullError",
    "Result",
    "Standing",
    "Statistics",
    "TransportError",
    "Why",
    "Write",
    "Written",
    "ZombieClient",
]
