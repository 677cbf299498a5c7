"""What is told of a failover: a log line per step, and one span when it is over.

All of it is told from `core.failover`'s steps.  Only `otel` imports OpenTelemetry.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..core.failover import Failover, Step
from ..core.model import Topology

logger = logging.getLogger("resilient.failover")
_monitor = logging.getLogger("resilient.monitor")

#: one session that ended is a suspicion too, and no reason to wake anybody
_LOUD = frozenset({"lost", "lost again", "ejected"})
#: what a failover of a database says of itself
DATABASE: Mapping[str, str] = {"db.system.name": "postgresql"}


def log_step(step: Step) -> None:
    """`step=lost endpoint=10.0.1.5:5432 detail='…'`, as it happens."""
    level = logging.WARNING if step.name in _LOUD else logging.INFO
    where = step.endpoint if step.endpoint is not None else "-"
    logger.log(level, "step=%s endpoint=%s detail=%r", step.name, where, step.detail)


def finished(failover: Failover, system: Mapping[str, str] = DATABASE) -> None:
    """A failover is over; `system`: attributes that say of what.

    Call from a thread of the application's, never the monitor's: what an exporter does here
    is the user's code."""
    from .otel import emit

    phases = " ".join(f"{name}={seconds:.3f}" for name, seconds in failover.phases().items())
    logger.info(
        "step=over old=%s new=%s total_s=%.3f %s",
        failover.old.endpoint,
        failover.new.endpoint if failover.new else "-",
        failover.ended_at - failover.started_at,
        phases,
    )
    emit(failover, system)


def log_topology(old: Topology, new: Topology) -> None:
    """A line per endpoint whose role, health, epoch or fencing changed."""
    before = {view.endpoint: view for view in old.endpoints}
    for view in new.endpoints:
        was = before.pop(view.endpoint, None)
        if was is None or (was.role, was.health, was.epoch, was.fenced) != (
            view.role,
            view.health,
            view.epoch,
            view.fenced,
        ):
            _monitor.info(
                "endpoint=%s role=%s health=%s epoch=%s fenced=%s zone=%s version=%d reason=%r",
                *(view.endpoint, view.role, view.health, view.epoch, view.fenced),
                *(view.zone, new.version, view.reason),
            )
    for endpoint in before:
        _monitor.info("endpoint=%s removed version=%d", endpoint, new.version)
    if new.conflict and new.conflict != old.conflict:
        _monitor.error("writes are refused: %s", new.conflict)
