"""Deaths of workers, counted from the log."""

from connserver.ids import local_of, partition_of
from partition.objects import Store
from partition.suspects import SUSPECTS, Suspects, count

FIRST = 16_384


def test_two_deaths_under_one_source_quarantine_it() -> None:
    store = Store()
    count(store, FIRST, [[11, 1, 7]], 5)
    known = Suspects(store).get(11, 1, 7)
    assert known is not None and (known.deaths, known.quarantined) == (1, False)
    count(store, FIRST, [[11, 1, 7]], 9)
    again = Suspects(store).get(11, 1, 7)
    assert again is not None and again.quarantined
    assert Suspects(store).get(11, 1, 8) is None


def test_a_tick_is_counted_and_never_set_aside() -> None:
    store = Store()
    for op in (1, 2, 3):
        count(store, FIRST, [[0, 0, 0]], op)
    tick = Suspects(store).get(0, 0, 0)
    assert tick is not None and tick.deaths == 3 and not tick.quarantined


def test_every_replica_counts_alike_and_what_was_counted_is_an_object() -> None:
    one, other = Store(), Store()
    for op in range(1, 100):
        images = count(one, FIRST, [[1, 1, op], [1, 2, op % 5]], op)
        for image in images:
            assert partition_of(image.oid) == FIRST and local_of(image.oid) < 1 << 20
            other.put(image)
        assert list(one.images()) == list(other.images())


def test_the_one_suspected_longest_ago_makes_room() -> None:
    store = Store()
    for number in range(1, SUSPECTS + 1):
        count(store, FIRST, [[1, 1, number]], number)
    count(store, FIRST, [[1, 1, 1]], 100)
    count(store, FIRST, [[1, 1, 101]], 101)
    suspects = Suspects(store)
    assert len(suspects.all()) == SUSPECTS and suspects.any
    assert suspects.get(1, 1, 2) is None
    for number in (1, 3, 101):
        assert suspects.get(1, 1, number) is not None


def test_nothing_is_known_of_a_group_in_which_nobody_died() -> None:
    assert not Suspects(Store()).any
