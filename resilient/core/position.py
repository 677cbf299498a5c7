"""Where a server's WAL stands, on which branch; and what that proves.

PostgreSQL's history is a tree.  A promotion begins a new timeline at a *switch point* of the one
before; what the old primary still writes behind that point is another branch.  So a position
means nothing without its timeline, and two positions on different timelines are compared by way
of proved switch points only:

    position (t, p) contains (u, q)   when  t = u and q ≤ p,
                                      or    t descends from u, the chain's switch point that
                                            leaves u is at or behind q, and q ≤ p.

A standby's WAL receiver tells its timeline to roles with `pg_read_all_stats` only.  What others
may read is how far it must have replayed whatever happens to it, and on which timeline that is
(`pg_control_recovery()`): a position on a branch as well, if an older one.  The timeline alone
is a lower bound and proves nothing: the standby may follow a server that was promoted since, and
that nobody here has heard of, also where the bound is the highest timeline that anybody has told.

A switch point is proved by the new primary (`recovered_lsn`, while it hasn't restarted), its
parent by what the same server said as a standby: it was on that timeline at least, and nothing
lies between.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._dataclass import dataclass
from .model import CausalToken, Switch


@dataclass(frozen=True, slots=True)
class Position:
    """`lsn` in bytes, on `timeline` of the cluster `system_id`: this much is replayed on the way
    that led to it.  It was read before the timeline was: a server that changes to another one in
    between has a lower position than it seems.

    `late`: there is more, on a timeline that isn't told.
    """

    timeline: int | None
    lsn: int
    system_id: str = ""
    late: bool = False


#: timeline → where it began, as far as that is proved
Switches = Mapping[int, Switch]


def contains(position: Position, token: CausalToken, switches: Switches | None = None) -> bool:
    """Is it proved that what the token stands for has been replayed there?"""
    if position.timeline is None or token.timeline is None:
        return False
    if position.system_id and token.system_id and position.system_id != token.system_id:
        return False
    return position.lsn >= token.lsn and leads_to(token, position.timeline, switches)


def leads_to(token: CausalToken, timeline: int, switches: Switches | None = None) -> bool:
    """Is the token on the branch that leads to this timeline?"""
    if token.timeline is None:
        return False
    wanted = token.timeline
    while timeline > wanted:
        switch = (switches or {}).get(timeline)
        if switch is None or switch.lsn < token.lsn or switch.parent >= timeline:
            return False  # not known, or left before it
        timeline = switch.parent
    return timeline == wanted
