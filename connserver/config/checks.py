"""Combinations that cannot work, each with the sentence that says what to change.

Guards one rule: `up` starts nothing that is known beforehand to fail or to be open to the world by
mistake. A check is left out where a key that it looks at is at fault already, so that one mistake
is reported once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from itertools import combinations
from pathlib import Path
from typing import Final

from connserver.config.reading import Problem
from connserver.config.schema import (
    JWT_SHARED,
    ClusterConfig,
    NodeConfig,
    is_loopback,
    is_wildcard,
)

NODES: Final = 64
"""Every gossip hears every other one, 50 times a second by default: more is another design."""
SECRET_BYTES: Final = 32
"""The least that a shared secret must hold, the size of its HMAC-SHA-256 (RFC 2104, section 3)."""
SECRET_FILE_BYTES: Final = 65_536
HEARTBEATS_MISSED: Final = 3
LEAST_WORKER_MB: Final = 256
"""Fewer missed heartbeats than this are a busy machine, not a dead one."""

_PASSWORD = re.compile(r"(\A|[\s?&])password\s*=|\A\w+://[^/@\s]*:[^/@\s]*@", re.IGNORECASE)

Check = Callable[[ClusterConfig], Iterator[Problem]]


def check_all(config: ClusterConfig, faulty: Set[str]) -> Iterator[Problem]:
    """Every combination at fault among the keys and sections not named in `faulty`."""
    for needed, check in CHECKS:
        if any(key in faulty or key.split(".")[0] in faulty for key in needed.split()):
            continue
        yield from check(config)


def is_one_machine(nodes: tuple[NodeConfig, ...]) -> bool:
    """Whether all nodes share one loopback address, so that their processes share a file system."""
    return len({node.host for node in nodes}) == 1 and is_loopback(nodes[0].host)


def _node_count(config: ClusterConfig) -> Iterator[Problem]:
    if len(config.nodes) == 2:
        yield Problem(
            ("nodes", 1),
            "two nodes cannot outlive each other: every object has three replicas, and a majority of "
            "them must be left; have 1 node (no failover) or at least 3",
        )
    if len(config.nodes) > NODES:
        yield Problem(("nodes", NODES), f"{len(config.nodes)} nodes are more than the {NODES} that may be")


def _node_names(config: ClusterConfig) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, node in enumerate(config.nodes):
        if first.setdefault(node.name, index) != index:
            yield Problem(
                ("nodes", index, "name"), f"there are two nodes named {node.name!r}; give each its own name"
            )


def _hosts(config: ClusterConfig) -> Iterator[Problem]:
    if is_one_machine(config.nodes) or config.cluster.insecure_network:
        return
    for index, node in enumerate(config.nodes):
        if node.host != config.nodes[0].host or not is_loopback(node.host):
            yield Problem(
                ("nodes", index, "host"),
                f"this node is on {node.host}, and traffic between machines is neither encrypted nor "
                "authenticated; put all nodes on 127.0.0.1, or, where nobody else is in that network, write "
                "insecure_network = true under [cluster]",
            )


def _wildcard_hosts(config: ClusterConfig) -> Iterator[Problem]:
    for index, node in enumerate(config.nodes):
        if is_wildcard(node.host):
            yield Problem(
                ("nodes", index, "host"),
                f"{node.host} is no address that other nodes can connect to; name this machine's own",
            )


def _gateway_endpoints(config: ClusterConfig) -> Iterator[Problem]:
    listening = [
        (node, gateway, ("nodes", index, "gateways", position))
        for index, node in enumerate(config.nodes)
        for position, gateway in enumerate(node.gateways)
    ]
    for (one, first, _), (other, second, where) in combinations(listening, 2):
        same_host = first.host == second.host or is_wildcard(first.host) or is_wildcard(second.host)
        if first.port == second.port and same_host and _same_machine(one, other):
            yield Problem(
                where,
                f"a gateway of node {one.name} listens on {first} already; give this one another port",
            )


def _same_machine(one: NodeConfig, other: NodeConfig) -> bool:
    return one.host == other.host or (is_loopback(one.host) and is_loopback(other.host))


def _gossip_ports(config: ClusterConfig) -> Iterator[Problem]:
    """Over TCP a gossip listens on two ports; on one machine it uses none."""
    if is_one_machine(config.nodes):
        return
    for index, node in enumerate(config.nodes):
        ports = {node.gossip_port, node.gossip_port + 1}
        for other in config.nodes[:index]:
            if other.host == node.host and ports & {other.gossip_port, other.gossip_port + 1}:
                yield Problem(
                    ("nodes", index, "gossip_port"),
                    f"nodes {other.name} and {node.name} share {node.host} and their gossip ports overlap: "
                    "each takes gossip_port and the one above it",
                )
        for gateway in node.gateways:
            if gateway.port in ports and (gateway.host == node.host or is_wildcard(gateway.host)):
                yield Problem(
                    ("nodes", index, "gossip_port"),
                    f"the gateway on {gateway} takes a port of this node's gossip, which listens on "
                    f"{node.gossip_port} and {node.gossip_port + 1}",
                )


def _anonymous(config: ClusterConfig) -> Iterator[Problem]:
    if config.auth.provider != "anonymous" or config.auth.allow_anonymous:
        return
    for index, node in enumerate(config.nodes):
        for position, gateway in enumerate(node.gateways):
            if not gateway.loopback:
                yield Problem(
                    ("nodes", index, "gateways", position),
                    f"{gateway} can be reached from other machines, and everyone may log in without a "
                    "password; choose another provider under [auth], or write allow_anonymous = true there",
                )


def _key(config: ClusterConfig) -> Iterator[Problem]:
    auth = config.auth
    if auth.provider in ("hmac", "jwt") and auth.secret_file is None:
        yield Problem(
            ("auth", "provider"),
            f"provider {auth.provider!r} needs the key by which tokens are checked: write secret_file here, "
            "auth_secret_file under [secrets] in local.toml, or set CS_AUTH_SECRET_FILE",
        )


def _jwt(config: ClusterConfig) -> Iterator[Problem]:
    if config.auth.provider != "jwt":
        return
    shared = [name in JWT_SHARED for name in config.auth.jwt_algorithms]
    if not shared:
        yield Problem(("auth", "jwt_algorithms"), "without an algorithm no token is ever accepted")
    elif any(shared) and not all(shared):
        yield Problem(
            ("auth", "jwt_algorithms"),
            "algorithms with a shared secret (HS…) and with a public key cannot be mixed: whoever has "
            "the public key could sign tokens with it",
        )


def _plugin_provider(config: ClusterConfig) -> Iterator[Problem]:
    if config.auth.provider == "plugin" and not config.plugins:
        yield Problem(
            ("auth", "provider"), "provider 'plugin' needs a [[plugins]] section that has the plugin"
        )
    elif config.auth.provider == "plugin" and all(plugin.groups != "all" for plugin in config.plugins):
        yield Problem(
            ("auth", "provider"),
            "provider 'plugin' is asked in the group of each user: the plugin needs groups = \"all\"",
        )


def _tls(config: ClusterConfig) -> Iterator[Problem]:
    certificate, key = config.gateway.tls_certificate_file, config.gateway.tls_key_file
    if certificate is not None and key is None:
        yield Problem(("gateway", "tls_certificate_file"), "a certificate is of no use without tls_key_file")
    if key is not None and certificate is None:
        yield Problem(("gateway", "tls_key_file"), "a key is of no use without tls_certificate_file")


def _heartbeats(config: ClusterConfig) -> Iterator[Problem]:
    least = HEARTBEATS_MISSED * config.replication.heartbeat_ms
    if config.replication.suspicion_ms < least:
        yield Problem(
            ("replication", "suspicion_ms"),
            f"{config.replication.suspicion_ms} ms is less than {HEARTBEATS_MISSED} heartbeats ({least} ms): "
            "nodes that are merely busy would be given up",
        )


def _login_limit(config: ClusterConfig) -> Iterator[Problem]:
    if config.limits.login_message_bytes > config.limits.message_bytes:
        yield Problem(
            ("limits", "login_message_bytes"), "more is allowed before login than after it (message_bytes)"
        )


def _rate_limit(config: ClusterConfig) -> Iterator[Problem]:
    limits = config.limits
    if limits.bytes_per_s * limits.burst < limits.message_bytes:
        yield Problem(
            ("limits", "bytes_per_s"),
            f"bytes_per_s times burst is {limits.bytes_per_s * limits.burst}, so that a message of "
            f"{limits.message_bytes} (message_bytes) could never come through",
        )


def _unsent_limit(config: ClusterConfig) -> Iterator[Problem]:
    if config.limits.unsent_bytes < config.limits.message_bytes:
        yield Problem(
            ("limits", "unsent_bytes"),
            "one message of message_bytes would disconnect whoever gets it; allow at least that much here",
        )


def _connection_limit(config: ClusterConfig) -> Iterator[Problem]:
    if config.limits.connections_per_address > config.limits.connections:
        yield Problem(("limits", "connections_per_address"), "more than a gateway takes in all (connections)")


def _memory_limit(config: ClusterConfig) -> Iterator[Problem]:
    if 0 < config.limits.worker_memory_mb < LEAST_WORKER_MB:
        yield Problem(
            ("limits", "worker_memory_mb"),
            f"a worker needs {LEAST_WORKER_MB} for itself; 0 means that there is no bound",
        )


def _plugins(config: ClusterConfig) -> Iterator[Problem]:
    seen: set[Path] = set()
    for index, plugin in enumerate(config.plugins):
        where = ("plugins", index, "path")
        if plugin.path in seen:
            yield Problem(where, f"{plugin.path} is attached already; name its groups in one place")
        elif not plugin.path.is_dir():
            yield Problem(where, f"there is no folder {plugin.path}")
        elif not (plugin.path / "plugin.toml").is_file():
            yield Problem(where, f"{plugin.path} is no plugin: it has no plugin.toml")
        seen.add(plugin.path)


def _plugin_groups(config: ClusterConfig) -> Iterator[Problem]:
    groups = config.cluster.partition_groups
    for index, plugin in enumerate(config.plugins):
        for position, group in enumerate(() if plugin.groups == "all" else plugin.groups):
            if not 0 <= group < groups:
                yield Problem(
                    ("plugins", index, "groups", position),
                    f"there is no group {group}: partition_groups = {groups} makes 0 to {groups - 1}",
                )


def _storage(config: ClusterConfig) -> Iterator[Problem]:
    dsn, from_file = config.storage.dsn, config.storage.dsn_file is not None
    if _PASSWORD.search(dsn) and not from_file:
        yield Problem(
            ("storage", "dsn"),
            "a password does not belong into this file; put the whole DSN into a file of its own and name it "
            "as dsn_file under [secrets] in local.toml or in CS_DSN_FILE",
        )
    if "\0" in dsn or "\n" in dsn:
        yield Problem(("storage", "dsn"), "a DSN is one line")


def _shared_storage(config: ClusterConfig) -> Iterator[Problem]:
    if config.storage.dsn:
        return
    for index, node in enumerate(config.nodes):
        if node.host != config.nodes[0].host:
            yield Problem(
                ("nodes", index, "host"),
                f"this node is on {node.host} and others on {config.nodes[0].host}: they need one PostgreSQL "
                "that all of them reach; write its dsn under [storage], the embedded one serves one machine",
            )
            return


CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("nodes", _node_count),
    ("nodes.name", _node_names),
    ("nodes.host cluster.insecure_network", _hosts),
    ("nodes.host", _wildcard_hosts),
    ("nodes.host nodes.gateways", _gateway_endpoints),
    ("nodes.host nodes.gossip_port nodes.gateways", _gossip_ports),
    ("nodes.gateways auth.provider auth.allow_anonymous", _anonymous),
    ("auth.provider auth.secret_file secrets.auth_secret_file", _key),
    ("auth.provider auth.jwt_algorithms", _jwt),
    ("auth.provider plugins plugins.groups", _plugin_provider),
    (
        "gateway.tls_certificate_file gateway.tls_key_file secrets.tls_certificate_file secrets.tls_key_file",
        _tls,
    ),
    ("replication.heartbeat_ms replication.suspicion_ms", _heartbeats),
    ("limits.message_bytes limits.login_message_bytes", _login_limit),
    ("limits.message_bytes limits.bytes_per_s limits.burst", _rate_limit),
    ("limits.message_bytes limits.unsent_bytes", _unsent_limit),
    ("limits.connections limits.connections_per_address", _connection_limit),
    ("limits.worker_memory_mb", _memory_limit),
    ("plugins.path", _plugins),
    ("plugins.groups cluster.partition_groups", _plugin_groups),
    ("storage.dsn storage.dsn_file secrets.dsn_file", _storage),
    ("nodes.host storage.dsn storage.dsn_file secrets.dsn_file", _shared_storage),
)
"""Each check with the keys that it looks at."""
