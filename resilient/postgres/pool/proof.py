"""What a read asks for, proved on the very connection that it gets.

A token's commit is there when `core.position` says so.  Behind an address with several servers
the probes tell of some of them; how far this one lags, it says itself.
"""

from __future__ import annotations

from collections.abc import Callable

from psycopg import pq
from psycopg.abc import PQGen

from ...core.model import CausalToken, Endpoint, EndpointView, Role, Topology
from ...core.position import contains
from .. import role


def proves(
    pgconn: pq.abc.PGconn,
    topology: Topology,
    view: EndpointView,
    after: CausalToken | None,
    bound_s: float | None,
    *,
    late: Callable[[Endpoint], None],
) -> PQGen[bool]:
    """Has this server the token's commit, and lags no more than so many seconds?  A round trip
    for what isn't known; none where nothing is asked for.  `late` is told of a standby that lacks
    a proof for want of its timeline.  Raises `RoleError`."""
    if after is not None:
        at = yield from role.position(pgconn)
        if not contains(at, after, dict(topology.switches)):
            if at.late:
                late(view.endpoint)
            return False
    if bound_s is None or not view.group:
        return True
    seen = yield from role.observe(pgconn)
    if seen.role is not Role.REPLICA:
        return seen.timeline == topology.timeline
    fresh = seen.lag_s is not None and seen.lag_s <= bound_s
    return fresh and (seen.timeline or 0) == (topology.timeline or 0)
