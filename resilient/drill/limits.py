"""The limits that a drill is judged by: all of them, and nowhere else.

Each is measured against the moment at which an outside observer could write, or at which DNS
changed, so that the machine's own speed hardly matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["LIMITS", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, unless a name says otherwise."""

    #: crash, switchover, several hosts known: first good write after "writable", each run
    after_writable_s: float = 0.300
    #: the same, median over the runs of a fault
    after_writable_median_s: float = 0.100
    #: hang, blackhole, several hosts known, promotion 1 s after the fault: last good write
    #: before → first good write after; a later promotion adds its delay
    outage_s: float = 2.5
    outage_promote_after_s: float = 1.0
    #: crash, hang, blackhole, one CNAME known: first good write after TTL + this, counted from
    #: the moment at which the name server serves the new record
    after_dns_s: float = 0.300
    #: an error comes this long after its deadline at the latest; so does an HTTP answer
    grace_s: float = 0.100
    #: acknowledgements by the old primary once the new one was seen
    late_acks: int = 0
    #: with synchronous replication
    lost: int = 0
    duplicated: int = 0
    #: through `.run(fn)`, CommitOutcomeUnknown aside, and of reads through `.reader`
    errors: int = 0
    ghosts: int = 0
    #: idempotent requests
    http_errors: int = 0


LIMITS: Final = Limits()

PROMPT: Final = ("crash", "switchover")
SILENT: Final = ("hang", "blackhole")
BY_NAME: Final = ("crash", "hang", "blackhole")
