"""What is told of a failover: lines, spans, metrics, and a record in memory.

The steps are `core.failover`'s, losses `core.losses`'.  `names` has every name of a span or a
metric, `failover_log` tells one cluster's failovers, `instruments` and `spans` know OpenTelemetry.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from .._logs import Line
from ..core.losses import Loss
from ..core.model import Endpoint, Topology
from ..core.outcome import lsn_text
from . import instruments, names
from .failover_log import POSTGRESQL, FailoverLog

__all__ = ["POSTGRESQL", "FailoverLog", "commits_lost", "instruments", "log_topology", "names"]

logger = logging.getLogger("resilient.failover")
_monitor = logging.getLogger("resilient.monitor")


def attempted(host: str, why: str) -> None:
    """An HTTP request gets another attempt, a hedge, or waits for an endpoint: a count."""
    said = {"server.address": instruments.few("server.address", host)}
    instruments.count(names.ATTEMPTS, {**said, "resilient.attempt.reason": why})


def commits_lost(loss: Loss, endpoint: Endpoint, labels: Mapping[str, str]) -> None:
    """A new primary, at this endpoint, has not what an earlier one had.  `labels`: of the pool
    whose session found it out.

    An error, and a count, where transactions are gone that were acknowledged.  WAL alone that
    is gone is no failure: a server that dies always leaves some that nobody waited for.  It is
    an INFO line for who has to look for writes that carry no mark.
    """
    where = {
        "endpoint": endpoint.place,
        "from": lsn_text(loss.from_lsn),
        "to": lsn_text(loss.to_lsn),
        "timeline": loss.then.timeline,
        "new_timeline": loss.now.timeline,
        **labels,
    }
    if not loss.lost:
        logger.info("%s", Line(step="wal-lost", **where))
        return
    more = True if loss.at_least else None
    logger.error("%s", Line(step="commits-lost", count=loss.lost, at_least=more, **where))
    said = {**POSTGRESQL, "server.address": endpoint.configured}
    instruments.count(names.LOST, said, loss.lost)


def log_topology(old: Topology, new: Topology, labels: Mapping[str, str]) -> None:
    """A line per endpoint whose role, health, timeline or fencing changed."""
    before = {view.endpoint: view for view in old.endpoints}
    for view in new.endpoints:
        was = before.pop(view.endpoint, None)
        if was is None or (was.role, was.health, was.timeline, was.fenced) != (
            view.role,
            view.health,
            view.timeline,
            view.fenced,
        ):
            line = Line(
                event="endpoint",
                endpoint=view.endpoint.place,
                role=view.role.value,
                health=view.health.value,
                timeline=view.timeline,
                fenced=view.fenced,
                zone=view.zone,
                version=new.version,
                reason=view.reason or None,
                **labels,
            )
            _monitor.info("%s", line)
    for endpoint in before:
        gone = Line(
            event="endpoint.removed", endpoint=endpoint.place, version=new.version, **labels
        )
        _monitor.info("%s", gone)
    if new.conflict and new.conflict != old.conflict:
        _monitor.error("%s", Line(event="writes.refused", reason=new.conflict, **labels))
