"""Loggers of a process: events with fields, one format for everything that is written.

Guards one rule: whatever a process has to say, a library's warning and an uncaught exception
included, comes out as one line of the configured format. Made on the standard `logging` (22 ms to
import, needed by asyncio anyway; structlog takes 340 ms, in each of some twenty processes).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from asyncio import AbstractEventLoop
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TextIO

from connserver.telemetry.lines import json_line, logfmt, prepare, timestamp

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
STDERR: Final = 2
NOISE_EVENTS: Final = 256
"""Kinds of noise told apart; event names are fixed words, so more than this is a mistake."""


class LeftOut:
    """Lines that are not in the log: by rate limiting, and because they could not be written."""

    suppressed = 0
    lost = 0


identity: dict[str, str] = {}
"""Which process this is; the labels of all its metrics."""


class Logger:
    """Writes events of one module; `bind` gives one that adds the same fields to every line."""

    __slots__ = ("_bound", "_logger")

    def __init__(self, logger: logging.Logger, bound: dict[str, Any]) -> None:
        self._logger = logger
        self._bound = bound

    def bind(self, **fields: Any) -> Logger:
        """A logger whose lines also have these fields."""
        return Logger(self._logger, {**self._bound, **fields})

    def debug(self, event: str, /, **fields: Any) -> None:
        """For whoever develops ConnServer or a plugin."""
        self.log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Something that changed, as it should."""
        self.log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Something that was dealt with, but should not go on."""
        self.log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Something that failed, and that someone must look into."""
        self.log(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """An error with the traceback of the exception being handled."""
        self.log(logging.ERROR, event, fields, sys.exc_info()[1])

    def log(
        self, level: int, event: str, fields: dict[str, Any], exception: BaseException | None = None
    ) -> None:
        """Write an event; `event` is a fixed dotted word, facts go into the fields."""
        if not self._logger.isEnabledFor(level):
            return
        info = None if exception is None else (type(exception), exception, exception.__traceback__)
        extra = {"connserver_fields": {**self._bound, **fields}}
        self._logger.log(level, "%s", event, extra=extra, exc_info=info)


def get_logger(name: str) -> Logger:
    """The logger of a module."""
    return Logger(logging.getLogger(name), {})


class RateLimited:
    """A logger for what a client can cause: each event has a bucket, and what overflows is counted.

    The next line of that event that is written says `suppressed=N`, and the sum is a metric.
    """

    def __init__(
        self,
        log: Logger,
        *,
        per_s: float = 1.0,
        burst: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float, int]] = {}

    def debug(self, event: str, /, **fields: Any) -> None:
        """As Logger.debug, within the rate."""
        self._limited(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """As Logger.info, within the rate."""
        self._limited(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """As Logger.warning, within the rate."""
        self._limited(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """As Logger.error, within the rate."""
        self._limited(logging.ERROR, event, fields)

    def _limited(self, level: int, event: str, fields: dict[str, Any]) -> None:
        key = event if event in self._buckets or len(self._buckets) < NOISE_EVENTS else ""
        now = self._clock()
        left, since, suppressed = self._buckets.get(key, (float(self._burst), now, 0))
        left = min(self._burst, left + (now - since) * self._per_s)
        if left < 1:
            self._buckets[key] = (left, now, suppressed + 1)
            LeftOut.suppressed += 1
            return
        self._buckets[key] = (left - 1, now, 0)
        self._log.log(level, event, {**fields, "suppressed": suppressed} if suppressed else fields)


class LineFormatter(logging.Formatter):
    """A record of anyone as a line of ours."""

    def __init__(self, node: str, process: str, form: str) -> None:
        super().__init__()
        self._node = node
        self._process = process
        self._write = json_line if form == "json" else logfmt

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] | None = getattr(record, "connserver_fields", None)
        if fields is None:  # a library's record: its text is a fact, its logger's name the event
            fields, event = {"message": _message(record)}, f"library.{record.name}"
        else:
            event = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        if record.exc_info and record.exc_info[1] is not None:
            fields = {**fields, **describe(record.exc_info[1])}
        head = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "node": self._node,
            "process": self._process,
            "event": event,
        }
        return self._write(head, prepare(fields))


def describe(exception: BaseException) -> dict[str, str]:
    """An exception as fields: its last line, and the traceback."""
    last = traceback.format_exception_only(exception)[-1].strip()
    lines = traceback.format_exception(exception, limit=-50)
    return {"exception": last, "traceback": "".join(lines)}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a library's wrong format string is no reason to lose its line
        return f"{record.msg!s} {record.args!r}"


class LineHandler(logging.Handler):
    """Writes each line at once: to a file descriptor with one call, so that processes that share a
    file or a pipe do not mix their lines."""

    def __init__(self, stream: TextIO | int) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write, or count the line as lost: logging never ends a process."""
        try:
            line = self.format(record) + "\n"
            if isinstance(self._stream, int):
                _write_all(self._stream, line.encode("utf-8", "backslashreplace"))
            else:
                self._stream.write(line)
                self._stream.flush()
        except Exception:
            LeftOut.lost += 1


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def configure(
    *,
    role: str,
    node: str,
    name: str,
    format: str = "logfmt",
    level: str = "info",
    stream: TextIO | int | None = None,
) -> None:
    """Set up this process's log (standard error unless told), and its identity in metrics.

    `role` is what the process is (`worker`), `name` which one (`w-n1-0`). May be called again.
    """
    handler = LineHandler(STDERR if stream is None else stream)
    handler.setFormatter(LineFormatter(node, name, format))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    # What asyncio says at debug level is of use to its own developers only.
    logging.getLogger("asyncio").setLevel(max(LEVELS[level], logging.INFO))
    logging.captureWarnings(True)
    identity.update(role=role, node=node, process=name)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


_LOG = get_logger("connserver.telemetry")


def watch_loop(loop: AbstractEventLoop) -> None:
    """Have a loop log what its callbacks and forgotten tasks raise."""
    loop.set_exception_handler(_uncaught_in_loop)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _LOG.log(logging.ERROR, "process.exception", {}, error.with_traceback(trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        thread = args.thread.name if args.thread is not None else ""
        _LOG.log(logging.ERROR, "thread.exception", {"thread": thread}, args.exc_value)


def _unraisable(args: Any) -> None:
    fields = {"message": args.err_msg or "exception ignored", "object": repr(args.object)[:200]}
    _LOG.log(logging.ERROR, "process.unraisable", fields, args.exc_value)


def _uncaught_in_loop(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    fields = {key: value for key, value in context.items() if key in ("message", "task", "future", "handle")}
    _LOG.log(logging.ERROR, "loop.exception", fields, context.get("exception"))
