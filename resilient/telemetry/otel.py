"""A finished failover as one OpenTelemetry span, a counter and a histogram; lost commits and
further attempts of HTTP requests, counted.

There is no semantic convention for failovers: names are `resilient.*`, reusing
`server.address`, `server.port`, `network.peer.address`, `error.type` and
`cloud.availability_zone` where they fit.  Without an SDK all of this is a no-op.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache

from opentelemetry import metrics, trace
from opentelemetry.util.types import AttributeValue

from ..core.failover import Failover
from ..core.model import Endpoint, EndpointView
from . import DATABASE

SPAN_NAME = "resilient.failover"


def emit(failover: Failover, system: Mapping[str, str] = DATABASE) -> None:
    """Record the failover with its own times, which lie in the past.  `system`: attributes
    that say of what it is one."""
    # Spans want wall-clock nanoseconds: one offset, taken now, keeps the intervals monotonic.
    offset_ns = time.time_ns() - int(time.monotonic() * 1e9)

    def wall(at_s: float) -> int:
        return int(at_s * 1e9) + offset_ns

    attributes = {**system, **_attributes(failover)}
    tracer = trace.get_tracer("resilient")
    span = tracer.start_span(SPAN_NAME, start_time=wall(failover.started_at), attributes=attributes)
    for step in failover.steps:
        event: dict[str, AttributeValue] = {"resilient.step.detail": step.detail}
        if step.endpoint is not None:
            event["network.peer.address"] = step.endpoint.address
            event["network.peer.port"] = step.endpoint.port
        span.add_event(f"resilient.failover.{step.name}", event, wall(step.at_s))
    span.end(wall(failover.ended_at))
    kept = {key: value for key, value in attributes.items() if key in _METRIC_KEYS}
    count, duration = _instruments()
    count.add(1, kept)
    duration.record(failover.ended_at - failover.started_at, kept)


@cache
def _instruments() -> tuple[metrics.Counter, metrics.Histogram]:
    meter = metrics.get_meter("resilient")
    return (
        meter.create_counter("resilient.failovers", unit="{failover}"),
        meter.create_histogram("resilient.failover.duration", unit="s"),
    )


def count_lost(transactions: int, endpoint: Endpoint) -> None:
    """Acknowledged transactions that the new primary at this endpoint doesn't have."""
    attributes = {**DATABASE, "server.address": endpoint.name or endpoint.address}
    _lost().add(transactions, attributes)


def count_mismatch(endpoint: Endpoint | None) -> None:
    """A transaction that was done again on this endpoint gave other results."""
    where = {} if endpoint is None else {"server.address": endpoint.name or endpoint.address}
    _mismatches().add(1, {**DATABASE, **where})


def count_attempt(host: str, why: str) -> None:
    """One more attempt of an HTTP request to this host, beside its first; `why`: for what."""
    _attempts().add(1, {"server.address": host, "resilient.attempt.reason": why})


@cache
def _attempts() -> metrics.Counter:
    return metrics.get_meter("resilient").create_counter(
        "resilient.http.attempts", unit="{attempt}"
    )


@cache
def _mismatches() -> metrics.Counter:
    return metrics.get_meter("resilient").create_counter(
        "resilient.replay.mismatches", unit="{transaction}"
    )


@cache
def _lost() -> metrics.Counter:
    return metrics.get_meter("resilient").create_counter(
        "resilient.commits.lost", unit="{transaction}"
    )


_METRIC_KEYS = frozenset({"server.address", "db.system.name", "url.scheme"})


def _attributes(failover: Failover) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {"error.type": failover.cause or "unknown"}
    attributes |= _endpoint("old", failover.old)
    if failover.new is not None:
        attributes |= _endpoint("new", failover.new)
        attributes["server.address"] = failover.new.name or failover.new.address
        attributes["server.port"] = failover.new.port
        attributes["network.peer.address"] = failover.new.address
        if failover.new.zone is not None:
            attributes["cloud.availability_zone"] = failover.new.zone
    for name, seconds in failover.phases().items():
        attributes[f"resilient.failover.{name}"] = seconds
    return attributes


def _endpoint(which: str, view: EndpointView) -> dict[str, AttributeValue]:
    prefix = f"resilient.{which}"
    values: dict[str, AttributeValue] = {f"{prefix}.endpoint": str(view.endpoint)}
    if view.zone is not None:
        values[f"{prefix}.zone"] = view.zone
    if view.epoch is not None:
        values[f"{prefix}.epoch"] = view.epoch
    return values
