"""Where files and sockets lie: names, modes, lengths, and whose folder it is."""

from __future__ import annotations

import dataclasses
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from connserver.config import ClusterConfig, ClusterSection, LocalConfig, NodeConfig, Places
from connserver.errors import ConfigError


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="p") as name:
        yield Path(name)


def config(state: Path, *hosts: str, name: str = "demo") -> ClusterConfig:
    nodes = tuple(
        NodeConfig(name=f"n{number}", host=host) for number, host in enumerate(hosts or ("127.0.0.1",), 1)
    )
    return ClusterConfig(cluster=ClusterSection(name=name), nodes=nodes, local=LocalConfig(state_dir=state))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_machine_talks_through_sockets_in_a_closed_folder(short: Path) -> None:
    places = Places(config(short / "state", "127.0.0.1", "127.0.0.1", "127.0.0.1"))
    run = short / "state/demo/run"
    assert places.run_dir() == run
    assert mode(run) == 0o700
    assert places.gossip_endpoint("n1") == f"ipc://{run}/g-n1.sock"
    assert places.publish_endpoint("n2") == f"ipc://{run}/p-n2.sock"
    assert places.peer_endpoint("n3") == f"ipc://{run}/r-n3.sock"
    assert places.worker_endpoint("n1", 3) == f"ipc://{run}/w-n1-3.sock"


def test_several_machines_talk_over_tcp_but_a_node_talks_to_itself_by_socket(short: Path) -> None:
    places = Places(config(short, "10.0.0.1", "b.example.com", "fd00::3"))
    assert places.publish_endpoint("n1") == "tcp://10.0.0.1:9400"
    assert places.peer_endpoint("n2") == "tcp://b.example.com:9401"
    assert places.worker_endpoint("n3", 0) == "tcp://[fd00::3]:*"
    assert places.gossip_endpoint("n2").startswith("ipc://")


def test_files_are_their_owners_only(short: Path) -> None:
    before = os.umask(0)
    try:
        places = Places(config(short / "state"))
        folders = [places.log_dir, places.node_dir("n1"), places.run_dir()]
    finally:
        os.umask(before)
    assert [mode(folder) for folder in folders] == [0o700] * 3
    # Root's embedded PostgreSQL is an account of its own, which must come through but not look around.
    assert [mode(folder) for folder in (short / "state", places.cluster_dir, places.storage_dir)] == [
        0o711
    ] * 3
    assert places.lock_file == short / "state/demo/lock"
    assert places.log_file("w-n1-0") == short / "state/demo/log/w-n1-0.log"


def test_clusters_do_not_share_folders(short: Path) -> None:
    one, other = Places(config(short, name="one")), Places(config(short, name="other"))
    assert one.cluster_dir != other.cluster_dir
    assert one.run_dir() != other.run_dir()


def test_a_long_path_has_its_sockets_elsewhere(short: Path) -> None:
    deep = short / ("deep-" * 20)
    places = Places(config(deep), fallback_dir=short)
    assert places.run_dir().parent == short
    assert places.run_dir().name.startswith(f"connserver-{os.geteuid()}-")
    assert places.run_dir() == Places(config(deep), fallback_dir=short).run_dir()
    assert places.run_dir() != Places(config(deep, name="other"), fallback_dir=short).run_dir()
    assert mode(places.run_dir()) == 0o700


@pytest.mark.parametrize("length", range(40, 110, 7))
def test_every_socket_path_is_short_enough(short: Path, length: int) -> None:
    state = short / ("x" * max(1, length - len(str(short)) - 1))
    long_name = "n" + "o" * 31
    made = dataclasses.replace(
        config(state, name="c" * 32),
        nodes=(NodeConfig(name=long_name),),
        cluster=ClusterSection(name="c" * 32, partition_groups=1_024),
    )
    places = Places(made)
    endpoints = [places.worker_endpoint(long_name, 1_023), places.gossip_endpoint(long_name)]
    try:
        assert max(len(endpoint.removeprefix("ipc://")) for endpoint in endpoints) < 100
    finally:
        places.run_dir().rmdir()


def test_a_folder_laid_out_by_someone_else_is_refused(short: Path) -> None:
    deep = short / ("deep-" * 20)
    ours = Places(config(deep), fallback_dir=short).run_dir()
    ours.rmdir()
    (short / "elsewhere").mkdir()
    ours.symlink_to(short / "elsewhere")
    with pytest.raises(ConfigError, match="belongs to another user"):
        Places(config(deep), fallback_dir=short).run_dir()
    if os.geteuid() == 0:
        ours.unlink()
        ours.mkdir()
        os.chown(ours, 65534, 65534)
        with pytest.raises(ConfigError, match="belongs to another user"):
            Places(config(deep), fallback_dir=short).run_dir()


def test_an_open_folder_of_ours_is_closed(short: Path) -> None:
    deep = short / ("deep-" * 20)
    ours = Places(config(deep), fallback_dir=short).run_dir()
    ours.chmod(0o777)
    assert mode(Places(config(deep), fallback_dir=short).run_dir()) == 0o700


def test_a_state_folder_that_cannot_be_made_says_what_to_do(short: Path) -> None:
    (short / "file").touch()
    with pytest.raises(ConfigError, match="choose another with --state-dir"):
        _ = Places(config(short / "file/state")).cluster_dir
