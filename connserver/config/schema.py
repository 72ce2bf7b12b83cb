"""What cluster.toml may hold: one frozen dataclass per section, its defaults and its bounds.

Guards one rule: a key exists in one place. The reader, the "did you mean", the digest and the test
of the shipped file all derive from these dataclasses, and `[limits]` from `connserver.limits.Limits`.
A key's unit is the last word of its name.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from connserver.limits import KEPT_REPLIES, Limits

MEBIBYTE: Final = 1 << 20
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest number a key accepts."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Form:
    """How a text must look: a test, and the same in words."""

    accepts: Callable[[str], object]
    words: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """The values a text may have, where they are too many for a Literal."""

    values: tuple[str, ...]


_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?\Z"
)


def packed_address(host: str) -> bytes | None:
    """The 4 or 16 bytes of an IP address, None for a host name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    packed = packed_address(host)
    if packed is None:
        return host.rstrip(".").lower() == "localhost"
    if len(packed) == 16 and packed.startswith(bytes(10) + b"\xff\xff"):
        packed = packed[12:]
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\x01"


def is_wildcard(host: str) -> bool:
    """Whether listening there means all addresses of the machine."""
    packed = packed_address(host)
    return packed is not None and not any(packed)


def is_host(host: str) -> bool:
    """Whether this can be a host at all: an address, or a name that is no mistyped address."""
    if packed_address(host) is not None:
        return True
    return _HOST_NAME.match(host) is not None and not re.fullmatch(r"[0-9.]+", host)


NAME: Final = Form(
    re.compile(r"[a-z][a-z0-9-]{0,31}\Z").match,
    "1 to 32 lower-case letters, digits and '-', beginning with a letter",
)
HOST: Final = Form(is_host, "an IP address or a host name")
ORIGIN: Final = Form(
    re.compile(r"(\*|null|[a-z][a-z0-9+.-]{0,31}://[A-Za-z0-9.\[\]:_-]{1,259})\Z").match,
    "an origin such as https://play.example.com, or *",
)
POLICY_DOMAIN: Final = Form(
    re.compile(r"(\*|(\*\.)?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,15})\Z").match,
    "a domain such as www.example.com or *.example.com, or *",
)
JWT_SHARED: Final = ("HS256", "HS384", "HS512")
JWT_SIGNED: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
JWT_ALGORITHM: Final = OneOf((*JWT_SHARED, *JWT_SIGNED))


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A TCP address that a gateway listens on."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `host:port` or `[ipv6]:port`; ValueError with a sentence for anything else."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address goes in brackets, [::1]:9000")
        if not colon or not host:
            raise ValueError(f"{text!r} is no endpoint: write host:port, such as 127.0.0.1:9000")
        if not is_host(host):
            raise ValueError(f"{text!r}: {host!r} is neither an IP address nor a host name")
        if not (port.isascii() and port.isdigit() and len(port) <= 5) or not 1 <= int(port) <= 65_535:
            raise ValueError(f"{text!r}: {port!r} is no port, which is a number from 1 to 65535")
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSection:
    """`[cluster]`: the name, and how the 65,536 partitions are grouped."""

    name: Annotated[str, NAME] = "demo"
    partition_groups: Annotated[int, Range(1, 1_024)] = 4
    insecure_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One `[[nodes]]`: a gossip process, its workers and its gateways."""

    name: Annotated[str, NAME]
    host: Annotated[str, HOST] = "127.0.0.1"
    gossip_port: Annotated[int, Range(1, 65_534)] = 9_400
    gateways: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """`[gateway]`: what all gateways do alike. The two files are effective paths (local.toml wins)."""

    allowed_origins: tuple[Annotated[str, ORIGIN], ...] = ()
    policy_domains: tuple[Annotated[str, POLICY_DOMAIN], ...] = ()
    proxy_protocol: bool = False
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    keepalive_ms: Annotated[int, Range(1_000, HOUR_MS)] = 30_000
    drain_ms: Annotated[int, Range(0, 10 * 60_000)] = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationConfig:
    """`[replication]`: what a commit means, and how soon a silent node is given up."""

    durability: Literal["process", "power"] = "process"
    heartbeat_ms: Annotated[int, Range(5, 10_000)] = 20
    suspicion_ms: Annotated[int, Range(30, 60_000)] = 120
    wal_max_bytes: Annotated[int, Range(16 * MEBIBYTE, 1 << 40)] = 1_024 * MEBIBYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """`[storage]`: where PostgreSQL is. An empty `dsn` is the embedded one; `dsn_file` says where a
    DSN with a password was read from, and `dsn` is then what stood there."""

    dsn: str = field(default="", repr=False)
    dsn_file: Path | None = None
    archive_interval_ms: Annotated[int, Range(10, 60_000)] = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """`[auth]`: who may log in, and for how long a session waits for its client."""

    provider: Literal["anonymous", "hmac", "jwt", "plugin"] = "anonymous"
    allow_anonymous: bool = False
    secret_file: Path | None = None
    resume_window_s: Annotated[int, Range(1, 86_400)] = 120
    jwt_algorithms: tuple[Annotated[str, JWT_ALGORITHM], ...] = ("HS256",)
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_leeway_s: Annotated[int, Range(0, 600)] = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsConfig:
    """`[rooms]`: for how long a room that nobody is in keeps its history and its count of events."""

    idle_s: Annotated[int, Range(1, 31_536_000)] = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig:
    """One `[[plugins]]`: a folder with a plugin.toml, and the partition groups that attach it."""

    path: Path
    groups: Literal["all"] | tuple[int, ...] = "all"
    handler_timeout_ms: Annotated[int, Range(10, 60_000)] = 250

    def in_group(self, group: int) -> bool:
        """Whether the workers of this partition group attach the plugin."""
        return self.groups == "all" or group in self.groups


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """`[log]`: how every process writes its lines."""

    format: Literal["logfmt", "json"] = "logfmt"
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFiles:
    """`[secrets]` of local.toml: where this host keeps what no one else may read."""

    auth_secret_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    dsn_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """What is this host's alone, after local.toml, `CS_…` variables and flags."""

    node: str | None = None
    state_dir: Path = Path("/var/lib/connserver")
    secrets: SecretFiles = SecretFiles()


