"""Arguments: signatures, conversion of references, defaults that are not shared."""

from __future__ import annotations

from typing import Any

import pytest

from connserver import Context, Object, Ref, Result
from connserver.errors import ClientError
from connserver.ids import format_oid, named_id
from connserver.plugin.declare import Place
from partition.arguments import argument_type, read_signature

OID = named_id("user", "bob")
HERE = Place(file="x.py", line=1)


@pytest.mark.parametrize(
    ("annotation", "name", "given", "value"),
    [
        (Ref[Object], "object id", format_oid(OID), Ref(OID)),
        (Ref[Object], "object id", "user:bob", Ref(OID)),
        (Ref, "object id", "1:2", Ref((1 << 48) + 2)),
        (Ref[Object] | None, "object id or null", "", None),
        (Ref[Object] | None, "object id or null", format_oid(OID), Ref(OID)),
        (list[Ref[Object]], "list of object id", [format_oid(OID)], [Ref(OID)]),
        (list[Ref[Object]], "list of object id", "user:bob", [Ref(OID)]),
        (dict[str, Ref[Object]], "map of object id", {"a": format_oid(OID)}, {"a": Ref(OID)}),
        (list[int], "list of integer", ["1", 2], [1, 2]),
    ],
)
def test_references_are_read_from_text(annotation: Any, name: str, given: Any, value: Any) -> None:
    convert, told = argument_type(annotation)
    assert told == name and convert(given) == value


def test_a_user_reference_remembers_the_name() -> None:
    convert, _ = argument_type(Ref[Object])
    assert convert("user:bob").named == "bob"


@pytest.mark.parametrize("given", ["bob", 5, None, "", "user", "65536:1"])
def test_what_is_no_id_is_refused(given: Any) -> None:
    convert, _ = argument_type(Ref[Object])
    with pytest.raises(ValueError):
        convert(given)


def test_defaults_are_given_out_as_copies_and_keyword_only_arguments_work() -> None:
    def play(ctx: Context, me: Object, tags: list[str] = [], *, loud: bool = False) -> Any:  # noqa: B006
        return tags, loud

    signature = read_signature(play, "x.play", HERE, me=True, internal=False)
    positional, keywords = signature.bind({"loud": "true"})
    play(None, None, *positional, **keywords)[0].append("x")  # type: ignore[arg-type]
    assert signature.bind({}) == ([[]], {"loud": False})
    assert keywords == {"loud": True}


def test_what_follows_the_result_is_passed_by_name() -> None:
    def settle(ctx: Context, me: Object, thing: str, result: Result, price: int = 1) -> Any:
        return thing, result, price

    signature = read_signature(settle, "x.settle", HERE, me=True, internal=True)
    ok = Result(1)
    positional, keywords = signature.bind_internal({"thing": "a", "price": 2, "other": 3}, ok)
    assert settle(None, None, *positional, **keywords) == ("a", ok, 2)  # type: ignore[arg-type]
    with pytest.raises(ClientError, match="use it as `then`"):
        signature.bind_internal({"thing": "a"}, None)
