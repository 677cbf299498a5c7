"""Is it certain that the new primary's sequences had passed a number when it began to serve?

A number is handed out after a record of the WAL that has the sequence beyond it (32 numbers ahead,
or a session's whole cache).  So where that record is in the history of the new primary, it never
gives the number to anybody.  It is, if a position behind it is (`outcome.Mark`), or if the server
is the same run of the same server.

Where it isn't certain, the number may be somebody else's who took it from the new primary since:
he has a lock on the sequence until his transaction ends (`sequence.c`), and then a row.  A session
that takes several at once (CACHE) has none while it keeps them.
"""

from __future__ import annotations

from enum import StrEnum

from ..outcome import Incarnation, Mark


class Sure(StrEnum):
    """Of which numbers of a block it is certain."""

    LOST = "lost"  # what it had written isn't in the new primary's history
    NONE = "none"
    MARKED = "marked"  # of those up to its mark
    ALL = "all"


def sure(mark: Mark | None, now: Incarnation | None, received: bool, flushed_lsn: int) -> Sure:
    """`mark`: the block's, taken behind a statement of its.  `now`: the new primary.  `received`,
    `flushed_lsn`: as in `outcome`."""
    if mark is None or now is None or not now.system_id:
        return Sure.NONE
    then = mark.incarnation
    if now == then:
        return Sure.ALL
    if now.system_id != then.system_id or now.recovered_lsn is None:
        return Sure.NONE
    if now.timeline in (then.timeline, then.timeline + 1) and mark.lsn > now.recovered_lsn:
        return Sure.LOST
    promoted = now.timeline == then.timeline + 1 and received
    return Sure.MARKED if promoted and mark.lsn <= flushed_lsn else Sure.NONE