ONE_NODE: Final = (NodeConfig(name="n1", gateways=(Endpoint("127.0.0.1", 9_000),)),)
"""A file without `[[nodes]]` is one node on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """A whole configuration that passed every check; made by `load_cluster`."""

    file: Path = Path("/etc/connserver/cluster.toml")
    cluster: ClusterSection = ClusterSection()
    nodes: tuple[NodeConfig, ...] = ONE_NODE
    gateway: GatewayConfig = GatewayConfig()
    limits: Limits = field(default_factory=Limits)
    replication: ReplicationConfig = ReplicationConfig()
    storage: StorageConfig = StorageConfig()
    auth: AuthConfig = AuthConfig()
    rooms: RoomsConfig = RoomsConfig()
    plugins: tuple[PluginConfig, ...] = ()
    log: LogConfig = LogConfig()
    local: LocalConfig = LocalConfig()

    def node(self, name: str) -> NodeConfig:
        """The node of that name; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def host_nodes(self) -> tuple[NodeConfig, ...]:
        """The nodes this host runs: the one named by `--node` or local.toml, else all."""
        return self.nodes if self.local.node is None else (self.node(self.local.node),)

    @property
    def digest(self) -> str:
        """32 hex digits over everything that must be equal on all nodes."""
        return _hash(repr(sorted(self.section_digests.items())))

    @property
    def section_digests(self) -> dict[str, str]:
        """A digest per section, by which two nodes can say where their files differ.

        Left out: `[log]` and what is a host's own (the file's folder, local.toml, paths of secret
        files, a DSN read from a file). Plugin paths count relative to the file.
        """
        return {name: _hash(self._canonical(getattr(self, name))) for name in SHARED_SECTIONS}

    def _canonical(self, value: Any) -> str:
        if isinstance(value, tuple):
            return f"[{','.join(map(self._canonical, value))}]"
        if is_dataclass(value):
            keys = [item.name for item in fields(value) if not _is_of_host(value, item.name)]
            return (
                "{" + ",".join(f"{key}={self._canonical(getattr(value, key))}" for key in sorted(keys)) + "}"
            )
        if isinstance(value, Path) and value.is_relative_to(self.file.parent):
            value = value.relative_to(self.file.parent)
        return repr(value.as_posix() if isinstance(value, Path) else value)

    def child_arguments(self) -> list[str]:
        """Arguments by which a process of this cluster comes to the same configuration."""
        pairs = {
            "--config": self.file,
            "--state-dir": self.local.state_dir,
            "--log-level": self.log.level,
            "--log-format": self.log.format,
        }
        return [text for flag, value in pairs.items() for text in (flag, str(value))]


SHARED_SECTIONS: Final = (
    "cluster",
    "nodes",
    "gateway",
    "limits",
    "replication",
    "storage",
    "auth",
    "rooms",
    "plugins",
)
HOST_KEYS: Final = frozenset({"tls_certificate_file", "tls_key_file", "secret_file", "dsn_file"})

LIMIT_RANGES: Final = {
    "message_bytes": Range(256, 16 * MEBIBYTE),
    "login_message_bytes": Range(256, 16 * MEBIBYTE),
    "nesting_levels": Range(1, 64),
    "fields": Range(4, 65_536),
    "login_ms": Range(100, HOUR_MS),
    "message_ms": Range(100, HOUR_MS),
    "messages_per_s": Range(1, 1_000_000),
    "bytes_per_s": Range(256, 1_024 * MEBIBYTE),
    "burst": Range(1, 1_000),
    "unsent_bytes": Range(4_096, 1_024 * MEBIBYTE),
    "connections": Range(1, 1_000_000),
    "connections_per_address": Range(1, 1_000_000),
    "requests_in_flight": Range(1, KEPT_REPLIES),
    "worker_memory_mb": Range(0, 1_048_576),
}
"""Bounds of `[limits]`, which `connserver.limits` keeps free of them."""
OTHER_LIMIT: Final = Range(1, 1 << 31)


def _is_of_host(section: Any, key: str) -> bool:
    return key in HOST_KEYS or (key == "dsn" and section.dsn_file is not None)


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16, person=b"connserver").hexdigest()
