"""Membership: suspicion, death, rumours, refutation, and a node that was late itself."""

from __future__ import annotations

import pytest

from connserver.limits import INCARNATION_LIMIT
from connserver.messages import Sighting
from gossip.membership import Changed, Membership, MustRaise, Outcome, State, Timing

TIMING = Timing(heartbeat_s=0.1, suspect_s=0.6, dead_s=1.5)


class Story:
    """A membership of n1 with peers n2 and n3, told beat by beat."""

    def __init__(self) -> None:
        self.now = 0.0
        self.machine = Membership("n1", ("n2", "n3"), 5, TIMING, self.now)
        self.number = {"n2": 0, "n3": 0}

    def beat(
        self, sender: str, *sightings: Sighting, incarnation: int = 1, leaving: bool = False
    ) -> list[Outcome]:
        """The next heartbeat of a node arrives."""
        self.number[sender] += 1
        heard = self.machine.heard(sender, incarnation, self.number[sender], leaving, sightings, self.now)
        self.machine.check_invariants()
        return heard

    def wait(self, seconds: float, *speaking: str) -> list[Outcome]:
        """Time passes tick by tick, while some nodes speak."""
        outcomes: list[Outcome] = []
        for _ in range(round(seconds / TIMING.heartbeat_s)):
            self.now += TIMING.heartbeat_s
            for sender in speaking:
                outcomes += self.beat(sender)
            outcomes += self.machine.tick(self.now)
            self.machine.check_invariants()
        return outcomes


@pytest.fixture
def story() -> Story:
    """Both peers have been heard."""
    story = Story()
    story.beat("n2")
    story.beat("n3")
    return story


def sighting(
    node: str, incarnation: int, number: int, state: str = "alive", accused: bool = False
) -> Sighting:
    return Sighting(node, incarnation, number, state, accused)


def test_the_first_heartbeat_makes_a_node_alive() -> None:
    story = Story()
    assert story.machine.state("n2") is State.SUSPECT
    assert story.beat("n2", incarnation=3) == [Changed("n2", State.ALIVE, 3, "heard")]
    assert story.machine.incarnation_of("n2") == 3


def test_a_node_that_is_never_heard_is_dead_in_the_end() -> None:
    outcomes = Story().wait(1.5)
    assert outcomes == [
        Changed("n2", State.DEAD, 0, "never heard since this node started"),
        Changed("n3", State.DEAD, 0, "never heard since this node started"),
    ]


def test_silence_is_suspected_and_then_is_death(story: Story) -> None:
    assert story.wait(0.5, "n3") == []
    assert story.wait(0.1, "n3") == [Changed("n2", State.SUSPECT, 1, "nobody heard it for 0.6 s")]
    assert story.wait(0.8, "n3") == []
    assert story.wait(0.1, "n3") == [Changed("n2", State.DEAD, 1, "nobody heard it for 1.5 s")]


def test_a_heartbeat_ends_a_suspicion(story: Story) -> None:
    story.wait(0.7, "n3")
    assert story.beat("n2") == [Changed("n2", State.ALIVE, 1, "heard")]
    assert story.wait(0.5, "n3") == []


def test_death_is_final_for_an_incarnation(story: Story) -> None:
    story.wait(1.6, "n3")
    assert story.beat("n2") == []
    assert story.machine.state("n2") is State.DEAD
    assert story.beat("n2", incarnation=2) == [Changed("n2", State.ALIVE, 2, "heard")]


def test_an_earlier_life_changes_nothing(story: Story) -> None:
    story.beat("n2", incarnation=4)
    assert story.beat("n2", sighting("n3", 9, 9), incarnation=3) == []
    assert story.machine.incarnation_of("n2") == 4
    assert story.machine.incarnation_of("n3") == 1


def test_an_orderly_leave_is_not_waited_for(story: Story) -> None:
    assert story.beat("n2", leaving=True) == [Changed("n2", State.STOPPED, 1, "heard")]
    assert story.wait(3.0, "n3") == []


def test_suspicion_is_spread_as_a_rumour(story: Story) -> None:
    assert story.beat("n3", sighting("n2", 1, 1, "suspect")) == [
        Changed("n2", State.SUSPECT, 1, "n3 says so")
    ]


