"""How many complaints may come without a token: from one address, and from all together. Token buckets. Pure."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from typing import Final

from flashcast.zombie.reports.bounds import CLIENTS_MAX
from flashcast.zombie.reports.config import EndpointOf

SITE_BITS: Final = 64
"""One household or server has a /64 of IPv6 to itself, and may take any address of it."""


class Bucket:
    """Refills by ``per_s`` up to ``burst``."""

    __slots__ = ("at_s", "burst", "left", "per_s")

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self.per_s, self.burst, self.left, self.at_s = per_s, burst, burst, now_s

    def wait_s(self, count: int, now_s: float) -> float:
        """0 where ``count`` may pass, else seconds until it may; infinite where it never may."""
        self.left = min(self.burst, self.left + max(0.0, now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if count > self.burst:
            return math.inf
        return max(0.0, (count - self.left) / self.per_s)


class Limiter:
    """One for an endpoint. For one event loop."""

    def __init__(self, rates: EndpointOf) -> None:
        self._rates = rates
        self._all: Bucket | None = None
        self._clients: OrderedDict[str, Bucket] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Limiter {len(self._clients)} clients>"

    def wait_s(self, address: str | None, count: int, now_s: float) -> float:
        """0 where ``count`` complaints of ``address`` may pass, which takes them; else seconds to wait."""
        rates = self._rates
        if self._all is None:
            self._all = Bucket(rates.all_per_minute / 60, rates.all_burst, now_s)
        name = site(address)
        client = self._clients.pop(name, None) or Bucket(rates.client_per_minute / 60, rates.client_burst, now_s)
        self._clients[name] = client
        if len(self._clients) > CLIENTS_MAX:
            self._clients.popitem(last=False)
        wait = max(client.wait_s(count, now_s), self._all.wait_s(count, now_s))
        if wait == 0:
            client.left -= count
            self._all.left -= count
        return wait


def site(address: str | None) -> str:
    """Whose address it is: IPv4 as a whole, of IPv6 the first 64 bits. What is no address is one and the same."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), SITE_BITS), strict=False))
    return str(found)
