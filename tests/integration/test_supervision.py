"""The supervisor and its fork server over processes that do nothing: deaths of all kinds."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.cluster import Cluster, Mark, new_fake_cluster, wait_for

pytestmark = pytest.mark.integration

EVERYTHING = {"forkserver", "storage", "g-n1", "w-n1-0", "w-n1-1", "gw-n1-0"}


@pytest.fixture
def running(fake_cluster: Cluster) -> Iterator[Cluster]:
    fake_cluster.up()
    yield fake_cluster


def comes_again(cluster: Cluster, name: str, old: int) -> int:
    return wait_for(f"a new {name}", lambda: (pid := cluster.named().get(name, old)) != old and pid)


def gone_within(marks: list[Mark], seconds: float) -> float:
    begun = time.monotonic()
    wait_for("the end of all processes", lambda: not any(mark.alive() for mark in marks), seconds)
    return time.monotonic() - begun


def test_up_shows_every_process_and_stops_in_order(running: Cluster) -> None:
    assert {row["name"] for row in running.table} == EVERYTHING | {"supervisor"}
    assert {row["state"] for row in running.table} == {"ready"}
    assert set(running.named()) == EVERYTHING
    assert running.down() == 0
    stops = {
        path.stem: path.stat().st_mtime_ns for path in running.log_dir.glob("*.log") if path.stat().st_size
    }
    assert stops["gw-n1-0"] < stops["w-n1-0"] < stops["g-n1"]


def test_interrupt_stops_as_well(running: Cluster) -> None:
    assert running.down(signal.SIGINT) == 0


def test_down_waits_for_the_end_and_succeeds_when_nothing_runs(running: Cluster) -> None:
    below = running.below()
    assert json.loads(running.cli("down", "--json").stdout) == {"cluster": "test", "stopped": True}
    assert not any(mark.alive() for mark in below)
    assert running.process is not None
    assert running.process.wait(5) == 0
    again = running.cli("down")
    assert (again.returncode, again.stdout) == (0, "test does not run on this host.\n")


def test_a_second_up_is_refused_and_names_the_first(running: Cluster) -> None:
    second = running.cli("up")
    assert second.returncode == 1
    assert running.process is not None
    assert f"(pid {running.process.pid})" in second.stderr
    assert set(running.named()) == EVERYTHING


@pytest.mark.parametrize("name", ["g-n1", "w-n1-1", "gw-n1-0", "storage"])
def test_a_killed_process_comes_again_and_the_others_stay(running: Cluster, name: str) -> None:
    before = running.named()
    os.kill(before[name], signal.SIGKILL)
    comes_again(running, name, before[name])
    after = running.named()
    assert {other for other in EVERYTHING if after[other] != before[other]} == {name}


def test_with_the_fork_server_all_die_and_come_again(running: Cluster) -> None:
    before = running.named()
    marks = [mark for mark in running.below() if mark.pid != before["forkserver"]]
    os.kill(before["forkserver"], signal.SIGKILL)
    gone_within(marks, 2)
    wait_for("all processes", lambda: set(running.named()) == EVERYTHING)
    assert not set(before.values()) & set(running.named().values())


def test_nothing_outlives_a_killed_supervisor(fake_cluster: Cluster) -> None:
    (fake_cluster.folder / "w-n1-0.deaf").touch()
    fake_cluster.up()
    below = fake_cluster.below()
    assert len(below) == len(EVERYTHING)
    assert fake_cluster.process is not None
    fake_cluster.process.kill()
    gone_within(below, 5)


def test_nothing_outlives_supervisor_and_fork_server_killed_together(running: Cluster) -> None:
    below = running.below()
    assert running.process is not None
    os.kill(running.named()["forkserver"], signal.SIGSTOP)
    running.process.kill()
    os.kill(next(m.pid for m in below if psutil.Process(m.pid).name() == "cs:forkserver"), signal.SIGKILL)
    gone_within(below, 5)


def test_five_deaths_leave_a_process_down_and_the_rest_up(fake_cluster: Cluster) -> None:
    (fake_cluster.folder / "w-n1-0.dies").touch()
    fake_cluster.up()
    row = next(row for row in fake_cluster.table if row["name"] == "w-n1-0")
    assert row["state"] == "failed"
    assert "5 deaths in a minute" in row["reason"]
    assert "exit status 3" in row["reason"]
    assert "w-n1-0 was told to die" in row["reason"]
    assert set(fake_cluster.named()) == EVERYTHING - {"w-n1-0"}


def test_who_asks_for_a_new_start_has_it_and_has_not_died(fake_cluster: Cluster) -> None:
    (fake_cluster.folder / "w-n1-0.anew").write_bytes(b"x" * 12)
    row = next(row for row in fake_cluster.up().table if row["name"] == "w-n1-0")
    assert (row["state"], row["restarts"], row["reason"]) == ("ready", 12, "")


def test_a_start_without_storage_is_given_up_with_the_reason(fake_cluster: Cluster) -> None:
    (fake_cluster.folder / "storage.dies").touch()
    done = fake_cluster.cli("up", timeout_s=30)
    assert done.returncode == 1
    assert "storage left down after 5 deaths" in done.stderr
    assert "storage was told to die" in done.stderr


def test_a_second_interrupt_does_not_wait_for_the_deaf(fake_cluster: Cluster) -> None:
    (fake_cluster.folder / "w-n1-0.deaf").touch()
    fake_cluster.up()
    process = fake_cluster.process
    assert process is not None
    below = fake_cluster.below()
    process.send_signal(signal.SIGINT)
    wait_for("the gateway's end", lambda: "gw-n1-0" not in fake_cluster.named())
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 0
    assert not any(mark.alive() for mark in below)


def test_detached_it_goes_on_until_down(fake_cluster: Cluster) -> None:
    done = fake_cluster.cli("up", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["processes"]}
    supervisor = psutil.Process(rows["supervisor"]["pid"])
    marks = [Mark.of(process) for process in [supervisor, *supervisor.children(recursive=True)]]
    try:
        assert fake_cluster.cli("down").returncode == 0
        assert not any(mark.alive() for mark in marks)
    finally:
        if marks[0].alive():
            supervisor.kill()


def test_detached_it_says_why_it_cannot_start(fake_cluster: Cluster) -> None:
    (fake_cluster.folder / "storage.dies").touch()
    done = fake_cluster.cli("up", "--detach")
    assert done.returncode == 1
    assert "storage was told to die" in done.stderr


class TestWithoutForking:
    @pytest.fixture
    def spawning(self) -> Iterator[Cluster]:
        with new_fake_cluster(forking=False) as made:
            yield made.up()

    def test_the_same_processes_run_and_stop(self, spawning: Cluster) -> None:
        assert {row["name"] for row in spawning.table} == EVERYTHING - {"forkserver"} | {"supervisor"}
        assert {row["state"] for row in spawning.table} == {"ready"}
        assert spawning.down() == 0

    def test_a_killed_process_comes_again(self, spawning: Cluster) -> None:
        old = next(row["pid"] for row in spawning.table if row["name"] == "w-n1-0")
        before = {mark.pid for mark in spawning.below()}
        os.kill(old, signal.SIGKILL)
        wait_for("a new one", lambda: len({m.pid for m in spawning.below()} - before) == 1)

    def test_who_asks_for_a_new_start_has_it(self) -> None:
        with new_fake_cluster(forking=False) as made:
            (made.folder / "w-n1-0.anew").write_bytes(b"x" * 6)
            row = next(row for row in made.up().table if row["name"] == "w-n1-0")
            assert (row["state"], row["restarts"]) == ("ready", 6)

    def test_nothing_outlives_a_killed_supervisor(self, spawning: Cluster) -> None:
        below = spawning.below()
        assert spawning.process is not None
        spawning.process.kill()
        gone_within(below, 5)
