"""Whether a failed transaction is run again, as data.

A transaction that never sent its COMMIT, or whose COMMIT was refused, can be run again as a
whole by whoever has all of it (`run`).  A lost reply to a COMMIT is never in these tables.
"""

from __future__ import annotations

from .model import FailureKind
from .sqlstates import Says, says

#: what happened to the endpoint → run again, on whatever the topology names then
RERUN_KINDS = frozenset(
    {
        FailureKind.LOST,
        FailureKind.SHUTDOWN,
        FailureKind.NOT_READY,
        FailureKind.READ_ONLY,
        FailureKind.REFUSED,
        FailureKind.SILENT,
        FailureKind.UNREACHABLE,
    }
)


def rerun(sqlstate: str | None, kind: FailureKind | None) -> bool:
    """May a transaction that failed like this be run again?"""
    return says(sqlstate, Says.RERUN) or kind in RERUN_KINDS
