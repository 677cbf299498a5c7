"""Where a server's WAL stands, on which branch; and what that proves.

PostgreSQL's history is a tree.  A promotion begins a new timeline at a *switch point* of the one
before; what the old primary still writes behind that point is another branch.  So a position
means nothing without its timeline, and two positions on different timelines are compared by way
of proved switch points only:

    position (t, p) contains (u, q)   when  t = u and q ≤ p,
                                      or    t descends from u, the chain's switch point that
                                            leaves u is at or behind q, and q ≤ p.

A standby's timeline is a lower bound, unless its WAL receiver tells (`exact`).  A bound is taken
for the timeline itself only where it is the highest that anybody has told: a standby that is on
a higher one follows a server that nobody here has ever heard of.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._dataclass import dataclass
from .model import CausalToken


@dataclass(frozen=True, slots=True)
class Position:
    """`lsn` in bytes, on `timeline` of the cluster `system_id`.  It was read before the timeline
    was: a server that changes to another one in between has a lower position than it seems."""

    timeline: int | None
    lsn: int
    system_id: str = ""
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Switch:
    """A timeline began where another was left: `parent` at `lsn`."""

    parent: int
    lsn: int


#: timeline → where it began, as far as that is proved
Switches = Mapping[int, Switch]


def contains(
    position: Position, token: CausalToken, highest: int | None, switches: Switches | None = None
) -> bool:
    """Is it proved that what the token stands for has been replayed there?

    `highest`: the highest timeline that anybody has told.
    """
    if position.timeline is None or token.timeline is None:
        return False
    if position.system_id and token.system_id and position.system_id != token.system_id:
        return False
    if not position.exact and position.timeline != highest:
        return False
    if position.lsn < token.lsn:
        return False
    return _within(token, position.timeline, switches or {})


def _within(token: CausalToken, timeline: int, switches: Switches) -> bool:
    """Is the token on the branch that leads to this timeline?"""
    wanted = token.timeline or 0
    while timeline > wanted:
        switch = switches.get(timeline)
        if switch is None or switch.lsn < token.lsn or switch.parent >= timeline:
            return False  # not known, or left before it
        timeline = switch.parent
    return timeline == wanted
