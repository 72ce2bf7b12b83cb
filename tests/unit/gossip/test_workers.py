"""Workers of a node: one grant per group and process, and never the same one twice."""

from __future__ import annotations

from typing import Any

import pytest

from connserver.messages import Attach, ProcessRecord, WorkerReport
from gossip.grants import incarnation_of, make_grant
from gossip.workers import (
    Duty,
    Lost,
    Reported,
    Tell,
    Unwatch,
    Waiting,
    Watch,
    WorkerOutcome,
    Workers,
)

PRIMARY = {0: Duty(1, 0, True), 1: Duty(1, 0, False)}


class Story:
    """The workers of n1, which leads group 0 and backs up group 1."""

    def __init__(self) -> None:
        self.machine = Workers("n1", 7)
        self.machine.set_duties(PRIMARY)

    def attach(self, group: int, pid: int, endpoint: str = "") -> list[WorkerOutcome]:
        outcomes = self.machine.attach(
            identity(group, pid), Attach(group, pid, endpoint or f"ipc://{pid}", 3)
        )
        self.machine.check_invariants()
        return outcomes

    def report(self, group: int, pid: int, **facts: Any) -> Reported:
        given: dict[str, Any] = {"commit": 5, "archived": 3, "storage": "ok", "storage_error": ""}
        given |= {"details": {}, **facts}
        return self.machine.report(identity(group, pid), WorkerReport(group=group, grant=0, **given))

    def grant(self, group: int) -> int:
        worker = self.machine.attached(group)
        assert worker is not None
        return worker.grant


@pytest.fixture
def story() -> Story:
    return Story()


def identity(group: int, pid: int) -> bytes:
    return b"worker:%d:%d" % (group, pid)


def grants(outcomes: list[WorkerOutcome]) -> dict[bytes, int]:
    return {row.identity: row.role.grant for row in outcomes if isinstance(row, Tell)}


def test_a_primary_gets_a_grant_of_this_incarnation_and_a_backup_none(story: Story) -> None:
    assert grants(story.attach(0, 100)) == {identity(0, 100): make_grant(7, 1)}
    assert grants(story.attach(1, 101)) == {identity(1, 101): 0}
    assert incarnation_of(story.grant(0)) == 7


def test_its_process_is_watched(story: Story) -> None:
    assert Watch(100) in story.attach(0, 100)


def test_attaching_again_keeps_the_grant(story: Story) -> None:
    first = story.attach(0, 100)
    again = story.attach(0, 100)
    assert grants(again) == grants(first)
    assert not any(isinstance(row, Watch) for row in again)


def test_the_same_process_with_another_endpoint_has_started_over(story: Story) -> None:
    story.attach(0, 100)
    assert grants(story.attach(0, 100, "ipc://other")) == {identity(0, 100): make_grant(7, 2)}


def test_a_second_process_waits_until_the_first_is_dead(story: Story) -> None:
    story.attach(0, 100)
    outcomes = story.attach(0, 200)
    assert Waiting(0, 200, 100) in outcomes and Watch(200) in outcomes
    assert grants(outcomes) == {identity(0, 200): 0}
    assert story.grant(0) == make_grant(7, 1)
    assert not any(isinstance(row, Waiting) for row in story.attach(0, 200)), "said once"
    after = story.machine.died(100)
    assert after[:2] == [Lost(0, identity(0, 100)), Unwatch(100)]
    assert grants(after) == {identity(0, 200): make_grant(7, 2)}


def test_a_third_process_takes_the_place_of_the_one_that_waits(story: Story) -> None:
    story.attach(0, 100)
    story.attach(0, 200)
    assert Unwatch(200) in story.attach(0, 300)
    assert set(grants(story.machine.died(100))) == {identity(0, 300)}


def test_one_that_waits_may_die_too(story: Story) -> None:
    story.attach(0, 100)
    story.attach(0, 200)
    assert story.machine.died(200) == [Unwatch(200)]
    assert story.machine.died(100) == [Lost(0, identity(0, 100)), Unwatch(100)]
    assert story.machine.attached(0) is None


def test_the_death_of_a_stranger_is_nothing(story: Story) -> None:
    story.attach(0, 100)
    assert story.machine.died(999) == []


def test_a_dead_worker_stays_in_the_record_with_its_grant(story: Story) -> None:
    story.attach(0, 100)
    story.machine.died(100)
    (row,) = story.machine.rows()
    assert (row.group, row.state, row.grant) == (0, "gone", make_grant(7, 1))
    story.attach(0, 200)
    (row,) = story.machine.rows()
    assert (row.pid, row.state, row.grant) == (200, "ready", make_grant(7, 2))


def test_losing_the_duty_takes_the_grant_and_regaining_it_gives_another(story: Story) -> None:
    story.attach(0, 100)
    lost = story.machine.set_duties({0: Duty(1, 1, False), 1: Duty(1, 0, False)})
    assert grants(lost) == {identity(0, 100): 0}
    assert story.machine.rows()[0].grant == make_grant(7, 1), "the route does not fall back behind it"
    again = story.machine.set_duties({0: Duty(1, 3, True), 1: Duty(1, 0, False)})
    assert grants(again) == {identity(0, 100): make_grant(7, 2)}


def test_a_new_view_of_the_same_primary_is_a_new_grant(story: Story) -> None:
    story.attach(0, 100)
    outcomes = story.machine.set_duties({0: Duty(1, 3, True), 1: Duty(1, 0, False)})
    assert grants(outcomes) == {identity(0, 100): make_grant(7, 2)}


def test_equal_duties_say_nothing(story: Story) -> None:
    story.attach(0, 100)
    assert story.machine.set_duties(dict(PRIMARY)) == []


def test_a_new_incarnation_renews_all_grants(story: Story) -> None:
    story.attach(0, 100)
    assert grants(story.machine.raised(8)) == {identity(0, 100): make_grant(8, 1)}
    story.machine.check_invariants()


def test_roles_are_repeated_to_those_that_wait_as_well(story: Story) -> None:
    story.attach(0, 100)
    story.attach(0, 200)
    assert grants(story.machine.roles()) == {identity(0, 100): make_grant(7, 1), identity(0, 200): 0}


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
    outcomes = story.machine.supervised([process(200, "starting")])
    assert grants(outcomes) == {identity(0, 200): make_grant(7, 2)}


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


def test_when_the_grants_are_used_up_none_is_given(story: Story) -> None:
    story.machine._count = (1 << 20) - 2
    assert not story.machine.exhausted()
    story.attach(0, 100)
    assert story.machine.exhausted() and story.grant(0) == make_grant(7, (1 << 20) - 1)
    story.machine.died(100)
    story.attach(0, 200)
    assert story.grant(0) == 0
    story.machine.raised(8)
    assert story.grant(0) == make_grant(8, 1)
