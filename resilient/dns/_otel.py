"""The one place of `resilient.dns` that knows OpenTelemetry: `dns.lookup.duration`.

By the semantic conventions for DNS (in development), in seconds.  Only lookups that asked
somebody are recorded; a cache hit costs nothing here.
"""

from __future__ import annotations

from opentelemetry import metrics

__all__ = ["record_lookup"]

_duration = metrics.get_meter("resilient.dns").create_histogram(
    "dns.lookup.duration",
    unit="s",
    description="Measures the time taken to perform a DNS lookup.",
    explicit_bucket_boundaries_advisory=[0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0],
)


def record_lookup(name: str, seconds: float, error_type: str | None) -> None:
    """Record one lookup of `name` that took `seconds`; `error_type` None means success."""
    attributes = {"dns.question.name": name}
    if error_type is not None:
        attributes["error.type"] = error_type
    _duration.record(seconds, attributes)
