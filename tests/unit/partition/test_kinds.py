"""Kinds: stored form, migrations, and what a stored object is when fields come and go."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import msgpack
import pytest

from connserver import Object, Plugin, Ref, transient
from connserver.errors import PluginLoadError
from connserver.ids import format_oid, object_id
from connserver.messages import Image
from partition.assembly import assemble
from partition.fields import field_type
from partition.kinds import Kind
from partition.objects import Store

OID = object_id(7, 1 << 21)


class Spot(TypedDict):
    x: float
    owner: Ref[Object] | None


def kind_of(schema: int, up: bool = True, down: bool = True) -> Kind:
    """The kind "pet" in a schema: 1 has `name`, 2 `title`, 3 `title` in capitals."""
    plugin = Plugin("pets", version="1")

    class Pet(Object):
        title: str = "?"
        age: int = 0
        mood: str = transient("calm")

    plugin.kind("pet", schema=schema)(Pet)

    def renamed(fields: dict[str, Any]) -> dict[str, Any]:
        return {"title": fields["name"], "age": fields.get("age", 0)}

    def loud(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "title": fields["title"].upper()}

    def quiet(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "title": fields["title"].lower()}

    if up and schema >= 2:
        plugin.migrate(Pet, to=2)(renamed)
    if up and schema >= 3:
        plugin.migrate("pet", to=3)(loud)
    if down and schema <= 2:
        plugin.migrate(Pet, to=2, down=True)(quiet)
    return assemble([plugin]).kinds.by_name["pet"]


def image(schema: int, **fields: Any) -> Image:
    return Image(OID, "pet", schema, msgpack.packb(fields))


def test_objects_migrate_step_by_step_when_they_are_read() -> None:
    assert kind_of(3).load(image(1, name="rex", age=4)).__dict__ == {"title": "REX", "age": 4, "mood": "calm"}
    assert kind_of(2).load(image(1, name="rex")).__dict__ == {"title": "rex", "age": 0, "mood": "calm"}
    assert kind_of(2).load(image(3, title="REX", age=4)).__dict__["title"] == "rex"
    named = kind_of(2).load(image(1, name="rex", **{"cs.name": "rex-of-ann"}))
    assert named.named == "rex-of-ann"


def test_without_the_way_nothing_is_read_and_attaching_is_refused_beforehand() -> None:
    for kind, stored in ((kind_of(3, up=False), 1), (kind_of(2, down=False), 3), (kind_of(1), 3)):
        with pytest.raises(PluginLoadError, match=f"stored in schema {stored}.*migrate"):
            kind.load(image(stored, title="x", name="x"))
    store = Store()
    store.put(image(1, name="x"))
    table = assemble([])
    table.refuse_unreadable(store)
    table.kinds.by_name["pet"] = kind_of(3, up=False)
    with pytest.raises(PluginLoadError, match="nothing was changed"):
        table.refuse_unreadable(store)


def test_a_migration_that_gives_no_fields_is_named() -> None:
    plugin = Plugin("pets", version="1")

    class Pet(Object):
        title: str = ""

    plugin.kind("pet", schema=2)(Pet)
    plugin.migrate(Pet, to=2)(lambda fields: None)
    with pytest.raises(PluginLoadError, match=r"migrate\('pet', to=2\) returned a NoneType"):
        assemble([plugin]).kinds.by_name["pet"].load(image(1))


def test_fields_that_came_get_their_default_and_those_that_went_are_left_out() -> None:
    kind = kind_of(2)
    pet = kind.load(image(2, colour="red", age=3))
    assert pet.__dict__ == {"title": "?", "age": 3, "mood": "calm"}
    assert msgpack.unpackb(kind.pack(pet)) == {"title": "?", "age": 3}


def test_a_stored_value_of_another_type_asks_for_a_migration() -> None:
    with pytest.raises(
        PluginLoadError, match=f"{format_oid(OID)}.*'age': an integer is wanted.*raise the schema"
    ):
        kind_of(2).load(image(2, title="x", age="old"))


VALUES: list[tuple[Any, Any]] = [
    (str, "a"),
    (int, 2**53 - 1),
    (float, 1.5),
    (float, 3),
    (bool, True),
    (bytes, b"\0\xff"),
    (str | None, None),
    (Ref[Object], Ref(OID)),
    (Ref[Object] | None, Ref(OID)),
    (list[Ref[Object]], [Ref(OID)]),
    (dict[str, Ref[Object]], {"a": Ref(OID)}),
    (Spot, {"x": 1.0, "owner": Ref(OID)}),
    (list[Spot], [{"x": 1.0, "owner": None}]),
    (Literal["a", 1], 1),
    (list, [1, "a", None, [True]]),
    (dict, {"a": {"b": 1.5}}),
    (Any, [b"x"]),
    (str | Ref[Object], "text"),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES)
def test_values_come_back_as_they_were(annotation: Any, value: Any) -> None:
    prepared = field_type(annotation)
    prepared.check(value)
    stored = msgpack.unpackb(msgpack.packb(value))
    back = prepared.revive(stored) if prepared.revive else stored
    assert back == value and repr(back) == repr(value)
    prepared.check(back)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (set[str], "set.*cannot be kept; write list"),
        (tuple[int, int], "write list"),
        (dict[int, str], "keys of a map are text"),
        (Object, r"write Ref\[Object\]"),
        (complex, "fields are str, int"),
    ],
)
def test_annotations_that_cannot_be_kept_say_what_to_write(annotation: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        field_type(annotation)


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (int, True, "an integer is wanted, not a boolean"),
        (list[int], (1,), "a list of integer"),
        (list[list[int]], [[1], [None]], "in item 1, in item 0, an integer"),
        (dict[str, int], {"a": "b"}, "in 'a', an integer"),
        (dict[str, int], {5: 1}, "no name for a member"),
        (Spot, {"x": 1.0}, "'owner' is missing"),
        (Spot, {"x": 1.0, "owner": None, "z": 1}, "'z' is no member"),
        (Literal["a", 1], True, "one of 'a', 1"),
        (int | None, "a", "integer or None"),
        (bytes, "a", "bytes is wanted"),
        (Any, {"a": object()}, "a object|an object"),
        (Ref[Object], format_oid(OID), "a Ref is wanted"),
    ],
)
def test_values_that_do_not_fit_say_where(annotation: Any, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        field_type(annotation).check(value)
