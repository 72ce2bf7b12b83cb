"""Conversion by annotation: text to values, checks of typed values, and the words of refusals."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict

import pytest

from connserver.conversion import convert, converter, from_text, to_text, type_name
from connserver.ids import ObjectId, object_id
from connserver.limits import LARGEST_INTEGER
from connserver.model import Siblings, Value

UserName = NewType("UserName", str)


class Point(TypedDict):
    x: float
    y: NotRequired[float]


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        ("5", int, 5),
        ("-0", int, 0),
        ("+7", int, 7),
        (str(LARGEST_INTEGER), int, LARGEST_INTEGER),
        (5.0, int, 5),
        (5, float, 5.0),
        ("5", float, 5.0),
        ("-1.5e3", float, -1500.0),
        (".5", float, 0.5),
        ("true", bool, True),
        ("0", bool, False),
        ("AAE=", bytes, b"\0\1"),
        ("", bytes, b""),
        ("", str, ""),
        ("", None, None),
        (None, None, None),
        ("", int | None, None),
        ("5", int | None, 5),
        ("5", Optional[int], 5),  # noqa: UP045
        ("", str | None, ""),
        (None, str | None, None),
        ("5", int | str, "5"),
        (5, int | str, 5),
        ("5", None | int, 5),
        ("", None | list[int], []),
        (5, float | None, 5.0),
        (5, float | int, 5),
        (["1", "2"], list[int], [1, 2]),
        ("", list[int], []),
        ("7", list[int], [7]),
        ({"x": "1"}, list[dict[str, int]], [{"x": 1}]),
        (Siblings(["1", "2"]), list[int], [1, 2]),
        (Siblings([Siblings(["1", "2"]), "3"]), list[list[int]], [[1, 2], [3]]),
        (["1", "x"], tuple[int, str], [1, "x"]),
        (["1", "2"], tuple[int, ...], [1, 2]),
        ("", dict[str, int], {}),
        ({"a": "1"}, dict[str, int], {"a": 1}),
        ({"a": ["1"]}, dict[str, list[int]], {"a": [1]}),
        ({"x": "1"}, Point, {"x": 1.0}),
        ({"x": "1", "y": 2}, Point, {"x": 1.0, "y": 2.0}),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("x", UserName, "x"),
        ("5", Annotated[int, "a note"], 5),
        ("0001000000000002", ObjectId, object_id(1, 2)),
        ("1:2", ObjectId, object_id(1, 2)),
        ({"a": [1, "x"]}, Any, {"a": [1, "x"]}),
        ([1, "x"], list, [1, "x"]),
        ({"a": 1}, dict, {"a": 1}),
        ([1, "x"], Value, [1, "x"]),
        ("x", object, "x"),
    ],
)
def test_converts(value: Any, annotation: Any, wanted: Any) -> None:
    found = convert(value, annotation)
    assert found == wanted
    assert type(found) is type(wanted)
    assert converter(annotation)(value) == wanted


@pytest.mark.parametrize(
    ("value", "annotation", "reason"),
    [
        ("abc", int, "an integer is wanted, not 'abc'"),
        ("", int, "an integer is wanted"),
        (" 5", int, "an integer is wanted"),
        ("5.0", int, "an integer is wanted"),
        ("٥", int, "an integer is wanted"),
        ("1_000", int, "an integer is wanted"),
        (5.5, int, "an integer is wanted, not a float"),
        (1e300, int, "an integer within"),
        (str(LARGEST_INTEGER + 1), int, "an integer within"),
        ("9" * 5000, int, "an integer is wanted"),
        (True, int, "an integer is wanted, not a boolean"),
        (None, int, "an integer is wanted, not null"),
        ("nan", float, "a number is wanted"),
        ("inf", float, "a number is wanted"),
        ("1e999", float, "a number is wanted"),
        (True, float, "a number is wanted"),
        ("yes", bool, "true or false is wanted"),
        (1, bool, "true or false is wanted, not an integer"),
        (5, str, "text is wanted, not an integer"),
        (None, str, "text is wanted, not null"),
        (Siblings(["a", "b"]), str, "text is wanted, not a repeated element"),
        ("a=", bytes, "base64 is wanted"),
        ("é", bytes, "base64 is wanted"),
        ("x", None, "null is wanted"),
        ("x", int | None, "integer or null is wanted"),
        (5, list[int], "a list of integer is wanted, not an integer"),
        (["1", "x"], list[int], "in item 1, an integer is wanted, not 'x'"),
        ({"a": ["x"]}, dict[str, list[int]], "in 'a', in item 0, an integer is wanted"),
        (["1"], tuple[int, str], "a list of"),
        ("x", dict[str, int], "a map of integer is wanted, not 'x'"),
        (Siblings([{}, {}]), dict[str, int], "a map of integer is wanted, not a repeated element"),
        ({"y": 1}, Point, "'x' is missing"),
        ({"x": 1, "z": 1}, Point, "'z' is unknown"),
        ("c", Literal["a", "b"], "one of 'a', 'b' is wanted"),
        ("1:70000000000000000", ObjectId, "no object id"),
        ("nothing", ObjectId, "no object id"),
        (5, ObjectId, "an object id"),
        (Siblings(["a", "b"]), Any, "given 2 times"),
        ({"x": [{"a": Siblings(["a", "b"])}]}, Any, "the element 'a' is given 2 times"),
    ],
)
def test_refuses_with_what_was_wanted(value: Any, annotation: Any, reason: str) -> None:
    with pytest.raises(ValueError, match="^.*" + reason.replace("(", r"\(")):
        convert(value, annotation)


@pytest.mark.parametrize("annotation", [set[int], complex, dict[int, str], "Player", tuple])
def test_annotations_that_no_client_can_fill_are_refused_at_load(annotation: Any) -> None:
    with pytest.raises(TypeError, match="no annotation"):
        converter(annotation)


def test_type_names_are_for_people() -> None:
    assert type_name(list[int | None]) == "list of integer or null"
    assert type_name(dict[str, bytes]) == "map of base64"
    assert type_name(ObjectId) == "object id"


def test_long_values_are_shortened_in_refusals() -> None:
    with pytest.raises(ValueError, match="is wanted") as raised:
        convert("x" * 60_000, int)
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize("value", ["x", "", True, False, 0, -5, 0.1, 1e300, -0.0, b"", b"\xff"])
def test_leaves_come_back_from_their_text(value: Any) -> None:
    back = from_text(to_text(value), type(value))
    assert (type(back), repr(back)) == (type(value), repr(value))


@pytest.mark.parametrize("value", [[], {}, (1,)])
def test_only_leaves_have_a_text(value: Any) -> None:
    with pytest.raises(TypeError, match="no text form"):
        to_text(value)
