"""What is told of a failover: one span, a log line per step."""

from __future__ import annotations

import logging
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilient.lab import Lab
from resilient.postgres import ConnectionPool

from .conftest import settings_of

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_a_failover_is_one_span_and_its_steps_are_logged(
    lab: Lab, orders: str, exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="resilient.failover")
    exporter.clear()
    old = lab.primary
    with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=2) as pool:
        pool.wait()
        run = lab.inject("crash", promote_after_s=0.5)
        run.wait_struck()
        time.sleep(0.05)  # a reply may have been under way
        assert pool.run(lambda conn: conn.execute("select 1").fetchone()) == (1,)
        run.wait_done()
        deadline = time.monotonic() + 5
        while not exporter.get_finished_spans():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
    spans = [s for s in exporter.get_finished_spans() if s.name == "resilient.failover"]
    assert len(spans) == 1
    span = spans[0]
    assert span.attributes is not None
    assert str(span.attributes["resilient.old.endpoint"]).startswith(old.address)
    assert str(span.attributes["resilient.new.endpoint"]).startswith(lab.primary.address)
    assert span.attributes["network.peer.address"] == lab.primary.address
    assert span.attributes["cloud.availability_zone"] == lab.primary.zone
    names = [event.name.removeprefix("resilient.failover.") for event in span.events]
    assert names[0] == "suspected"
    assert [n for n in names if n in ("lost", "promoted", "reconnected")] == [
        "lost",
        "promoted",
        "reconnected",
    ]
    times = [event.timestamp for event in span.events]
    assert times == sorted(times)
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0.3e9 < span.end_time - span.start_time < 5e9
    steps = [r.getMessage().split()[0] for r in caplog.records if r.name == "resilient.failover"]
    assert [s for s in steps if s not in ("step=resolved", "step=wal-lost")] == [
        "step=suspected",
        "step=lost",
        "step=promoted",
        "step=over",
    ]


def test_a_slow_server_is_no_failover(
    lab: Lab, orders: str, exporter: InMemorySpanExporter
) -> None:
    """Stopped for less than the window: suspected, recovered, no span, nothing dropped."""
    exporter.clear()
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with ConnectionPool(dsn, settings=settings_of(lab), min_size=1) as pool:
        pool.wait()
        with pool.connection() as conn:
            backend = conn.info.backend_pid
        for _ in range(3):
            lab.primary.pause()
            time.sleep(0.6)
            lab.primary.resume()
            time.sleep(0.3)
        with pool.connection() as conn:
            assert conn.info.backend_pid == backend
    assert exporter.get_finished_spans() == ()