def test_a_rumour_about_an_older_heartbeat_is_no_news(story: Story) -> None:
    story.beat("n2")
    assert story.beat("n3", sighting("n2", 1, 1, "suspect")) == []
    assert story.beat("n3", sighting("n2", 1, 1, "dead")) == []
    assert story.machine.state("n2") is State.ALIVE


def test_death_is_spread_as_a_rumour(story: Story) -> None:
    assert story.beat("n3", sighting("n2", 1, 1, "dead")) == [Changed("n2", State.DEAD, 1, "n3 says so")]


def test_being_heard_by_another_is_being_heard(story: Story) -> None:
    for number in range(2, 30):
        story.beat("n3", sighting("n2", 1, number))
        assert story.wait(0.1) == []
    assert story.machine.state("n2") is State.ALIVE


def test_a_rumour_about_a_newer_life_is_believed(story: Story) -> None:
    story.wait(1.6, "n3")
    assert story.beat("n3", sighting("n2", 2, 1)) == [Changed("n2", State.ALIVE, 2, "n3 says so")]


def test_an_accusation_reaches_the_accused_through_a_third(story: Story) -> None:
    story.beat("n2")
    story.beat("n3", sighting("n2", 1, 1, "dead"))
    (said,) = [row for row in story.machine.sightings() if row.node == "n2"]
    assert (said.state, said.accused) == ("alive", True)
    story.beat("n2", incarnation=2)
    (said,) = [row for row in story.machine.sightings() if row.node == "n2"]
    assert (said.incarnation, said.accused) == (2, False)


@pytest.mark.parametrize("state", ["dead", "stopped"])
def test_who_is_held_dead_raises_its_incarnation(story: Story, state: str) -> None:
    story.machine.next_number()
    assert story.beat("n2", sighting("n1", 5, 1, state)) == [MustRaise(6, overtaken=False)]
    story.machine.raised(6)
    assert story.beat("n3", sighting("n1", 5, 1, state)) == []
    assert story.machine.next_number() == 1


def test_who_is_accused_raises_its_incarnation(story: Story) -> None:
    story.machine.next_number()
    assert story.beat("n2", sighting("n1", 5, 1, "alive", accused=True)) == [MustRaise(6, overtaken=False)]


def test_being_suspected_needs_no_new_incarnation(story: Story) -> None:
    story.machine.next_number()
    assert story.beat("n2", sighting("n1", 5, 1, "suspect")) == []


def test_a_life_of_this_name_that_others_know_and_this_node_does_not(story: Story) -> None:
    assert story.beat("n2", sighting("n1", 9, 3)) == [MustRaise(10, overtaken=True)]
    assert story.beat("n2", sighting("n1", 5, 3)) == [MustRaise(6, overtaken=True)]
    assert story.beat("n2", sighting("n1", INCARNATION_LIMIT - 1, 3)) == []


def test_a_late_loop_gives_the_others_the_time_it_missed(story: Story) -> None:
    story.now += 5.0
    assert story.machine.tick(story.now) == []
    assert story.machine.late_s == pytest.approx(4.9)
    assert story.wait(0.4) == []
    assert [outcome.state for outcome in story.wait(0.3) if isinstance(outcome, Changed)] == [
        State.SUSPECT
    ] * 2


def test_a_loop_in_time_is_not_late(story: Story) -> None:
    story.wait(0.1)
    assert story.machine.late_s == 0.0


def test_nothing_is_said_of_nodes_that_were_never_heard_of() -> None:
    story = Story()
    story.beat("n3")
    assert [row.node for row in story.machine.sightings()] == ["n3"]


def test_a_newer_heartbeat_that_is_suspected_elsewhere_is_no_sign_of_life(story: Story) -> None:
    story.wait(0.4, "n3")
    assert story.beat("n3", sighting("n2", 1, 2, "suspect")) == [
        Changed("n2", State.SUSPECT, 1, "n3 says so")
    ]
    assert story.wait(1.0, "n3") == []
    assert story.wait(0.1, "n3") == [Changed("n2", State.DEAD, 1, "nobody heard it for 1.5 s")]
