"""What a failover has lost, found out when the process first meets the new primary.

Each block's acknowledged COMMIT leaves its mark with the incarnation of the server that ran it
(`facts.Flushed`).  The first session with a later incarnation asks what became of them, once
in a process, and `core.losses` judges; what is found is told by `telemetry.commits_lost`.

An acknowledgement may come later still: it was read before its link was cut, or came through a
pool that hasn't seen the new primary.  What lies behind the switch point is lost without asking;
of the others the next session or probe that meets the new primary asks.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import pq
from psycopg.abc import PQGen

from ... import telemetry
from ...core import losses
from ...core.model import Endpoint, Observation, Role
from ...core.outcome import Incarnation, Mark, Written, mark_of
from .facts import KEPT_MARKS, CommitFacts, Flushed, commit_facts, earlier, known_of, xid_statuses

Labels = Mapping[str, str]


def look_back(
    pgconn: pq.abc.PGconn, seen: CommitFacts, place: object, endpoint: Endpoint, labels: Labels
) -> PQGen[None]:
    """A server is met: tell of what was acknowledged before, and it doesn't have.  `labels`: what
    the lines say of who met it.

    On an idle connection; raises `OperationalError` when it is lost, and then the next one
    that meets the server tells.
    """
    seen.flushed.places.add(place)
    for then, known in earlier(seen.incarnation):
        due = known.marks or not known.judged
        if place in known.places and due and known.judging.acquire(blocking=False):
            try:
                yield from _judge(pgconn, known, _Late(then, known, seen, endpoint, labels))
            finally:
                known.judging.release()


def owed(place: object, seen: Observation) -> bool:
    """Is there an acknowledgement that came late, and that the server which says this of itself
    has to be asked about?"""
    if seen.role is not Role.PRIMARY or not seen.timeline:
        return False
    return any(
        known.judged and known.marks and place in known.places
        for then, known in known_of(seen.system_id)
        if then.timeline < seen.timeline
    )


def look_again(
    pgconn: pq.abc.PGconn, place: object, endpoint: Endpoint, labels: Labels
) -> PQGen[None]:
    """Ask, on a session that knows no commit facts of its server."""
    seen = yield from commit_facts(pgconn)
    if seen is not None:
        yield from look_back(pgconn, seen, place, endpoint, labels)


def _judge(pgconn: pq.abc.PGconn, known: Flushed, late: _Late) -> PQGen[None]:
    seen = late.seen
    now, first = seen.incarnation, not known.judged
    before = known.acknowledged
    known.acknowledged = late
    written = _taken(known)
    try:
        marks = [mark_of(one) for one in written]
        statuses = yield from xid_statuses(pgconn, losses.questions(marks, now))
    except BaseException:
        known.marks.extendleft(reversed(written))
        known.acknowledged = before
        raise
    known.judged = True
    loss = losses.judge(
        late.then,
        now,
        seen.received,
        marks,
        statuses=statuses,
        flushed_lsn=known.lsn if first else 0,
        full=len(marks) == KEPT_MARKS,
    )
    if loss is not None and (first or loss.lost):
        late.tell(loss)


def _taken(known: Flushed) -> list[Written]:
    """All that are there, which are there no more: other threads may add some meanwhile."""
    taken: list[Written] = []
    while known.marks:
        taken.append(known.marks.popleft())
    return taken


class _Late:
    """Takes the marks of an incarnation that was judged."""

    def __init__(
        self,
        then: Incarnation,
        known: Flushed,
        seen: CommitFacts,
        endpoint: Endpoint,
        labels: Labels,
    ) -> None:
        self.then, self._known, self.seen = then, known, seen
        self._endpoint, self._labels = endpoint, labels

    def __call__(self, written: Written) -> None:
        mark: Mark = mark_of(written)
        then, now, received = self.then, self.seen.incarnation, self.seen.received
        if not losses.beyond(mark, now):
            self._known.marks.append(written)  # whoever meets the new primary next asks
            return
        loss = losses.judge(
            then, now, received, [mark], statuses={}, flushed_lsn=mark.lsn, full=False
        )
        if loss is not None:
            self.tell(loss)

    def tell(self, loss: losses.Loss) -> None:
        telemetry.commits_lost(loss, self._endpoint, self._labels)
