"""Who may come in and how fast: connections per address, messages and bytes per second.

Guards one rule: what one client may cost is bounded before its bytes are looked at, and a client
that is merely fast is slowed down (its reads pause), never dropped. All pure; times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address
from typing import Final

from connserver.limits import Limits

REFUSED_CONNECTIONS: Final = 256
"""Connections beyond a limit that are still told why before they are closed; more are just closed."""

IPV6_SITE_BITS: Final = 64
"""One subscriber holds at least a /64, so that is what an address limit counts."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a client may send: so much per second, and `burst` seconds' worth at once."""

    messages_per_s: float
    bytes_per_s: float
    burst: float

    @staticmethod
    def of(limits: Limits) -> Rates:
        """The configured rates."""
        return Rates(limits.messages_per_s, limits.bytes_per_s, limits.burst)


class Allowance:
    """One client's two token buckets. Bytes may go into debt, since they are counted once read."""

    __slots__ = ("bytes", "messages", "since")

    def __init__(self, rates: Rates, now: float) -> None:
        self.messages = rates.messages_per_s * rates.burst
        self.bytes = rates.bytes_per_s * rates.burst
        self.since = now

    def refill(self, rates: Rates, now: float) -> None:
        """Add what time has brought, up to the burst."""
        passed = now - self.since
        if passed <= 0:
            return
        self.since = now
        self.messages = min(self.messages + passed * rates.messages_per_s, rates.messages_per_s * rates.burst)
        self.bytes = min(self.bytes + passed * rates.bytes_per_s, rates.bytes_per_s * rates.burst)

    def wait_s(self, rates: Rates) -> float:
        """Seconds until the next message may be taken; 0 if it may be now."""
        wait = -self.bytes / rates.bytes_per_s if self.bytes < 0 else 0.0
        if self.messages < 1:
            wait = max(wait, (1 - self.messages) / rates.messages_per_s)
        return wait


class Entry(Enum):
    """What becomes of a new connection."""

    ADMITTED = "served"
    REFUSED = "told why, then closed"
    DROPPED = "closed at once"


class Doors:
    """Counts the connections of the gateway and of each address."""

    __slots__ = ("_by_address", "_limits", "total")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_address: dict[str, int] = {}
        self.total = 0

    def enter(self, address: str) -> Entry:
        """A connection from this address (see `counted_as`); count it unless it is dropped."""
        here = self._by_address.get(address, 0)
        over = max(self.total - self._limits.connections, here - self._limits.connections_per_address) + 1
        if over > REFUSED_CONNECTIONS:
            return Entry.DROPPED
        self._by_address[address] = here + 1
        self.total += 1
        return Entry.REFUSED if over > 0 else Entry.ADMITTED

    def leave(self, address: str) -> None:
        """A connection that was counted is gone."""
        self.total -= 1
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def check_invariants(self) -> None:
        """The total is the sum of the addresses, none of which is empty."""
        assert self.total == sum(self._by_address.values())
        assert all(count > 0 for count in self._by_address.values())


def counted_as(host: str) -> str:
    """The name under which an address is counted: itself, or the /64 of an IPv6 one."""
    if ":" not in host:
        return host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    site = int(address) >> (128 - IPV6_SITE_BITS)
    return f"{site:016x}/64"
