"""What is told of a failover: a log line per step, one span when it is over, and what was lost.

The steps are `core.failover`'s, losses `core.losses`'.  Only `otel` imports OpenTelemetry.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..core.failover import Failover, Step
from ..core.losses import Loss
from ..core.model import Endpoint, Topology
from ..core.outcome import lsn_text

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


def attempted(host: str, why: str) -> None:
    """An HTTP request gets another attempt, a hedge, or waits for an endpoint: a count.  Call it
    from the caller's thread or task."""
    from .otel import count_attempt

    try:
        count_attempt(host, why)
    except Exception:  # a meter's: the request goes on all the same
        logger.exception("counting an attempt failed")


def mismatched(endpoint: Endpoint | None, statement: str, found: str) -> None:
    """A transaction was done again, and gave its caller something else than before: a line, and a
    count."""
    from .otel import count_mismatch

    where = endpoint if endpoint is not None else "-"
    logger.warning("step=mismatch endpoint=%s statement=%r reason=%r", where, statement, found)
    count_mismatch(endpoint)


def commits_lost(loss: Loss, endpoint: Endpoint) -> None:
    """A new primary, at this endpoint, has not what an earlier one had.

    An error, and a count, where transactions are gone that were acknowledged.  WAL alone that
    is gone is no failure: a server that dies always leaves some that nobody waited for.  It is
    an INFO line for who has to look for writes that carry no mark.
    """
    where = (
        f"endpoint={endpoint} from={lsn_text(loss.from_lsn)} to={lsn_text(loss.to_lsn)}"
        f" timeline={loss.then.timeline} new_timeline={loss.now.timeline}"
    )
    if not loss.lost:
        logger.info("step=wal-lost %s", where)
        return
    from .otel import count_lost

    more = " at_least=true" if loss.at_least else ""
    logger.error("step=commits-lost count=%d%s %s", loss.lost, more, where)
    count_lost(loss.lost, endpoint)


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
