"""The store: images, live objects, lists by kind and partition, indexes that follow every image."""

from __future__ import annotations

from typing import Any, ClassVar

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver import Object, Plugin, transient
from connserver.ids import object_id
from connserver.messages import Image
from partition.assembly import assemble
from partition.objects import Store

plugin = Plugin("stage", version="1")


@plugin.kind("pet", index=["colour"], unique=["name"])
class Pet(Object):
    colour: str = "grey"
    name: str | None = None
    mood: int = transient(0)
    legs: ClassVar[int] = 4

    @property
    def calm(self) -> bool:
        return self.mood == 0


@plugin.kind("toy")
class Toy(Object):
    colour: str = "red"


TABLE = assemble([plugin])
PET = TABLE.kinds.by_name["pet"]


def oid(number: int, partition: int = 3) -> int:
    return object_id(partition, (1 << 20) + number)


def image(number: int, kind: str = "pet", partition: int = 3, **fields: Any) -> Image:
    return Image(oid(number, partition), kind, 1, msgpack.packb(fields))


@pytest.fixture
def store() -> Store:
    store = Store()
    store.bind(TABLE.kinds)
    return store


def test_images_come_in_the_order_of_ids_and_system_kinds_are_never_live(store: Store) -> None:
    store.load([image(2), image(1, "toy"), image(3, "cs.session"), image(1, partition=2)])
    assert [one.oid for one in store.images()] == [oid(1, 2), oid(1), oid(2), oid(3)]
    assert [one.oid for one in store.images("pet")] == [oid(1, 2), oid(2)]
    assert len(store) == 4 and oid(2) in store and oid(9) not in store
    assert store.live(oid(3)) is None and store.live(oid(9)) is None
    assert store.partitions("pet") == [2, 3] and store.schemas() == {"pet": {1}, "toy": {1}}


def test_a_live_object_is_dropped_when_another_image_is_put(store: Store) -> None:
    store.put(image(1, colour="red"))
    live = store.live(oid(1))
    assert live is not None and store.live(oid(1)) is live
    store.put(image(1, colour="blue"))
    assert store.live(oid(1)).__dict__["colour"] == "blue"
    store.put(Image(oid(1), "pet", 1, None))
    assert store.live(oid(1)) is None and store.image(oid(1)) is None
    store.check_invariants()


def test_an_object_changed_outside_of_a_callback_is_found(store: Store) -> None:
    store.put(image(1, colour="red"))
    pet: Any = store.live(oid(1))
    pet.mood = 5
    store.check_invariants()
    pet.colour = "blue"
    with pytest.raises(AssertionError, match=r"changed outside of a callback.*keep a Ref"):
        store.check_invariants()


def test_the_index_is_made_when_asked_for_and_follows_then(store: Store) -> None:
    store.load([image(1, colour="red"), image(2), image(1, partition=4, colour="red")])
    index = store.index(PET)
    assert index.holders("colour", "red", 3) == {oid(1)} and index.holders("colour", "grey", 3) == {oid(2)}
    assert sorted(index.partitions("colour", "red")) == [3, 4]
    store.put(image(2, colour="red"))
    assert index.holders("colour", "red", 3) == {oid(1), oid(2)}
    store.put(image(1, "toy", colour="red"))
    assert index.holders("colour", "red", 3) == {oid(2)}
    store.put(Image(oid(2), "pet", 1, None))
    assert index.holders("colour", "red", 3) == set() and list(index.partitions("colour", "red")) == [4]
    store.check_invariants()


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["pet", "toy", "cs.room"]),
        st.sampled_from([3, 4]),
        st.sampled_from(["red", "grey", None]),
    ),
    max_size=20,
)


@given(CHANGES)
def test_lists_and_indexes_stay_right_whatever_is_put(changes: Any) -> None:
    store = Store()
    store.bind(TABLE.kinds)
    store.index(PET)
    model: dict[int, Image] = {}
    for number, kind, partition, colour in changes:
        put = image(number, kind, partition, colour=colour)
        if colour is None:
            put = Image(put.oid, kind, 1, None)
            model.pop(put.oid, None)
        else:
            model[put.oid] = put
        store.put(put)
        store.check_invariants()
    assert list(store.images()) == [model[one] for one in sorted(model)]
    for colour in ("red", "grey"):
        expected = {
            one.oid
            for one in model.values()
            if one.kind == "pet" and one.oid >> 48 == 3 and msgpack.unpackb(one.data)["colour"] == colour
        }
        assert store.index(PET).holders("colour", colour, 3) == expected


def test_an_interrupted_opening_of_a_range_leaves_nothing(store: Store) -> None:
    mark = store.mark_ids(3)
    store.allocate(3)
    store.reset_ids(3, mark)
    assert len(store) == 0 and store.allocate(3)[0] == 1 << 20
    store.check_invariants()


def test_transient_fields_outlive_a_reload_of_the_plugin(store: Store) -> None:
    store.put(image(1, colour="red"))
    pet: Any = store.live(oid(1))
    pet.mood = 5
    newer = Plugin("stage", version="2")

    class Pet2(Object):
        colour: str = "grey"
        mood: int = transient(0)
        speed: float = transient(1.0)

    newer.kind("pet")(Pet2)
    store.bind(assemble([newer]).kinds)
    assert store.live(oid(1)).__dict__ == {"colour": "red", "mood": 5, "speed": 1.0}
    assert dict(store.transients()) == {oid(1): {"mood": 5, "speed": 1.0}}
    other = Store()
    other.bind(TABLE.kinds)
    other.put(image(1, colour="red"))
    other.restore_transients(oid(1), {"mood": 7, "speed": 2.0})
    other.restore_transients(oid(2), {"mood": 7})
    assert other.live(oid(1)).__dict__["mood"] == 7
    other.restore_transients(oid(1), {"mood": "bad"})
    assert other.live(oid(1)).__dict__["mood"] == 7


def test_classes_may_have_more_than_fields(store: Store) -> None:
    store.put(image(1))
    pet: Any = store.live(oid(1))
    assert set(PET.fields) == {"colour", "name", "mood"} and pet.legs == 4 and pet.calm
