"""The metrics' instruments, made once, of the table in `names`.

As long as nobody has imported OpenTelemetry nobody can ask for what is measured, and a value costs
some 100 ns; so without an SDK.  Whatever one does that has an SDK behind it, no caller fails of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from . import names
from .names import Kind, Metric

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

__all__ = ["Attributes", "Measured", "count", "few", "is_imported", "observe", "record"]

Attributes = Mapping[str, str | int]
#: names of others that one attribute may have
FEW = 100
OTHER = "other"

_watched: WeakSet[Measured] = WeakSet()
_lock = threading.Lock()
_few: dict[str, set[str]] = {}
#: the instruments that are asked for their numbers have been made
_observed = False


class Measured(Protocol):
    """What is asked for its numbers when somebody collects: on any thread, and quick."""

    def measures(self) -> Iterable[tuple[Metric, float, Attributes]]: ...


#: what records a value, by the metric's name, once it was made
_made: dict[str, Callable[[float, Attributes], None]] = {}


def is_imported() -> bool:
    """Has anybody imported OpenTelemetry?  An SDK does, and so does who asks for a tracer.  None
    there keeps it out."""
    return sys.modules.get("opentelemetry") is not None


def _make(metric: Metric) -> Callable[[float, Attributes], None] | None:
    """None as long as nobody has imported OpenTelemetry."""
    if not is_imported():
        return None
    from opentelemetry import metrics

    _make_observed()
    meter = metrics.get_meter("resilient")
    do: Callable[[float, Attributes], None]
    if metric.kind is Kind.COUNTER:
        do = meter.create_counter(metric.name, metric.unit, metric.text).add
    else:
        do = meter.create_histogram(
            metric.name,
            metric.unit,
            metric.text,
            explicit_bucket_boundaries_advisory=list(metric.buckets),
        ).record
    return _made.setdefault(metric.name, do)


def record(metric: Metric, value: float, attributes: Attributes) -> None:
    """A value of a histogram, or a counter's growth."""
    try:
        do = _made.get(metric.name) or _make(metric)
        if do is not None:
            do(value, attributes)
    except Exception:  # noqa: S110 - an SDK's: no caller's fault; quicker than `suppress`
        pass


def count(metric: Metric, attributes: Attributes, number: int = 1) -> None:
    """One more, or several."""
    record(metric, number, attributes)


def few(attribute: str, value: str) -> str:
    """The value, or `other` where the attribute had `FEW` others: what follows links into all
    the world doesn't fill somebody's memory with it."""
    seen = _few.setdefault(attribute, set())
    if value in seen:
        return value
    if len(seen) >= FEW:
        return OTHER
    seen.add(value)
    return value


def observe(measured: Measured) -> None:
    """Ask it from now on, as long as it lives."""
    with _lock:
        _watched.add(measured)
    with suppress(Exception):  # an SDK's: no caller's fault
        _make_observed()


def _make_observed() -> None:
    """Those that are asked for their numbers, once somebody may ask."""
    global _observed
    if not is_imported():
        return  # whatever is recorded next tries again
    with _lock:
        if _observed:
            return
        _observed = True
    from opentelemetry import metrics

    meter = metrics.get_meter("resilient")
    make: dict[Kind, Any] = {
        Kind.GAUGE: meter.create_observable_gauge,
        Kind.UP_DOWN: meter.create_observable_up_down_counter,
    }
    for metric in names.METRICS:
        if metric.kind in make:
            make[metric.kind](metric.name, [_asks(metric)], metric.unit, metric.text)


def _asks(metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
    from opentelemetry.metrics import Observation

    def ask(_: CallbackOptions) -> Iterator[Observation]:
        with _lock:
            watched = list(_watched)
        found: dict[tuple[tuple[str, str | int], ...], float] = {}
        for one in watched:
            for known, value, attributes in one.measures():
                if known is metric:
                    key = tuple(sorted(attributes.items()))
                    found[key] = _merged(metric, found.get(key), value)
        for key, value in found.items():
            yield Observation(value, dict(key))

    return ask


def _merged(metric: Metric, one: float | None, other: float) -> float:
    """Of two that say the same of themselves."""
    if one is None:
        return other
    if metric is names.WRITER:
        return min(one, other)
    return max(one, other) if metric.kind is Kind.GAUGE else one + other
