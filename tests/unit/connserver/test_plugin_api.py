"""The public plugin API: what can be imported, what references and results are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import connserver
from connserver import ClientError, Object, Plugin, Ref, Refused, Result
from connserver.errors import PluginLoadError
from connserver.ids import ObjectId
from connserver.model import pack, unpack
from connserver.plugin.values import outgoing


def test_everything_that_is_offered_is_there_and_nothing_else() -> None:
    for name in connserver.__all__:
        assert getattr(connserver, name) is not None and name in dir(connserver)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = connserver.Nothing


def test_importing_connserver_loads_nothing_of_the_plugin_api() -> None:
    code = "import sys, connserver; print([m for m in sys.modules if m.startswith('connserver')])"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert told.stdout.strip() == "['connserver']"


def test_a_reference_is_its_sixteen_digits() -> None:
    ref: Ref[Object] = Ref(ObjectId(0xAB << 48 | 5))
    assert ref == "00ab000000000005" and ref.oid == 0xAB << 48 | 5 and ref.named == ""
    assert Ref("171:5") == ref == Ref(ref) and hash(ref) == hash(Ref("171:5"))
    assert repr(ref) == "Ref('00ab000000000005')" and type(str(ref)) is str
    with pytest.raises(ValueError, match="no object id"):
        Ref("bob")


def test_a_result_travels_whole() -> None:
    error = ClientError("rate_limited", "slowly", retry_after_ms=30)
    for result in (Result({"x": 1}), Result.of(None, Refused("a.b", "no")), Result.of(None, error)):
        assert Result.from_message(result.to_message()) == result
    back = Result.from_message(Result.of(None, error).to_message())
    failure = back.failure()
    assert not back.ok and failure is not None and failure.fields() == error.fields()
    assert Result({"x": 1}).ok and Result({"x": 1})["x"] == 1 and Result(5).failure() is None
    with pytest.raises(KeyError):
        _ = Result(5)["x"]


def test_values_on_their_way_out_are_plain_copies_of_the_model() -> None:
    inner = [1, Ref(5)]
    value: Any = outgoing({"a": inner, "b": (2.5, None, True, b"x")})
    assert value == {"a": [1, "0000000000000005"], "b": [2.5, None, True, b"x"]}
    inner.append(2)
    assert value["a"] == [1, "0000000000000005"] and type(value["a"][1]) is str
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {"b": {1}}]}, r"\.a\[1\]\.b holds a set"),
        ({"a": float("nan")}, "not finite"),
        ({"a b": 1}, "the name 'a b'"),
        ([1 << 60], "2\\^53"),
        ("\ud800", "XML 1.0"),
        (object, "a type"),
    ],
)
def test_what_no_message_can_hold_is_named(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        outgoing(value)


def test_a_plugin_needs_a_name_and_a_version() -> None:
    for name, version in (("Big", "1"), ("", "1"), ("room", "1"), ("game", ""), ("x" * 40, "1")):
        with pytest.raises(PluginLoadError, match=f"{__file__}:"):
            Plugin(name, version=version)
