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

    NONE = "none"
    FIRST = "first"  # of its first statement that writes
    ALL = "all"


def sure(mark: Mark | None, now: Incarnation | None, received: bool, flushed_lsn: int) -> Sure:
    """`mark`: the block's, taken behind its first statement that wrote.  `now`: the new primary.
    `received`, `flushed_lsn`: as in `outcome`."""
    if mark is None or now is None or not now.system_id:
        return Sure.NONE
    then = mark.incarnation
    if now == then:
        return Sure.ALL
    promoted = now.system_id == then.system_id and now.timeline == then.timeline + 1 and received
    there = now.recovered_lsn is not None and mark.lsn <= min(now.recovered_lsn, flushed_lsn)
    return Sure.FIRST if promoted and there else Sure.NONE
