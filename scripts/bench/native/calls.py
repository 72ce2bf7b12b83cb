"""What a call into a C++ plugin costs above the same call into an empty Python callback.

    python scripts/bench/native/calls.py

Both go through the dispatcher, in one process and one transaction each; µs per call, the best of several
rounds in turn, so that a busy machine counts less.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from connserver import Context, Object, Plugin
from connserver.ids import named_id
from connserver.native.build import build_plugin
from partition.assembly import assemble
from partition.dispatch import Dispatcher
from partition.effects import Caller
from partition.loader import load_plugin
from partition.objects import Store

CALLS = 250
ROUNDS = 200
FIELDS = {"echo.take": {"text": "a few words", "number": 17}}
METHODS = ("nothing", "take", "answer", "read", "write")


def in_python() -> Plugin:
    """The same plugin in Python."""
    plugin = Plugin("echo", version="1.0.0")

    @plugin.kind("counter")
    class Counter(Object):
        count: int = 0
        name: str = "somebody"
        bag: list[str] = []  # noqa: RUF012

    @plugin.method("echo.nothing")
    def nothing(ctx: Context, me: Object) -> None: ...

    @plugin.method("echo.take")
    def take(ctx: Context, me: Object, text: str, number: int) -> None: ...

    @plugin.method("echo.answer")
    def answer(ctx: Context, me: Object) -> dict[str, str]:
        return {"text": "hi"}

    def read(ctx: Context, me: Object) -> dict[str, int]:
        return {"count": me.count}  # type: ignore[attr-defined]

    def write(ctx: Context, me: Object) -> None:
        me.count += 1  # type: ignore[attr-defined]

    # the class is of this function, where annotations as text would not find it
    for function in (read, write):
        function.__annotations__["me"] = Counter
        plugin.method(f"echo.{function.__name__}")(function)
    return plugin


def caller_of(plugin: Plugin) -> Callable[[str], float]:
    """A function that gives the µs of one call of a method."""
    dispatcher = Dispatcher(
        Store(), assemble([plugin]), random=random.Random(1), on_incident=lambda number, text: print(text)
    )
    oid = named_id("user", "ann")
    dispatcher.open_user(oid, "ann")
    caller = Caller(user=oid, session=1, name="ann", roles=frozenset())

    def measure(method: str) -> float:
        fields = FIELDS.get(method, {})
        begun = time.perf_counter()
        for _ in range(CALLS):
            outcome = dispatcher.call(method, fields, me=oid, caller=caller, now=1.0)
        took = time.perf_counter() - begun
        assert outcome.error is None, outcome.error
        return took / CALLS * 1e6

    return measure


def main() -> int:
    """Build, measure, print a table."""
    folder = Path(__file__).parent
    build_plugin(folder, "libecho.so")
    python, native = caller_of(in_python()), caller_of(load_plugin(folder))
    print(f"{'method':8}  {'Python':>7}  {'C++':>7}  {'more':>7}  µs per call, dispatch included")
    for name in METHODS:
        method = f"echo.{name}"
        rounds = [(python(method), native(method)) for _ in range(ROUNDS)]
        slow, fast = min(one for one, _ in rounds), min(one for _, one in rounds)
        print(f"{name:8}  {slow:7.2f}  {fast:7.2f}  {fast - slow:+7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
