"""What is told of a failover: a log line per step, and one span when it is over.

All of it is told from `core.failover`'s steps.  Only `otel` imports OpenTelemetry.
"""

from __future__ import annotations

import logging

from ..core.failover import Failover, Step

logger = logging.getLogger("resilient.failover")

_LOUD = frozenset({"suspected", "lost", "lost again"})


def log_step(step: Step) -> None:
    """`step=lost endpoint=10.0.1.5:5432 detail='…'`, as it happens."""
    level = logging.WARNING if step.name in _LOUD else logging.INFO
    where = step.endpoint if step.endpoint is not None else "-"
    logger.log(level, "step=%s endpoint=%s detail=%r", step.name, where, step.detail)


def finished(failover: Failover) -> None:
    """A failover is over.  Call from a thread of the application's, never the monitor's:
    what an exporter does here is the user's code."""
    from .otel import emit

    phases = " ".join(f"{name}={seconds:.3f}" for name, seconds in failover.phases().items())
    logger.info(
        "step=over old=%s new=%s total_s=%.3f %s",
        failover.old.endpoint,
        failover.new.endpoint if failover.new else "-",
        failover.ended_at - failover.started_at,
        phases,
    )
    emit(failover)
