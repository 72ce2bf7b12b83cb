"""How a command finds the cluster it is about, and how it asks it.

Guards one rule: a running cluster is asked through a gossip process's socket, never by reading its
files, so what a command shows is what the cluster itself believes.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from connserver.errors import ClusterError

if TYPE_CHECKING:
    from connserver.config import ClusterConfig, Places

ANSWER_S: Final = 6.0
"""A gossip process answers what it had to forward within five seconds."""
CONNECT_S: Final = 1.0


def load(context: click.Context, file: str | None = None) -> ClusterConfig:
    """The configuration of the cluster that is meant; ConfigError with all its faults."""
    from connserver.config import Overrides, load_cluster

    given: dict[str, str | None] = context.find_root().obj
    path = file or given["cluster"] or "cluster.toml"
    if file is None and not Path(path).exists():
        raise ClusterError(
            f"there is no {path} here; say which cluster is meant with "
            "`cs-cluster --cluster path/to/cluster.toml …` or the variable CS_CLUSTER"
        )
    state_dir = given["state_dir"]
    flags = Overrides(node=given["node"], state_dir=Path(state_dir) if state_dir else None)
    return load_cluster(Path(path), flags=flags)


class Admin:
    """A conversation with the running cluster, through whichever local gossip process answers."""

    def __init__(self, config: ClusterConfig, places: Places) -> None:
        from connserver import sockets

        self._config = config
        reachable = [
            endpoint for node in config.host_nodes if listens(endpoint := places.gossip_endpoint(node.name))
        ]
        if not reachable:
            raise ClusterError(
                f"the cluster {config.cluster.name!r} does not run on this host (nothing answers in "
                f"{places.run_dir()}); start it with `cs-cluster up {config.file}`"
            )
        self._context = sockets.context()
        identity = f"cli:{os.urandom(8).hex()}".encode()
        self._sockets = [sockets.dealer(self._context, identity, endpoint) for endpoint in reachable]
        self._number = 0

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *exception: object) -> None:
        for dealer in self._sockets:
            dealer.close()
        self._context.term()

    def ask(self, command: str, **arguments: Any) -> Any:
        """The result of a command; ClusterError with the cluster's own words when it refuses.

        Asked of one gossip process only: a write must not be done twice.
        """
        return self.ask_patiently(ANSWER_S, command, **arguments)

    def ask_patiently(self, patience_s: float, command: str, /, **arguments: Any) -> Any:
        """The same for what takes longer."""
        from connserver.codec import decode, encode
        from connserver.messages import AdminReply, AdminRequest

        self._number += 1
        chosen = self._send(encode(AdminRequest(self._number, command, arguments)))
        until = time.monotonic() + patience_s
        while (left := until - time.monotonic()) > 0:
            if not chosen.poll(int(left * 1000) + 1):
                break
            reply = decode(chosen.recv_multipart()[-1])
            if isinstance(reply, AdminReply) and reply.number == self._number:
                if reply.error:
                    raise ClusterError(reply.error)
                return reply.result
        raise ClusterError(
            f"no answer to `{command}` within {patience_s:g} s; a change may or may not have been made. "
            "Look at `cs-cluster status` and `cs-cluster logs`"
        )

    def _send(self, payload: bytes) -> Any:
        import zmq

        from connserver.sockets import Sent, send

        poller = zmq.Poller()
        for dealer in self._sockets:
            poller.register(dealer, zmq.POLLOUT)
        until = time.monotonic() + CONNECT_S
        while (left := until - time.monotonic()) > 0:
            for dealer, _ in poller.poll(int(left * 1000) + 1):
                if send(dealer, [payload]) is Sent.YES:
                    return dealer
        raise ClusterError(
            "the gossip processes of this host do not take connections; look at `cs-cluster logs`"
        )


def listens(endpoint: str) -> bool:
    """Whether anyone listens on a local endpoint; waits for nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(endpoint.removeprefix("ipc://"))
        except OSError:
            return False
    return True


def admin(context: click.Context) -> Admin:
    """The cluster that is meant, ready to be asked."""
    from connserver.config import Places

    config = load(context)
    return Admin(config, Places(config))
