"""What a drill kills, where its clients connect, and when it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from connserver.cli.drill import Victim, choose, gateways_of, room_names, unhealthy
from connserver.errors import ClusterError
from connserver.ids import group_of, named_id, partition_of

NODES = ("n1", "n2", "n3")


def process(node: str, role: str, name: str, pid: int, **more: str) -> dict[str, Any]:
    return {"node": node, "role": role, "name": name, "pid": pid, "state": "ready", "endpoint": "", **more}


def status() -> dict[str, Any]:
    """Three nodes on one host; n1 leads groups 0 and 3, n2 group 1, n3 group 2."""
    rows = [process("n1", role, role, 10) for role in ("supervisor", "forkserver", "storage")]
    for number, node in enumerate(NODES, start=1):
        rows.append(process(node, "gossip", f"g-{node}", 100 * number))
        rows += [
            process(node, "worker", f"w-{node}-{group}", 100 * number + 10 + group) for group in range(4)
        ]
        endpoint = f"127.0.0.1:900{number}"
        rows.append(process(node, "gateway", f"gw-{node}-0", 100 * number + 1, endpoint=endpoint))
    members = [{"node": node, "status": "normal", "ready": True} for node in NODES]
    return {
        "nodes": [{"name": node, "state": "alive"} for node in NODES],
        "processes": rows,
        "gateways": [
            {"node": node, "endpoint": f"127.0.0.1:900{n}"} for n, node in enumerate(NODES, start=1)
        ],
        "groups": [
            {"id": group, "primary": NODES[group % 3], "state": "ready", "reason": "", "members": members}
            for group in range(4)
        ],
    }


def names(victim: Victim) -> list[str]:
    return [name for name, _ in victim.processes]


def test_a_worker_is_that_of_the_groups_primary() -> None:
    assert choose(status(), "worker", None) == Victim("n1", (("w-n1-0", 110),), (0,))
    assert choose(status(), "worker", 1) == Victim("n2", (("w-n2-1", 211),), (1,))


def test_a_gossip_process_takes_all_groups_with_it_that_its_node_leads() -> None:
    assert choose(status(), "gossip", 3) == Victim("n1", (("g-n1", 100),), (0, 3))


def test_a_node_is_its_own_processes_and_not_the_hosts() -> None:
    victim = choose(status(), "node", None)
    assert names(victim) == ["g-n1", "w-n1-0", "w-n1-1", "w-n1-2", "w-n1-3", "gw-n1-0"]


def test_a_gateway_is_one_of_the_node_or_of_another_if_it_has_none() -> None:
    assert choose(status(), "gateway", 2) == Victim("n3", (("gw-n3-0", 301),), (2,), "127.0.0.1:9003")
    without = status()
    without["processes"] = [row for row in without["processes"] if row["name"] != "gw-n1-0"]
    assert names(choose(without, "gateway", 0)) == ["gw-n2-0"]


def test_what_is_not_there_is_not_killed() -> None:
    with pytest.raises(ClusterError, match="no partition group 9; there are 0 to 3"):
        choose(status(), "worker", 9)
    without = status()
    without["processes"] = [row for row in without["processes"] if row["role"] != "worker"]
    with pytest.raises(ClusterError, match="no worker to kill on n1"):
        choose(without, "worker", None)


def test_a_healthy_cluster_may_be_drilled() -> None:
    assert unhealthy(status()) == ""


@pytest.mark.parametrize(
    ("part", "number", "key", "value", "words"),
    [
        ("nodes", 1, "state", "dead", "node n2 is dead"),
        ("groups", 2, "state", "starting", "group 2 is starting: "),
        ("processes", 3, "state", "backoff", "g-n1 is in state backoff"),
        ("groups", 0, "members", [{"node": "n3", "status": "recovering", "ready": False}], "group 0 on n3"),
        ("groups", 0, "members", [{"node": "n2", "status": "normal", "ready": False}], "group 0 on n2"),
    ],
)
def test_one_that_is_not_is_left_alone(part: str, number: int, key: str, value: Any, words: str) -> None:
    sick = status()
    sick[part][number][key] = value
    assert words in unhealthy(sick)


def ports(addresses: list[tuple[str, int]]) -> list[int]:
    return [port for _, port in addresses]


def test_senders_are_spread_over_all_gateways_and_witnesses_over_those_that_stay() -> None:
    senders, witnesses = gateways_of(status(), choose(status(), "worker", None))
    assert (ports(senders), ports(witnesses)) == ([9001, 9002, 9003], [9001, 9002, 9003])
    senders, witnesses = gateways_of(status(), choose(status(), "node", None))
    assert (ports(senders), ports(witnesses)) == ([9001, 9002, 9003], [9002, 9003])


def test_senders_begin_at_the_gateway_that_is_killed() -> None:
    senders, witnesses = gateways_of(status(), choose(status(), "gateway", 1))
    assert (ports(senders), ports(witnesses)) == ([9002], [9001, 9003])
    alone = status()
    alone["gateways"] = alone["gateways"][:1]
    with pytest.raises(ClusterError, match="no other gateway"):
        gateways_of(alone, choose(alone, "gateway", 0))
    alone["gateways"] = []
    with pytest.raises(ClusterError, match="no gateway has reported"):
        gateways_of(alone, choose(alone, "worker", 0))


def test_rooms_are_at_home_where_it_will_hurt() -> None:
    found = room_names("abc", 5, (0, 3), 4)
    assert len(set(found)) == 5
    assert [group_of(partition_of(named_id("room", name)), 4) for name in found] == [0, 3, 0, 3, 0]
