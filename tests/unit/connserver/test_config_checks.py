"""Combinations that cannot work are refused, each with its sentence; those beside them pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from connserver.config import load_cluster
from connserver.errors import ConfigError

THREE = """\
[[nodes]]
name = "n1"
host = "{0}"
gateways = ["{0}:9000"]
[[nodes]]
name = "n2"
host = "{1}"
gossip_port = 9500
[[nodes]]
name = "n3"
host = "{2}"
gossip_port = 9600
"""
OPEN = "cluster.insecure_network = true\nauth.allow_anonymous = true\n"
SHARED = OPEN + "storage.dsn = 'host=db user=cs'\n"


def check(folder: Path, text: str) -> list[str]:
    """The faults of a file, `line: message`; empty if it holds."""
    path = folder / "cluster.toml"
    path.write_text(text)
    try:
        load_cluster(path, environ={"HOME": str(folder)})
    except ConfigError as error:
        return [f"{fault.line}: {fault.message}" for fault in error.faults]
    return []


def nodes(*hosts: str) -> str:
    return THREE.format(*hosts)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[nodes]]\nname='n1'\n[[nodes]]\nname='n2'\n", 3, "have 1 node (no failover) or at least 3"),
        ("".join(f"[[nodes]]\nname='n{n}'\n" for n in range(65)), 129, "65 nodes are more than the 64"),
        ("nodes = []\n", 1, "a cluster needs a node"),
        ("[[nodes]]\nname='a'\n[[nodes]]\nname='b'\n[[nodes]]\nname='a'\n", 6, "two nodes named 'a'"),
        (SHARED + nodes("10.0.0.1", "10.0.0.2", "0.0.0.0"), 14, "no address that other nodes can connect to"),
        ("[[nodes]]\nname='n1'\nhost='300.1.1.1'\n", 3, "is not an IP address or a host name"),
        ("[[nodes]]\nname='n1'\nhost='a b'\n", 3, "is not an IP address or a host name"),
        ("[[nodes]]\nname='n1'\ngossip_port = 65535\n", 3, "is not within 1 and 65534"),
        ("[[nodes]]\nname='n1'\ngateways=['127.0.0.1:1',\n'127.0.0.1:1']\n", 4, "is there twice"),
        (
            "auth.allow_anonymous = true\n[[nodes]]\nname='a'\ngateways=['127.0.0.1:1']\n"
            "[[nodes]]\nname='b'\ngateways=['0.0.0.0:1']\n[[nodes]]\nname='c'\n",
            7,
            "a gateway of node a listens on 127.0.0.1:1 already",
        ),
        (
            OPEN + "[[nodes]]\nname='n1'\nhost='10.0.0.1'\ngossip_port=9000\ngateways=['0.0.0.0:9001']\n",
            6,
            "takes a port of this node's gossip",
        ),
        (
            SHARED + "[[nodes]]\nname='a'\nhost='10.0.0.1'\n[[nodes]]\nname='b'\nhost='10.0.0.1'\n"
            "gossip_port = 9401\n[[nodes]]\nname='c'\nhost='10.0.0.2'\n",
            10,
            "their gossip ports overlap",
        ),
        ("[[nodes]]\nname='n1'\ngateways=['0.0.0.0:9000']\n", 3, "allow_anonymous = true"),
        ("[[nodes]]\nname='n1'\ngateways=['[::]:9000']\n", 3, "allow_anonymous = true"),
        ("[[nodes]]\nname='n1'\ngateways=['game.example.com:9000']\n", 3, "allow_anonymous = true"),
        ("[auth]\nprovider = 'hmac'\n", 2, "CS_AUTH_SECRET_FILE"),
        ("[auth]\nprovider = 'plugin'\n", 2, "needs a [[plugins]] section"),
        ("[auth]\nprovider = 'hmac'\nsecret_file = 'none'\n", 3, "none cannot be read: No such file"),
        ("[auth]\nprovider = 'hmac'\nsecret_file = 'short'\n", 3, "fewer than 32 bytes"),
        ("[auth]\nprovider = 'hmac'\nsecret_file = 'empty'\n", 3, "empty is empty"),
        (
            "[auth]\nprovider = 'jwt'\nsecret_file = 'secret'\njwt_algorithms = ['none']\n",
            4,
            "not one of HS256",
        ),
        (
            "[auth]\nprovider = 'jwt'\nsecret_file = 'secret'\njwt_algorithms = []\n",
            4,
            "without an algorithm",
        ),
        (
            "[auth]\nprovider = 'jwt'\nsecret_file = 'secret'\njwt_algorithms = ['RS256', 'HS256']\n",
            4,
            "cannot be mixed",
        ),
        ("[gateway]\ntls_certificate_file = 'secret'\n", 2, "of no use without tls_key_file"),
        ("[gateway]\ntls_key_file = 'secret'\n", 2, "of no use without tls_certificate_file"),
        ("[gateway]\nallowed_origins = ['play.example.com']\n", 2, "is not an origin"),
        ("[gateway]\npolicy_domains = ['a\" to-ports=\"*']\n", 2, "is not a domain"),
        ("[replication]\nheartbeat_ms = 50\n", 1, "less than 3 heartbeats (150 ms)"),
        ("[limits]\nmessage_bytes = 1024\n", 1, "more is allowed before login than after it"),
        ("[limits]\nburst = 1\nbytes_per_s = 1000\n", 3, "could never come through"),
        ("[limits]\nunsent_bytes = 5000\n", 2, "would disconnect whoever gets it"),
        ("[limits]\nconnections = 100\n", 1, "more than a gateway takes in all"),
        ("[[plugins]]\npath = 'none'\n", 2, "there is no folder"),
        ("[[plugins]]\npath = 'bare'\n", 2, "it has no plugin.toml"),
        ("[[plugins]]\npath = 'secret'\n", 2, "there is no folder"),
        ("[[plugins]]\npath = 'good'\n[[plugins]]\npath = './good'\n", 4, "is attached already"),
        ("[[plugins]]\npath = 'good'\ngroups = [3, 4]\n", 3, "there is no group 4"),
        ("[[plugins]]\npath = 'good'\ngroups = 'some'\n", 3, "is not one of 'all'"),
        ("[[plugins]]\npath = 'good'\ngroups = 1\n", 3, "1 is not one of 'all'"),
        ("[storage]\ndsn = 'host=db password = x'\n", 2, "a password does not belong into this file"),
        ("[storage]\ndsn = 'postgresql://me:x@db/cs'\n", 2, "a password does not belong into this file"),
        (
            "[storage]\ndsn = 'postgresql://db/cs?password=x'\n",
            2,
            "a password does not belong into this file",
        ),
        ("[storage]\ndsn = 'postgresql://db/cs?user=me&password=x'\n", 2, "a password does not belong"),
        ('[storage]\ndsn = "host=db\\nuser=x"\n', 2, "a DSN is one line"),
    ],
)
def test_what_cannot_work_is_refused(folder: Path, text: str, line: int, words: str) -> None:
    found = check(folder, text)
    assert len(found) == 1, found
    assert found[0].startswith(f"{line}: "), found
    assert words in found[0]


@pytest.mark.parametrize(
    "text",
    [
        nodes("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        nodes("::1", "::1", "::1").replace("::1:9000", "[::1]:9000"),
        nodes("localhost", "localhost", "localhost"),
        SHARED + nodes("10.0.0.1", "10.0.0.2", "10.0.0.3"),
        SHARED + nodes("a.example.com", "b.example.com", "c.example.com"),
        "[[nodes]]\nname='n1'\ngateways=['127.0.0.1:1', '127.0.0.2:1', '[::1]:1']\n",
        SHARED + nodes("10.0.0.1", "10.0.0.2", "10.0.0.3").replace("10.0.0.1:9000", "0.0.0.0:9000")
        + "gateways = ['0.0.0.0:9000']\n",
        "auth.allow_anonymous = true\n[[nodes]]\nname='n1'\ngateways=['0.0.0.0:1']\n",
        "[auth]\nprovider = 'hmac'\nsecret_file = 'secret'\n[[nodes]]\nname='n1'\ngateways=['0.0.0.0:1']\n",
        "[auth]\nprovider = 'jwt'\nsecret_file = 'secret'\njwt_algorithms = ['RS256', 'ES256', 'EdDSA']\n",
        "[auth]\nprovider = 'plugin'\n[[plugins]]\npath = 'good'\n",
        "[gateway]\ntls_certificate_file = 'secret'\ntls_key_file = 'secret'\n",
        "[replication]\nheartbeat_ms = 50\nsuspicion_ms = 150\n",
        "[storage]\ndsn = 'host=a,b target_session_attrs=read-write passfile=/etc/pgpass'\n",
        "[storage]\ndsn = 'postgresql://me@db/cs'\n",
        "[[plugins]]\npath = 'good'\ngroups = [0, 3]\n",
        "[[plugins]]\npath = 'good'\ngroups = []\n",
    ],
)  # fmt: skip
def test_what_can_work_passes(folder: Path, text: str) -> None:
    assert check(folder, text) == []


@pytest.mark.parametrize(
    ("hosts", "lines"),
    [
        (("10.0.0.1", "10.0.0.2", "10.0.0.3"), [3, 7, 11]),
        (("127.0.0.1", "127.0.0.2", "127.0.0.1"), [7]),
        (("127.0.0.1", "127.0.0.1", "10.0.0.1"), [11]),
        (("10.0.0.1", "10.0.0.1", "10.0.0.1"), [3, 7, 11]),
    ],
)
def test_a_network_between_nodes_must_be_asked_for(
    folder: Path, hosts: tuple[str, str, str], lines: list[int]
) -> None:
    allowed = "auth.allow_anonymous = true\nstorage.dsn = 'host=db'\n"
    found = check(folder, allowed + nodes(*hosts))
    assert [int(fault.split(":")[0]) - 2 for fault in found] == lines, found
    assert all("insecure_network = true under [cluster]" in fault for fault in found)
    assert check(folder, "cluster.insecure_network = true\n" + allowed + nodes(*hosts)) == []


def test_nodes_on_several_machines_need_one_database(folder: Path) -> None:
    found = check(folder, OPEN + nodes("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    assert len(found) == 1, found
    assert found[0].startswith("9: ")
    assert "the embedded one serves one machine" in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "[auth]\nprovider = 'hmacc'\n[[nodes]]\nname='n1'\ngateways=['0.0.0.0:1']\n",
        "[auth]\nallow_anonymus = true\n[[nodes]]\nname='n1'\ngateways=['0.0.0.0:1']\n",
        "[auth]\nprovider = 'hmac'\nsecret_fil = 'secret'\n",
        "[replication]\nheartbeat_ms = 99999\nsuspicion_ms = 30\n",
        "[cluster]\npartition_groups = 0\n[[plugins]]\npath = 'good'\ngroups = [5]\n",
        "[auht]\nprovider = 'hmac'\n[[nodes]]\nname='n1'\ngateways=['0.0.0.0:1']\n",
        "nodes = 3\n",
    ],
)
def test_one_mistake_is_reported_once(folder: Path, text: str) -> None:
    assert len(check(folder, text)) == 1, check(folder, text)


def test_a_password_is_not_repeated_in_a_fault(folder: Path) -> None:
    assert "hunter2" not in "".join(check(folder, "[storage]\ndsn = 'host=db password=hunter2'\n"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bare").mkdir()
    (tmp_path / "good").mkdir()
    (tmp_path / "good/plugin.toml").touch()
    (tmp_path / "secret").write_text("k" * 32 + "\n")
    (tmp_path / "short").write_text("k" * 31 + "\n")
    (tmp_path / "empty").write_text(" \n")
    return tmp_path
