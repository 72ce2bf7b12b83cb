"""The configuration of a cluster and of this host.

`schema` says what there is, `positions` where it stands in a file, `reading` makes one of the other,
`checks` knows what cannot work, `local` what is this host's alone, `load` puts them together, and
`places` says where files and sockets lie. Rule: a process starts with a configuration that passed
every check, or not at all.
"""

from connserver.config.checks import is_one_machine
from connserver.config.load import load_cluster
from connserver.config.local import Overrides
from connserver.config.places import Places
from connserver.config.schema import (
    AuthConfig,
    ClusterConfig,
    ClusterSection,
    Endpoint,
    GatewayConfig,
    LocalConfig,
    LogConfig,
    NodeConfig,
    PluginConfig,
    ReplicationConfig,
    SecretFiles,
    StorageConfig,
)

__all__ = [
    "AuthConfig",
    "ClusterConfig",
    "ClusterSection",
    "Endpoint",
    "GatewayConfig",
    "LocalConfig",
    "LogConfig",
    "NodeConfig",
    "Overrides",
    "Places",
    "PluginConfig",
    "ReplicationConfig",
    "SecretFiles",
    "StorageConfig",
    "is_one_machine",
    "load_cluster",
]
