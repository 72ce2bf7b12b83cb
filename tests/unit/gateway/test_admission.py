"""Token buckets and the counting of connections."""

from __future__ import annotations

import pytest

from connserver.limits import Limits
from gateway.admission import REFUSED_CONNECTIONS, Allowance, Doors, Entry, Rates, counted_as

RATES = Rates(messages_per_s=10, bytes_per_s=1_000, burst=4)


def test_a_burst_may_be_sent_at_once_and_then_as_much_as_time_brings() -> None:
    allowance = Allowance(RATES, 0.0)
    for _ in range(40):
        assert allowance.wait_s(RATES) == 0
        allowance.messages -= 1
    assert allowance.wait_s(RATES) == pytest.approx(0.1)
    allowance.refill(RATES, 0.1)
    assert allowance.wait_s(RATES) == 0
    allowance.messages -= 1
    assert allowance.wait_s(RATES) == pytest.approx(0.1)


def test_bytes_go_into_debt_and_the_debt_is_waited_for() -> None:
    allowance = Allowance(RATES, 0.0)
    allowance.bytes -= 4_500
    assert allowance.wait_s(RATES) == pytest.approx(0.5)
    allowance.refill(RATES, 0.5)
    assert allowance.wait_s(RATES) == 0


def test_idle_time_never_gives_more_than_the_burst() -> None:
    allowance = Allowance(RATES, 0.0)
    allowance.messages = 0
    allowance.refill(RATES, 1_000_000.0)
    assert (allowance.messages, allowance.bytes) == (40, 4_000)


def test_a_clock_that_stands_still_gives_nothing() -> None:
    allowance = Allowance(RATES, 5.0)
    allowance.messages = 0
    allowance.refill(RATES, 5.0)
    allowance.refill(RATES, 4.0)
    assert allowance.messages == 0


def test_connections_of_one_address_are_refused_then_dropped() -> None:
    doors = Doors(Limits(connections=10_000, connections_per_address=3))
    assert [doors.enter("1.2.3.4") for _ in range(3)] == [Entry.ADMITTED] * 3
    assert doors.enter("1.2.3.4") is Entry.REFUSED
    assert doors.enter("1.2.3.5") is Entry.ADMITTED
    for _ in range(REFUSED_CONNECTIONS - 1):
        assert doors.enter("1.2.3.4") is Entry.REFUSED
    assert doors.enter("1.2.3.4") is Entry.DROPPED
    doors.check_invariants()
    for _ in range(REFUSED_CONNECTIONS + 1):
        doors.leave("1.2.3.4")
    assert doors.enter("1.2.3.4") is Entry.ADMITTED
    doors.check_invariants()


def test_the_gateway_as_a_whole_has_a_limit_too() -> None:
    doors = Doors(Limits(connections=2, connections_per_address=100))
    assert [doors.enter(str(number)) for number in range(3)] == [
        Entry.ADMITTED,
        Entry.ADMITTED,
        Entry.REFUSED,
    ]
    doors.leave("0")
    doors.leave("1")
    assert doors.enter("9") is Entry.ADMITTED
    doors.check_invariants()


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002/64"),
        ("2001:db8:1:2:ffff::1", "20010db800010002/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80000000000000/64"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_an_ipv6_site_counts_as_one_address(host: str, counted: str) -> None:
    assert counted_as(host) == counted
