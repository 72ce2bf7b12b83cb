"""Numbers of a process that Prometheus reads, by prometheus_client.

Guards two rules. Every series says which process of the cluster it is of, without each metric
having to. And a label is never a client's word: label values come from fixed sets in our code, so
that nobody can grow the set of series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from connserver.telemetry import logs


@cache
def registry() -> CollectorRegistry:
    """This process's metrics, with what every process can say of itself (CPU time, memory, files)."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    suppressed = Gauge("connserver_log_suppressed", "Log lines left out by rate limiting.", registry=made)
    suppressed.set_function(lambda: logs.LeftOut.suppressed)
    lost = Gauge("connserver_log_lost", "Log lines that could not be written.", registry=made)
    lost.set_function(lambda: logs.LeftOut.lost)
    return made


@cache
def counter(name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
    """Declare a counter, or get the one of that name; its name ends in `_total`."""
    return Counter(name, help, labels, registry=registry())


@cache
def gauge(name: str, help: str, labels: tuple[str, ...] = ()) -> Gauge:
    """Declare a gauge, or get the one of that name."""
    return Gauge(name, help, labels, registry=registry())


class _Identified(Collector):
    """The registry's metrics with the process's labels on each sample."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        """What a scrape shows."""
        for metric in self._collect():
            metric.samples = [
                sample._replace(labels={**logs.identity, **sample.labels}) for sample in metric.samples
            ]
            yield metric


def render() -> bytes:
    """All metrics of this process in the text format of Prometheus."""
    shown = CollectorRegistry(auto_describe=False)
    shown.register(_Identified(registry().collect))
    return generate_latest(shown)
