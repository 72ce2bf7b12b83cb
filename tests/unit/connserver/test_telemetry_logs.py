"""Log lines: one record one line whatever is in it, no secrets, a bounded rate, everything caught."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import shlex
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connserver import telemetry
from connserver.telemetry.lines import json_line, logfmt, prepare, scrub, timestamp
from connserver.telemetry.logs import RateLimited

HEAD = {"time": "T", "level": "info", "node": "n1", "process": "w-n1-0", "event": "x.y"}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    root.handlers[:], level, sys.excepthook, threading.excepthook, sys.unraisablehook = before
    root.setLevel(level)
    logging.captureWarnings(False)


def configured(**options: Any) -> io.StringIO:
    stream = io.StringIO()
    telemetry.configure(role="worker", node="n1", name="w-n1-0", stream=stream, **options)
    return stream


def only_line(stream: io.StringIO) -> dict[str, Any]:
    """The one JSON line that was written."""
    lines = stream.getvalue().splitlines(keepends=True)
    assert len(lines) == 1, lines
    assert lines[0].endswith("\n")
    return dict(json.loads(lines[0]))


def test_a_logfmt_line() -> None:
    stream = configured()
    telemetry.get_logger("a").bind(group=3).info("group.promoted", view=7, reason="n2 is silent", quick=True)
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info node=n1 process=w-n1-0 "
        r'event=group\.promoted group=3 view=7 reason="n2 is silent" quick=true\n',
        stream.getvalue(),
    )


def test_a_json_line() -> None:
    stream = configured(format="json")
    telemetry.get_logger("a").warning("disk.slow", took_ms=12.5, files=["a", "b"], of={"x": None})
    line = only_line(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "node": "n1",
        "process": "w-n1-0",
        "event": "disk.slow",
        "took_ms": 12.5,
        "files": ["a", "b"],
        "of": {"x": None},
    }


def test_times_are_utc_with_milliseconds() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1_700_000_000.9999) == "2023-11-14T22:13:20.999Z"


def test_the_level_decides() -> None:
    stream = configured(level="warning")
    log = telemetry.get_logger("a")
    log.debug("a"), log.info("b")
    assert stream.getvalue() == ""
    log.warning("c"), log.error("d")
    assert stream.getvalue().count("\n") == 2


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.binary(), st.floats(), st.integers()), max_size=5))
def test_no_field_can_end_a_line_or_drive_a_terminal(fields: dict[str, Any]) -> None:
    for line in (logfmt(HEAD, prepare(fields)), json_line(HEAD, prepare(fields))):
        assert line.isprintable()
        assert line.encode("utf-8")


@given(st.text(), st.text())
def test_no_field_can_pass_for_another(key: str, value: str) -> None:
    parts = shlex.split(logfmt(HEAD, prepare({key: "1", "user": value, "end": 2})).replace("\\u", "u"))
    assert [part.split("=")[0] for part in parts][:5] == list(HEAD)
    assert len(parts) in (len(HEAD) + 2, len(HEAD) + 3)
    parsed = json.loads(json_line(HEAD, prepare({"user": value})))
    assert parsed["user"] == (scrub(value) if len(value) <= 2_000 else parsed["user"])


def test_the_head_cannot_be_forged() -> None:
    stream = configured(format="json")
    telemetry.get_logger("a").info("login", node="n9", level="error", time="now", **{"a b\n=": 1})
    line = only_line(stream)
    assert (line["node"], line["node_"], line["level"], line["level_"]) == ("n1", "n9", "info", "error")
    assert line["a_b__"] == 1


def test_secrets_are_not_written() -> None:
    stream = configured()
    telemetry.get_logger("a").info(
        "login",
        token="hunter2",
        auth_secret="hunter2",
        Password="hunter2",
        dsn="host=x password=hunter2",
        resume="hunter2",
        nested={"jwt": "hunter2", "list": [{"db.password": "hunter2"}]},
        text="could not connect: host=db password='hunter2 hunter2' port=5",
        uri="postgresql://me:hunter2@db/cs",
        secret_file="/etc/secret",
        resume_window_s=120,
    )
    assert "hunter2" not in stream.getvalue()
    assert "secret_file=/etc/secret resume_window_s=120" in stream.getvalue()


def test_secrets_in_tracebacks_are_not_written() -> None:
    stream = configured()
    try:
        raise RuntimeError("connection to postgresql://me:hunter2@db failed, password=hunter2 is wrong")
    except RuntimeError:
        telemetry.get_logger("a").exception("storage.lost")
    assert "RuntimeError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_lines_are_bounded() -> None:
    deep: Any = "x"
    for _ in range(50):
        deep = [deep] * 2 if len(str(deep)) < 1_000 else [deep]
    fields = {"text": "x" * 100_000, "blob": b"\0" * 100_000, "many": list(range(100_000)), "deep": deep}
    for write in (logfmt, json_line):
        assert len(write(HEAD, prepare({**fields, **{f"f{n}": n for n in range(1_000)}}))) < 40_000
    assert prepare({f"f{n}": n for n in range(100)})["fields_left_out"] == 60
    assert len(json_line(HEAD, prepare({"number": 10**5_000}))) < 5_000


def test_a_value_that_cannot_be_shown_does_no_harm() -> None:
    class Bad:
        def __str__(self) -> str:
            raise KeyError("no")

    assert prepare({"bad": Bad()}) == {"bad": "<Bad: KeyError in str()>"}


def test_an_exception_is_one_line_with_its_traceback() -> None:
    stream = configured(format="json")
    try:
        int("x\nlevel=error")
    except ValueError:
        telemetry.get_logger("a").exception("bad.number", at=3)
    line = only_line(stream)
    assert line["exception"].startswith("ValueError: invalid literal")
    assert "test_an_exception_is_one_line" in line["traceback"]
    assert (line["event"], line["level"], line["at"]) == ("bad.number", "error", 3)


def test_libraries_and_warnings_write_the_same_lines() -> None:
    stream = configured(format="json")
    logging.getLogger("some.library").warning("said %s\n%d", "this", 5)
    logging.getLogger("some.library").warning("wrong %d", "format")
    warnings.warn("careful", stacklevel=1)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0]["event"] == "library.some.library"
    assert lines[0]["message"] == "said this\n5"
    assert "wrong %d" in lines[1]["message"]
    assert "careful" in lines[2]["message"]


def test_uncaught_exceptions_are_logged() -> None:
    stream = configured(format="json")
    error = ValueError("unforeseen")
    sys.excepthook(ValueError, error, None)
    thread = threading.Thread(target=lambda: 1 / 0, name="archiver")
    thread.start()
    thread.join()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["process.exception", "thread.exception"]
    assert lines[0]["exception"] == "ValueError: unforeseen"
    assert lines[1]["thread"] == "archiver"


def test_exceptions_in_a_loop_are_logged() -> None:
    stream = configured(format="json")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        telemetry.watch_loop(loop)
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    asyncio.run(main())
    line = only_line(stream)
    assert (line["event"], line["exception"]) == ("loop.exception", "ZeroDivisionError: division by zero")


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    telemetry.configure(role="worker", node="n1", name="w-n1-0", stream=writing)
    telemetry.get_logger("a").info("x")
    os.close(writing)
    telemetry.get_logger("a").info("x")
    assert b"connserver_log_lost" in telemetry.render()


def test_lines_go_to_a_descriptor_whole() -> None:
    reading, writing = os.pipe()
    telemetry.configure(role="worker", node="n1", name="w-n1-0", stream=writing)
    telemetry.get_logger("a").info("x", text="ä\ud800")
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert stream.read().endswith('event=x text="ä\\ud800"\n'.encode())


class Noise:
    """A rate-limited logger with a clock in the test's hand."""

    def __init__(self, per_s: float = 1.0, burst: int = 3) -> None:
        self.now = 100.0
        self.stream = configured(format="json")
        self.log = RateLimited(telemetry.get_logger("a"), per_s=per_s, burst=burst, clock=lambda: self.now)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_noise_is_counted_and_reported_with_the_next_line() -> None:
    noise = Noise()
    for number in range(10):
        noise.log.warning("frame.refused", number=number)
    assert [line["number"] for line in noise.lines()] == [0, 1, 2]
    noise.now += 1
    noise.log.warning("frame.refused", number=10)
    noise.now += 1
    noise.log.warning("frame.refused", number=11)
    assert [line.get("suppressed") for line in noise.lines()] == [None, None, None, 7, None]


def test_one_kind_of_noise_does_not_hide_another() -> None:
    noise = Noise()
    for _ in range(10):
        noise.log.warning("frame.refused")
    noise.log.warning("login.refused")
    assert noise.lines()[-1]["event"] == "login.refused"


def test_noise_is_bounded_however_the_events_are_called() -> None:
    noise = Noise(per_s=0.001, burst=1)
    for number in range(10_000):
        noise.log.info(f"event.{number}")
    assert len(noise.lines()) <= 257
