"""OpenTelemetry's SDK for a test: what was exported, and what was measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from resilient.telemetry import instruments
from resilient.telemetry.background import background

Point = tuple[dict[str, Any], Any]


class Exporter(InMemorySpanExporter):
    """Remembers on which threads it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def export(self, spans: Any) -> SpanExportResult:
        self.threads.add(threading.current_thread().name)
        return super().export(spans)


class Seen:
    """What the SDK has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = Exporter()
        self.tracers = TracerProvider(sampler=sampler)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        monkeypatch.setattr(trace, "get_tracer", self._tracer)
        monkeypatch.setattr(metrics, "get_meter", self._meter)
        monkeypatch.setattr(instruments, "_made", {})
        instruments._observed = False

    def _tracer(self, name: str, *args: Any, tracer_provider: Any = None, **kwargs: Any) -> Any:
        return (tracer_provider or self.tracers).get_tracer(name)

    def _meter(self, name: str, *args: Any, meter_provider: Any = None, **kwargs: Any) -> Any:
        return (meter_provider or self.meters).get_meter(name)

    def close(self) -> None:
        background.flush(2.0)
        self.tracers.shutdown()
        self.meters.shutdown()
        instruments._observed = False

    def spans(self, name: str = "resilient.failover") -> list[ReadableSpan]:
        """The exported ones of this name, in their order."""
        background.flush(2.0)
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def until(self, name: str = "resilient.failover", count: int = 1) -> list[ReadableSpan]:
        """The same, once there are so many."""
        deadline = time.monotonic() + 10
        while len(found := self.spans(name)) < count:
            assert time.monotonic() < deadline, self.names()
            time.sleep(0.01)
        return found

    def names(self) -> list[str]:
        background.flush(2.0)
        return [span.name for span in self.exporter.get_finished_spans()]

    def points(self) -> dict[str, list[Point]]:
        """Metric → its points, as (attributes, value or count)."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[Point]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = [
                        (dict(point.attributes or {}), getattr(point, "value", None)
                         if hasattr(point, "value") else point)
                        for point in metric.data.data_points
                    ]  # fmt: skip
        return found


@pytest.fixture
def make_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Seen]]:
    made: list[Seen] = []

    def make(sampler: Sampler = ALWAYS_ON) -> Seen:
        made.append(Seen(monkeypatch, sampler))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def seen(make_seen: Callable[..., Seen]) -> Seen:
    return make_seen()


def steps(span: ReadableSpan) -> list[str]:
    """What its events say happened."""
    return [event.name.removeprefix("resilient.failover.") for event in span.events]
