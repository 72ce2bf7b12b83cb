"""What a process says of itself: log lines (`logs`, written by `lines`) and numbers (`metrics`).

Rule: nothing a client sends can forge a line, fill the disk or grow the set of metrics, and no
secret is written. The metrics' library takes a tenth of a second to import, so it is imported by
the processes that declare metrics and by no command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connserver.telemetry.logs import Logger, RateLimited, configure, describe, get_logger, watch_loop

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

__all__ = [
    "Logger",
    "RateLimited",
    "configure",
    "counter",
    "describe",
    "gauge",
    "get_logger",
    "render",
    "watch_loop",
]


def counter(name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
    """Declare a counter, or get the one of that name; its name ends in `_total`."""
    from connserver.telemetry import metrics

    return metrics.counter(name, help, labels)


def gauge(name: str, help: str, labels: tuple[str, ...] = ()) -> Gauge:
    """Declare a gauge, or get the one of that name."""
    from connserver.telemetry import metrics

    return metrics.gauge(name, help, labels)


def render() -> bytes:
    """All metrics of this process in the text format of Prometheus."""
    from connserver.telemetry import metrics

    return metrics.render()
