"""The process tree as stories: what happens to processes, and what is done about it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connserver.supervisor.events import (
    AllStopped,
    BecameReady,
    Begun,
    Changed,
    Died,
    Effect,
    Event,
    Forked,
    Note,
    Replanned,
    RestartAsked,
    Signal,
    Spawn,
    StopAsked,
    Ticked,
    Waits,
)
from connserver.supervisor.plan import FORK_SERVER, STORAGE, ProcessSpec
from connserver.supervisor.tree import (
    DEATH_WINDOW_S,
    DEATHS_LIMIT,
    FIRST_BACKOFF_S,
    RENEWALS_LIMIT,
    STOP_GRACE_S,
    ProcessTree,
)


def spec(name: str, role: str, after: tuple[str, ...] = (), settling: str = "") -> ProcessSpec:
    return ProcessSpec(name=name, role=role, node="n1", after=after, settling=settling)


SPECS = (
    spec(FORK_SERVER, FORK_SERVER),
    spec(STORAGE, STORAGE),
    spec("g", "gossip"),
    spec("w0", "worker", (STORAGE, "g")),
    spec("w1", "worker", (STORAGE, "g")),
    spec("gw", "gateway", ("g",), settling="worker"),
)


class Host:
    """A tree with a clock, and pids that are handed out in order."""

    def __init__(self, specs: tuple[ProcessSpec, ...] = SPECS) -> None:
        self.tree = ProcessTree(specs)
        self.now = 100.0
        self.pids: dict[str, int] = {}
        self.next_pid = 1

    def tell(self, event: Event) -> list[Effect]:
        effects = self.tree.handle(event, self.now)
        self.tree.check_invariants()
        return [effect for effect in effects if not isinstance(effect, Changed)]

    def fork(self, name: str) -> list[Effect]:
        self.pids[name] = self.next_pid
        self.next_pid += 1
        return self.tell(Forked(name, self.pids[name]))

    def ready(self, name: str, endpoint: str = "") -> list[Effect]:
        return self.tell(BecameReady(name, self.pids[name], endpoint))

    def die(self, name: str, reason: str = "exit status 1") -> list[Effect]:
        return self.tell(Died(name, self.pids[name], reason))

    def renew(self, name: str) -> list[Effect]:
        """The process ends, asking to be started anew."""
        return self.tell(Died(name, self.pids[name], "exit status 75", anew=True))

    def wait(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.tell(Ticked())

    def start(self, *names: str) -> None:
        for name in names:
            self.fork(name)
            self.ready(name)

    def state(self, name: str) -> str:
        return next(record.state for record in self.tree.records() if record.name == name)

    def reason(self, name: str) -> str:
        return next(record.reason for record in self.tree.records() if record.name == name)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.tree.check_invariants()


@pytest.fixture
def running(host: Host) -> Host:
    host.tell(Begun())
    host.start(FORK_SERVER, STORAGE, "g", "w0", "w1", "gw")
    assert {record.state for record in host.tree.records()} == {"ready"}
    return host


def spawned(effects: list[Effect]) -> list[str]:
    return [effect.name for effect in effects if isinstance(effect, Spawn)]


def signalled(effects: list[Effect]) -> list[tuple[str, bool]]:
    return [(effect.name, effect.hard) for effect in effects if isinstance(effect, Signal)]


class TestStart:
    def test_order_is_storage_and_gossip_then_workers_then_gateways(self, host: Host) -> None:
        assert spawned(host.tell(Begun())) == [FORK_SERVER]
        host.fork(FORK_SERVER)
        assert spawned(host.ready(FORK_SERVER)) == [STORAGE, "g"]
        host.fork("g")
        assert spawned(host.ready("g")) == []
        host.fork(STORAGE)
        assert spawned(host.ready(STORAGE)) == ["w0", "w1"]
        host.fork("w0")
        host.fork("w1")
        assert spawned(host.ready("w1")) == []
        assert spawned(host.ready("w0")) == ["gw"]

    def test_a_worker_that_cannot_start_does_not_keep_clients_out(self, host: Host) -> None:
        host.tell(Begun())
        host.start(FORK_SERVER, STORAGE, "g", "w0")
        host.fork("w1")
        assert spawned(host.die("w1")) == ["gw"]

    def test_what_a_process_waits_for_is_shown_until_it_is_ready(self, host: Host) -> None:
        host.tell(Begun())
        host.start(FORK_SERVER)
        host.fork(STORAGE)
        host.tell(Waits(STORAGE, host.pids[STORAGE], "no connection to db:5432"))
        assert (host.state(STORAGE), host.reason(STORAGE)) == ("starting", "no connection to db:5432")
        host.ready(STORAGE)
        assert (host.state(STORAGE), host.reason(STORAGE)) == ("ready", "")

    def test_workers_restart_without_waiting_for_a_storage_that_was_there_once(self, running: Host) -> None:
        running.tell(Waits(STORAGE, running.pids[STORAGE], "gone"))
        running.die("w0")
        assert spawned(running.wait(FIRST_BACKOFF_S)) == ["w0"]

    def test_without_a_fork_server_nothing_waits_for_one(self) -> None:
        host = Host(SPECS[1:])
        assert spawned(host.tell(Begun())) == [STORAGE, "g"]

    def test_news_of_an_earlier_process_are_not_believed(self, running: Host) -> None:
        old = running.pids["w0"]
        running.die("w0")
        running.wait(FIRST_BACKOFF_S)
        running.fork("w0")
        running.tell(BecameReady("w0", old, "elsewhere"))
        running.tell(Died("w0", old, "again"))
        assert running.state("w0") == "starting"


class TestDeaths:
    def test_a_dead_process_is_started_again_later_each_time(self, running: Host) -> None:
        for wait in (FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S):
            assert running.die("w0") == [Note("process.died", "w0", "exit status 1")]
            assert running.state("w0") == "backoff"
            assert running.tree.next_due() == running.now + wait
            assert running.wait(wait * 0.9) == []
            assert spawned(running.wait(wait * 0.2)) == ["w0"]
            running.start("w0")

    def test_five_deaths_in_a_minute_leave_it_down_and_say_why(self, running: Host) -> None:
        for _ in range(4):
            running.die("w0", "killed by SIGSEGV")
            running.wait(5)
            running.fork("w0")
        running.die("w0", "killed by SIGSEGV")
        assert running.state("w0") == "failed"
        assert running.reason("w0") == "left down after 5 deaths in a minute; the last: killed by SIGSEGV"
        assert spawned(running.wait(1000)) == []

    def test_how_it_ended_is_kept_while_its_successor_is_well(self, running: Host) -> None:
        running.die("w0", "exit status 74; its last words: the log cannot be written")
        running.wait(5)
        running.start("w0")
        (row,) = (row for row in running.tree.records() if row.name == "w0")
        assert (row.state, row.reason) == ("ready", "") and row.last_end.endswith("cannot be written")

    def test_five_deaths_over_a_longer_time_do_not(self, running: Host) -> None:
        for _ in range(20):
            running.die("w0")
            assert spawned(running.wait(DEATH_WINDOW_S / 4)) == ["w0"]
            running.fork("w0")

    def test_a_process_that_cannot_even_be_made_counts_as_dead(self, host: Host) -> None:
        host.tell(Begun())
        host.start(FORK_SERVER)
        for _ in range(5):
            host.tell(Died("g", 0, "cannot import gossip.daemon"))
            host.wait(6)
        assert host.state("g") == "failed"

    def test_one_that_was_left_down_is_tried_again_when_asked(self, running: Host) -> None:
        for _ in range(5):
            running.die("w0")
            running.wait(5)
            running.fork("w0")
        assert spawned(running.tell(RestartAsked(("w0",)))) == ["w0"]

    def test_with_the_fork_server_everything_dies_and_comes_again(self, running: Host) -> None:
        running.die(FORK_SERVER, "killed by SIGKILL")
        assert {record.pid for record in running.tree.records()} == {0}
        assert spawned(running.wait(FIRST_BACKOFF_S)) == [FORK_SERVER]
        running.fork(FORK_SERVER)
        # What they need was there once; each finds for itself that it is not there yet.
        assert spawned(running.ready(FORK_SERVER)) == [STORAGE, "g", "w0", "w1", "gw"]

    def test_deaths_with_the_fork_server_are_not_a_processs_own(self, running: Host) -> None:
        for _ in range(4):
            running.die(FORK_SERVER)
            running.wait(5)
            running.start(FORK_SERVER, STORAGE, "g", "w0", "w1", "gw")
        assert running.die("w0") == [Note("process.died", "w0", "exit status 1")]
        assert running.state("w0") == "backoff"


class TestStartAnew:
    def test_who_asks_for_it_is_started_at_once(self, running: Host) -> None:
        assert running.renew("w0") == [Note("process.starts_anew", "w0", "exit status 75"), Spawn("w0")]
        assert running.state("w0") == "starting"
        running.start("w0")
        assert (running.state("w0"), running.reason("w0")) == ("ready", "")

    def test_it_is_no_death(self, running: Host) -> None:
        for _ in range(DEATHS_LIMIT - 1):
            running.die("w0")
            running.wait(5)
            running.fork("w0")
        for _ in range(10):
            assert spawned(running.renew("w0")) == ["w0"]
            running.fork("w0")
        running.die("w0")
        assert running.state("w0") == "failed"

    def test_the_storm_of_them_is_bounded_and_says_so(self, running: Host) -> None:
        for _ in range(RENEWALS_LIMIT):
            assert spawned(running.renew("w0")) == ["w0"]
            running.fork("w0")
        assert running.renew("w0") == [Note("process.died", "w0", "exit status 75")]
        assert running.state("w0") == "backoff"
        for _ in range(DEATHS_LIMIT - 1):
            running.wait(5)
            running.fork("w0")
            running.renew("w0")
        assert running.state("w0") == "failed"
        assert "5 deaths in a minute; the last: exit status 75" in running.reason("w0")

    def test_the_bound_is_on_a_minute_and_on_one_process(self, running: Host) -> None:
        for _ in range(3 * RENEWALS_LIMIT):
            assert spawned(running.renew("w0")) == ["w0"]
            running.fork("w0")
            running.wait(DEATH_WINDOW_S / RENEWALS_LIMIT)
        for _ in range(RENEWALS_LIMIT):
            assert spawned(running.renew("w1")) == ["w1"]
            running.fork("w1")

    def test_a_restart_that_is_asked_for_forgets_the_storm(self, running: Host) -> None:
        for _ in range(RENEWALS_LIMIT):
            running.renew("w0")
            running.fork("w0")
        running.renew("w0")
        running.tell(RestartAsked(("w0",)))
        running.fork("w0")
        assert spawned(running.renew("w0")) == ["w0"]

    def test_nobody_is_started_anew_while_stopping(self, running: Host) -> None:
        running.tell(StopAsked())
        assert signalled(running.renew("gw")) == [("w0", False), ("w1", False)]
        assert running.state("gw") == "stopped"


class TestStop:
    def test_order_is_gateways_workers_gossip_and_storage_fork_server(self, running: Host) -> None:
        assert signalled(running.tell(StopAsked())) == [("gw", False)]
        assert signalled(running.die("gw")) == [("w0", False), ("w1", False)]
        assert running.die("w1") == []
        assert signalled(running.die("w0")) == [(STORAGE, False), ("g", False)]
        running.die("g")
        assert signalled(running.die(STORAGE)) == [(FORK_SERVER, False)]
        assert running.die(FORK_SERVER) == [AllStopped()]

    def test_who_does_not_stop_in_time_is_killed(self, running: Host) -> None:
        running.tell(StopAsked())
        assert running.wait(STOP_GRACE_S * 0.9) == []
        assert signalled(running.wait(STOP_GRACE_S * 0.2)) == [("gw", True)]
        assert running.tree.next_due() is None

    def test_one_that_is_just_being_made_is_stopped_as_soon_as_it_exists(self, host: Host) -> None:
        host.tell(Begun())
        host.start(FORK_SERVER)
        host.fork(STORAGE)
        assert signalled(host.tell(StopAsked())) == [(STORAGE, False)]
        assert signalled(host.fork("g")) == [("g", False)]
        host.die("g")
        host.die(STORAGE)
        assert host.die(FORK_SERVER) == [AllStopped()]

    def test_nothing_starts_again_while_stopping(self, running: Host) -> None:
        running.die("w0")
        running.tell(StopAsked())
        assert spawned(running.wait(60)) == []
        assert spawned(running.die(FORK_SERVER)) == []

    def test_a_stop_before_the_start_ends_at_once(self, host: Host) -> None:
        assert host.tell(StopAsked()) == [AllStopped()]

    def test_the_second_time_all_but_storage_are_killed(self, running: Host) -> None:
        running.tell(StopAsked())
        effects = signalled(running.tell(StopAsked(at_once=True)))
        assert {name for name, hard in effects if hard} == {"gw", "w0", "w1", "g"}
        assert signalled(running.die("gw")) == signalled(running.die("w0")) == []
        assert signalled(running.die("w1")) == [(STORAGE, False)]

    def test_the_end_of_the_fork_server_ends_the_stop(self, running: Host) -> None:
        running.tell(StopAsked())
        assert running.die(FORK_SERVER) == [AllStopped()]
        assert {record.state for record in running.tree.records()} == {"stopped"}


class TestRestartAndPlan:
    def test_a_restart_is_no_death(self, running: Host) -> None:
        for _ in range(10):
            assert signalled(running.tell(RestartAsked(("w0",)))) == [("w0", False)]
            assert running.die("w0", "exit status 0") == [Spawn("w0")]
            running.start("w0")
        assert next(record for record in running.tree.records() if record.name == "w0").restarts == 10

    def test_a_restart_ends_in_force_too(self, running: Host) -> None:
        running.tell(RestartAsked(("w0",)))
        assert signalled(running.wait(STOP_GRACE_S)) == [("w0", True)]

    def test_a_new_plan_starts_what_is_new_and_stops_what_is_gone(self, running: Host) -> None:
        without = (*(one for one in SPECS if one.name != "w1"), spec("w2", "worker", (STORAGE, "g")))
        effects = running.tell(Replanned(without))
        assert (spawned(effects), signalled(effects)) == (["w2"], [("w1", False)])
        assert running.die("w1") == []
        assert [record.name for record in running.tree.records()] == [one.name for one in without]

    def test_what_leaves_the_plan_and_returns_is_started_once_it_is_gone(self, running: Host) -> None:
        running.tell(Replanned(SPECS[:-1]))
        assert spawned(running.tell(Replanned(SPECS))) == []
        assert running.die("gw", "exit status 0") == [Spawn("gw")]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=60))
def test_whatever_happens_a_stop_comes_to_its_end(story: list[tuple[int, int]]) -> None:
    host = Host()
    names = [one.name for one in SPECS]

    def alive() -> dict[str, int]:
        return {record.name: record.pid for record in host.tree.records() if record.pid}

    unmade: set[str] = set()

    def tell(event: Event) -> None:
        unmade.update(spawned(host.tell(event)))

    tell(Begun())
    for action, number in story:
        name = names[number]
        match action:
            case 0 | 1 if name in unmade:
                unmade.discard(name)
                host.next_pid += 1
                tell(Forked(name, host.next_pid))
            case 2 | 3 if name in alive():
                tell(BecameReady(name, alive()[name], ""))
            case 4 | 9 if name in alive():
                if name == FORK_SERVER:
                    unmade.clear()
                tell(Died(name, alive()[name], "x", anew=action == 9))
            case 5:
                tell(RestartAsked((name,)))
            case 6:
                host.now += number
                tell(Ticked())
            case 7 if number == 0:
                tell(StopAsked(at_once=False))
            case 8:
                tell(Replanned(SPECS[: 5 + number % 2]))
    tell(StopAsked())
    for _ in range(20):
        for name in list(unmade):
            tell(Died(name, 0, "stopped"))
        unmade.clear()
        host.now += STOP_GRACE_S
        tell(Ticked())
        for name, pid in alive().items():
            host.tell(Died(name, pid, "killed"))
    assert not alive()
    assert {record.state for record in host.tree.records()} <= {"stopped", "failed"}
