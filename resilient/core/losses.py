"""Which acknowledged transactions did a failover lose?  Decided from facts, never guessed.

With asynchronous replication a server acknowledges what no standby has yet.  The facts: the
marks of the transactions that it acknowledged to this process (`core.outcome.Mark`: an id, and
a position L behind a record that carries it, before the COMMIT), where the last recovery of the
new primary ended (S = `recovered_lsn`), and what the new primary says of the ids.

Why each rule is right.  The new primary's history, as it was at S, is all that is left of what
was written before.

* L > S: that history never reached the transaction, so its COMMIT is lost.  It doesn't matter
  how many promotions or crashes lie between: S is where the latest of them ended.
* The id isn't *committed* there (aborted, running, in the future): had the COMMIT survived,
  its id were committed for good.
* *Committed* proves survival only where the id can't have been given again: L ≤ S, and S is the
  switch point, timeline n + 1 out of n.  Elsewhere nothing is said of such an id, and an
  *unknown* one (its status is no longer kept) is never counted: the number is a lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._dataclass import dataclass
from .outcome import Incarnation, Mark, XidStatus

_SURVIVED = (XidStatus.COMMITTED, XidStatus.FORGOTTEN)


@dataclass(frozen=True, slots=True)
class Loss:
    """What the old server had and the new one has not.

    `switch_lsn`: where their histories part; None when the new one doesn't tell.  `from_lsn`,
    `to_lsn`: the WAL that is gone, to the highest position that this process knew of.  `lost`:
    acknowledged transactions that are known to be lost, `at_least` where there may be more.
    """

    then: Incarnation
    now: Incarnation
    switch_lsn: int | None
    from_lsn: int
    to_lsn: int
    lost: int
    at_least: bool


def succeeds(then: Incarnation, now: Incarnation) -> bool:
    """Is `now` a later history of the same cluster?"""
    return bool(then.system_id) and then.system_id == now.system_id and then.timeline < now.timeline


def switch_point(then: Incarnation, now: Incarnation, received: bool) -> int | None:
    """Where `now` parted from `then`, when that is known.  `received`: as in `ServerFacts`."""
    return now.recovered_lsn if received and now.timeline == then.timeline + 1 else None


def beyond(mark: Mark, now: Incarnation) -> bool:
    """Is the mark lost whatever the new primary says of its id?"""
    return now.recovered_lsn is not None and mark.lsn > now.recovered_lsn


def questions(marks: Sequence[Mark], now: Incarnation) -> list[int]:
    """The ids that the new primary has to be asked about."""
    return [mark.xid for mark in marks if not beyond(mark, now)]


def judge(
    then: Incarnation,
    now: Incarnation,
    received: bool,
    marks: Sequence[Mark],
    *,
    statuses: Mapping[int, XidStatus],
    flushed_lsn: int,
    full: bool,
) -> Loss | None:
    """What was lost between the two, None when nothing is known to be.

    `marks`: acknowledged transactions of `then`.  `statuses`: what the new primary said of
    `questions`, as far as it answered.  `flushed_lsn`: as for `outcome.resolve`.  `full`: there
    were more marks than could be kept.
    """
    switch = switch_point(then, now, received)
    said = [
        XidStatus.ABORTED if beyond(mark, now) else statuses.get(mark.xid, XidStatus.FORGOTTEN)
        for mark in marks
    ]
    lost = [mark for mark, status in zip(marks, said, strict=True) if status not in _SURVIVED]
    highest = max([flushed_lsn, *(mark.lsn for mark in marks)])
    if not lost and (switch is None or highest <= switch):
        return None
    start = switch if switch is not None else min(mark.lsn for mark in lost)
    # The marks that were dropped are older: they matter where none that is left has survived.
    some_survived = len(lost) < len(marks)
    at_least = switch is None or XidStatus.FORGOTTEN in said if some_survived else full
    return Loss(then, now, switch, start, max(start, highest), len(lost), at_least)
