"""What a failover has lost, found out when the process first meets the new primary.

Each block's acknowledged COMMIT leaves its mark with the incarnation of the server that ran it
(`witness.Flushed`).  The first session with a later incarnation asks what became of them, once
in a process, and `core.losses` judges; what is found is told by `telemetry.commits_lost`.
"""

from __future__ import annotations

from psycopg import pq
from psycopg.abc import PQGen

from ... import telemetry
from ...core import losses
from ...core.model import Endpoint
from ...core.outcome import Incarnation
from .facts import KEPT_MARKS, Flushed, Witness, Written, earlier, mark_of, xid_statuses


def look_back(
    pgconn: pq.abc.PGconn, seen: Witness, place: object, endpoint: Endpoint
) -> PQGen[None]:
    """A server is met: tell of what was acknowledged before, and it doesn't have.

    On an idle connection; raises `OperationalError` when it is lost, and then the next one
    that meets the server tells.
    """
    seen.flushed.places.add(place)
    for then, known in earlier(seen.incarnation):
        if place in known.places and known.judging.acquire(blocking=False):
            try:
                yield from _judge(pgconn, seen, then, known, endpoint)
            except BaseException:
                known.acknowledged = known.marks.append
                known.judging.release()
                raise


def _judge(
    pgconn: pq.abc.PGconn, seen: Witness, then: Incarnation, known: Flushed, endpoint: Endpoint
) -> PQGen[None]:
    now = seen.incarnation
    known.acknowledged = _Late(then, seen, endpoint)
    marks = [mark_of(written) for written in known.marks.copy()]  # in one step: threads may append
    statuses = yield from xid_statuses(pgconn, losses.questions(marks, now))
    loss = losses.judge(
        then,
        now,
        seen.received,
        marks,
        statuses=statuses,
        flushed_lsn=known.lsn,
        full=len(marks) == KEPT_MARKS,
    )
    known.marks.clear()
    if loss is not None:
        telemetry.commits_lost(loss, endpoint)


class _Late:
    """Takes the marks of an incarnation that was judged: an acknowledgement that was read
    before its link was cut, or that came through a pool which hasn't seen the new primary."""

    def __init__(self, then: Incarnation, seen: Witness, endpoint: Endpoint) -> None:
        self._then, self._seen, self._endpoint = then, seen, endpoint

    def __call__(self, written: Written) -> None:
        mark = mark_of(written)
        then, now, received = self._then, self._seen.incarnation, self._seen.received
        loss = losses.judge(
            then, now, received, [mark], statuses={}, flushed_lsn=mark.lsn, full=False
        )
        if loss is not None and loss.lost:
            telemetry.commits_lost(loss, self._endpoint)
