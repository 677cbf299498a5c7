"""What lookups tell of themselves: `dns.lookup.duration`, by the semantic conventions for DNS (in
development), and how often an answer has changed.

Only lookups that asked somebody are recorded; a cache hit costs nothing here.
"""

from __future__ import annotations

from resilient.telemetry import instruments, names

__all__ = ["count_change", "record_lookup"]

_NAME = "dns.question.name"


def record_lookup(name: str, seconds: float, error_type: str | None) -> None:
    """Record one lookup of `name` that took `seconds`; `error_type` None means success."""
    attributes = {_NAME: instruments.few(_NAME, name)}
    if error_type is not None:
        attributes["error.type"] = error_type
    instruments.record(names.LOOKUPS, seconds, attributes)


def count_change(name: str) -> None:
    """The name means something else now."""
    instruments.count(names.CHANGES, {_NAME: instruments.few(_NAME, name)})
