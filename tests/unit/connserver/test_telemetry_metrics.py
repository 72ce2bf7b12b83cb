"""Metrics: what is rendered is what Prometheus reads, and every series says whose it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from connserver import telemetry
from connserver.telemetry import logs, metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "identity", {})
    for made in (metrics.registry, metrics.counter, metrics.gauge):
        made.cache_clear()
    yield
    for made in (metrics.registry, metrics.counter, metrics.gauge):
        made.cache_clear()


def read(text: bytes) -> Samples:
    """Samples by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_counters_and_gauges() -> None:
    frames = telemetry.counter("frames_total", "Frames.", ("encoding",))
    frames.labels("xml").inc()
    frames.labels("xml").inc(2)
    frames.labels("json").inc(0.5)
    clients = telemetry.gauge("clients", "Clients.")
    clients.set(5)
    clients.dec(2)
    found = read(telemetry.render())
    assert found["frames_total", (("encoding", "xml"),)] == 3
    assert found["frames_total", (("encoding", "json"),)] == 0.5
    assert found["clients", ()] == 3


def test_every_series_names_its_process() -> None:
    logs.identity.update(role="worker", node="n1", process="w-n1-0")
    telemetry.counter("frames_total", "Frames.", ("encoding",)).labels("xml").inc()
    labels = (("encoding", "xml"), ("node", "n1"), ("process", "w-n1-0"), ("role", "worker"))
    found = read(telemetry.render())
    assert found["frames_total", labels] == 1
    assert all(("process", "w-n1-0") in pairs for _, pairs in found)
    assert ("process_cpu_seconds_total", labels[1:]) in found


def test_declaring_twice_gives_the_same_metric() -> None:
    assert telemetry.counter("a_total", "A.") is telemetry.counter("a_total", "A.")
    with pytest.raises(ValueError, match="Duplicated"):
        telemetry.gauge("a_total", "A gauge now.")


def test_what_the_log_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.LeftOut, "lost", 7)
    assert read(telemetry.render())["connserver_log_lost", ()] == 7
