"""Workers of a node: one process of a group counts, the others wait until it is known to be dead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connserver.messages import BACKUP, NO_STATE, Attach, ProcessRecord, WorkerReport
from gossip.workers import (
    Employ,
    Lost,
    Reported,
    Tell,
    Unwatch,
    Waiting,
    Watch,
    WorkerOutcome,
    Workers,
)

BOOT = 77


class Story:
    """The workers of n1."""

    def __init__(self) -> None:
        self.machine = Workers("n1", BOOT)

    def attach(self, group: int, pid: int, **more: Any) -> list[WorkerOutcome]:
        outcomes = self.machine.attach(identity(group, pid), replace(said(group, pid), **more))
        self.machine.check_invariants()
        return outcomes

    def report(self, group: int, pid: int, **facts: Any) -> Reported:
        given: dict[str, Any] = {"commit": 5, "archived": 3, "storage": "ok", "storage_error": ""}
        given |= {"details": {}, **facts}
        return self.machine.report(identity(group, pid), WorkerReport(group=group, grant=0, **given))

    def state(self, group: int) -> str:
        return next(row.state for row in self.machine.rows() if row.group == group)


@pytest.fixture
def story() -> Story:
    return Story()


def identity(group: int, pid: int) -> bytes:
    return b"worker:%d:%d" % (group, pid)


def said(group: int, pid: int) -> Attach:
    return Attach(group, pid, f"ipc://{pid}", 1, 1, 3, 3)


def employed(group: int, pid: int) -> Employ:
    return Employ(identity(group, pid), said(group, pid))


def told(outcomes: list[WorkerOutcome]) -> dict[bytes, tuple[int, str, bool, int]]:
    roles = {row.identity: row.role for row in outcomes if isinstance(row, Tell)}
    return {name: (role.grant, role.role, role.attached, role.gossip) for name, role in roles.items()}


def test_the_first_process_counts_and_is_watched(story: Story) -> None:
    assert story.attach(0, 100) == [Watch(100), employed(0, 100)]
    assert story.attach(1, 101) == [Watch(101), employed(1, 101)]


def test_what_it_says_later_is_passed_on_as_it_is(story: Story) -> None:
    story.attach(0, 100)
    again = replace(said(0, 100), attempt=2, applied=9, after=9)
    assert story.attach(0, 100, attempt=2, applied=9, after=9) == [Employ(identity(0, 100), again)]
    assert story.attach(0, 100, endpoint="ipc://other", attempt=1) == [
        Employ(identity(0, 100), replace(said(0, 100), endpoint="ipc://other"))
    ]
    assert story.machine.rows()[0].endpoint == "ipc://other"


def test_a_second_process_waits_until_the_first_is_dead(story: Story) -> None:
    story.attach(0, 100)
    outcomes = story.attach(0, 200)
    assert outcomes[:2] == [Waiting(0, 200, 100), Watch(200)]
    assert told(outcomes) == {identity(0, 200): (0, BACKUP, False, BOOT)}
    assert story.attach(0, 200) == [], "the same again: the next heartbeat answers"
    assert told(story.attach(0, 200, attempt=0, applied=NO_STATE)), "a question is answered"
    again = story.attach(0, 200)
    assert told(again) and not any(isinstance(row, Waiting | Watch | Employ) for row in again), "said once"
    attached = story.machine.attached(0)
    assert attached is not None and attached.pid == 100
    after = story.machine.died(100)
    assert after == [Lost(0, identity(0, 100)), Unwatch(100), employed(0, 200)], "lost before the next one"
    story.machine.check_invariants()


def test_what_one_that_waits_said_last_is_what_counts_then(story: Story) -> None:
    story.attach(0, 100)
    story.attach(0, 200)
    story.attach(0, 200, attempt=4, applied=8)
    (employ,) = (row for row in story.machine.died(100) if isinstance(row, Employ))
    assert (employ.said.attempt, employ.said.applied) == (4, 8)


def test_a_third_process_takes_the_place_of_the_one_that_waits(story: Story) -> None:
    story.attach(0, 100)
    story.attach(0, 200)
    assert Unwatch(200) in story.attach(0, 300)
    assert story.machine.died(100)[-1] == employed(0, 300)


def test_one_that_waits_may_die_too(story: Story) -> None:
    story.attach(0, 100)
    story.attach(0, 200)
    assert story.machine.died(200) == [Unwatch(200)]
    assert story.machine.died(100) == [Lost(0, identity(0, 100)), Unwatch(100)]
    assert story.machine.attached(0) is None


def test_the_death_of_a_stranger_is_nothing(story: Story) -> None:
    story.attach(0, 100)
    assert story.machine.died(999) == []


def test_roles_are_repeated_to_those_that_wait_and_to_nobody_else(story: Story) -> None:
    story.attach(0, 100)
    assert story.machine.waiting() == []
    story.attach(0, 200)
    assert set(told(story.machine.waiting())) == {identity(0, 200)}


def test_who_has_a_grant_serves_and_who_lost_it_does_not(story: Story) -> None:
    story.attach(0, 100)
    story.report(0, 100)
    assert story.state(0) == "ready"
    story.machine.granted(0, 41)
    assert (story.state(0), story.machine.rows()[0].grant) == ("serving", 41)
    story.machine.granted(0, 0)
    assert story.state(0) == "ready"
    assert story.machine.rows()[0].grant == 41, "the route does not fall back behind it"


def test_a_dead_worker_stays_in_the_record_with_its_grant(story: Story) -> None:
    story.attach(0, 100)
    story.machine.granted(0, 41)
    story.machine.died(100)
    (row,) = story.machine.rows()
    assert (row.group, row.pid, row.state, row.grant) == (0, 100, "gone", 41)
    story.attach(0, 200)
    (row,) = story.machine.rows()
    assert (row.pid, row.state, row.grant) == (200, "loading", 41)
    story.machine.granted(0, 43)
    assert (story.state(0), story.machine.rows()[0].grant) == ("serving", 43)


def test_a_grant_of_a_group_without_a_worker_is_nobodys(story: Story) -> None:
    story.machine.granted(0, 41)
    assert story.machine.rows() == []
    story.attach(0, 100)
    assert story.machine.rows()[0].grant == 0 and story.state(0) == "loading"


def test_a_successor_does_not_inherit_the_grant(story: Story) -> None:
    story.attach(0, 100)
    story.machine.granted(0, 41)
    story.attach(0, 200)
    story.machine.died(100)
    successor = story.machine.attached(0)
    assert successor is not None and (successor.pid, successor.grant) == (200, 0)


def process(pid: int, state: str, name: str = "w-n1-0", node: str = "n1") -> ProcessRecord:
    return ProcessRecord(node, "worker", name, pid, state, 0, "", "")


@pytest.mark.parametrize("state", ["stopped", "failed", "backoff"])
def test_the_supervisor_says_that_a_worker_is_down(story: Story, state: str) -> None:
    story.attach(0, 100)
    assert story.machine.supervised([process(100, "ready")]) == []
    assert story.machine.supervised([process(0, state, node="n2")]) == []
    assert story.machine.supervised([process(0, state)])[0] == Lost(0, identity(0, 100))


def test_the_supervisor_names_the_one_that_waits_so_the_other_is_dead(story: Story) -> None:
    story.attach(0, 100)
    assert story.machine.supervised([process(200, "starting")]) == [], "not attached: perhaps an old table"
    story.attach(0, 200)
    assert story.machine.supervised([process(200, "starting")])[-1] == employed(0, 200)


def test_a_report_counts_from_the_attached_worker_only(story: Story) -> None:
    story.attach(0, 100)
    assert story.report(0, 200) is Reported.REFUSED
    assert story.report(1, 100) is Reported.REFUSED
    assert story.report(0, 100, commit=-1) is Reported.REFUSED
    assert story.report(0, 100, archived=1 << 63) is Reported.REFUSED
    assert story.report(0, 100) is Reported.STATE
    assert story.report(0, 100) is Reported.NOTHING
    assert story.report(0, 100, commit=6) is Reported.NUMBERS
    (row,) = story.machine.rows()
    assert (row.commit, row.archived, row.storage) == (6, 3, "ok")


def test_what_a_worker_says_of_its_state_and_plugins(story: Story) -> None:
    story.attach(0, 100)
    wrong: list[Any] = ["no row", {1: "x"}, {"name": b"x"}, {"name": ["x"]}, {"name": "x" * 2001}]
    wrong.append(dict.fromkeys(map(str, range(17)), 1))
    details = {"state": "loading", "plugins": [{"name": "chat"}, *wrong], "else": 1}
    assert story.report(0, 100, details=details) is Reported.STATE
    (row,) = story.machine.rows()
    assert (row.state, row.plugins) == ("loading", [{"name": "chat"}])
    assert story.report(0, 100, details={"plugins": "none", "state": "dancing"}) is Reported.STATE
    (row,) = story.machine.rows()
    assert (row.state, row.plugins) == ("ready", [])


def test_details_over_their_bound_are_left_out(story: Story) -> None:
    story.attach(0, 100)
    story.report(0, 100, details={"plugins": [{"name": "x" * 5000}]})
    assert story.machine.rows()[0].plugins == []
