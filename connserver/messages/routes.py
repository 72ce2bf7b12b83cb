"""Where groups are served, and what gateways and supervisors report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from connserver.codec import message


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """Where a group is served. `state`: "ready", "starting" or "unavailable", `reason` why.

    Of two entries for a group the greater (era, view, grant) is the newer.
    """

    group: int
    first_partition: int
    last_partition: int
    era: int
    view: int
    grant: int
    node: str
    endpoint: str
    replicas: list[str]
    state: str
    reason: str


@message(40)
@dataclass(frozen=True, slots=True)
class Routes:
    """The routing table as one gossip process knows it: as an answer and, once a second, all of it; what is
    published in between are the entries that changed."""

    cluster: str
    sender: str
    version: int
    entries: list[RouteEntry]


@message(41)
@dataclass(frozen=True, slots=True)
class GetRoutes:
    """Ask a gossip process's local socket for its Routes (the answer to a slow SUB join)."""

    process: str


@message(42)
@dataclass(frozen=True, slots=True)
class GatewayReport:
    """Once a second from each gateway to its node's gossip process."""

    name: str
    pid: int
    endpoint: str
    clients: int
    messages_per_s: float
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process as its supervisor sees it. `state`: starting, ready, stopped, failed, backoff.

    `last_end`: how the life before this one ended, if it failed, also while the present one is well.
    """

    node: str
    role: str
    name: str
    pid: int
    state: str
    restarts: int
    endpoint: str
    reason: str
    last_end: str = ""


@message(43)
@dataclass(frozen=True, slots=True)
class ProcessTable:
    """From a host's supervisor to the gossip processes of its nodes, on change and once a second."""

    host: str
    processes: list[ProcessRecord]
    storage: dict[str, Any]
