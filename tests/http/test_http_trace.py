"""What is told of an HTTP failover: one span, a log line per step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from http_lab import NAME, Names, Shell, Upstream, facts
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilient import Settings
from resilient.telemetry import otel

Run = Callable[..., list[Upstream]]


class Exporter(InMemorySpanExporter):
    """Remembers on which threads it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def export(self, spans: object) -> SpanExportResult:
        self.threads.add(threading.current_thread().name)
        return super().export(spans)  # type: ignore[arg-type]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    exporter = Exporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def steps(span: ReadableSpan) -> list[str]:
    return [event.name.removeprefix("resilient.failover.") for event in span.events]


def zoned(one: Upstream, two: Upstream, **values: object) -> Settings:
    zones = f"az1={one.address}/32,az2={two.address}/32"
    return Settings(zone="az1", zones=zones, **values)  # type: ignore[arg-type]


def test_a_killed_upstream_is_one_span_and_its_steps_are_logged(
    shell: Shell,
    names: Names,
    run_upstreams: Run,
    port: int,
    exporter: Exporter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="resilient.failover")
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    client = shell.client(zoned(one, two))
    url = f"http://{NAME}:{port}/x"
    for _ in range(3):
        assert facts(shell.get(client, url))["address"] == one.address
    assert exporter.get_finished_spans() == ()
    one.kill()
    for _ in range(5):
        assert facts(shell.get(client, url))["address"] == two.address
    (span,) = exporter.get_finished_spans()
    assert span.name == "resilient.failover"
    assert span.attributes is not None
    expected = {
        "url.scheme": "http",
        "server.address": NAME,
        "server.port": port,
        "network.peer.address": two.address,
        "cloud.availability_zone": "az2",
        "resilient.old.endpoint": f"{one.address}:{port} ({NAME})",
        "resilient.old.zone": "az1",
        "resilient.new.endpoint": f"{two.address}:{port} ({NAME})",
        "resilient.new.zone": "az2",
    }
    assert {key: span.attributes[key] for key in expected} == expected
    assert "db.system.name" not in span.attributes
    assert steps(span) == ["suspected", "lost", "reconnected"]
    times = [event.timestamp for event in span.events]
    assert times == sorted(times)
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time < 1e9
    told = [r.getMessage().split()[0] for r in caplog.records if r.name == "resilient.failover"]
    assert told == ["step=suspected", "step=lost", "step=reconnected", "step=over"]
    assert exporter.threads == {threading.current_thread().name}


def test_an_address_that_left_dns_is_a_failover_told_in_the_callers_thread(
    shell: Shell, names: Names, run_upstreams: Run, port: int, exporter: Exporter
) -> None:
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address,)
    client = shell.client()
    url = f"http://{NAME}:{port}/x"
    shell.get(client, url)
    names.change(NAME, two.address)
    while facts(shell.get(client, url))["address"] != two.address:
        pass
    (span,) = exporter.get_finished_spans()
    assert steps(span) == ["suspected", "retired", "resolved", "reconnected"]
    assert exporter.threads == {threading.current_thread().name}


def test_nothing_in_use_nothing_told(
    shell: Shell, names: Names, run_upstreams: Run, subnet: str, port: int, exporter: Exporter
) -> None:
    (one,) = run_upstreams(1)
    names.answers[NAME] = (subnet + "7", one.address)  # one never lived
    client = shell.client()
    for _ in range(6):
        shell.get(client, f"http://{NAME}:{port}/x")
    assert exporter.get_finished_spans() == ()


def test_a_silent_upstream_is_suspected_from_the_first_unanswered_request(
    names: Names, run_upstreams: Run, port: int, exporter: Exporter
) -> None:
    shell = Shell("sync", "httpx2")
    one, two = run_upstreams(2)
    names.answers[NAME] = (one.address, two.address)
    checked = {"probe_interval_s": 0.1, "probe_timeout_s": 0.1, "http_health_path": "/health"}
    client = shell.client(zoned(one, two, **checked))
    url = f"http://{NAME}:{port}/x"
    shell.get(client, url)
    one.hang()
    shell.get(client, url)
    one.go_on()
    shell.finish()
    (span,) = exporter.get_finished_spans()
    assert steps(span) == ["suspected", "lost", "reconnected"]
    assert span.attributes is not None
    assert 0.2 < float(str(span.attributes["resilient.failover.detect_s"])) < 0.6


def test_instruments_are_made_once() -> None:
    assert otel._instruments() is otel._instruments()
