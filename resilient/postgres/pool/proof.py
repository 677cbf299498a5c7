"""What a read asks for, proved on the very connection that it gets.

A token's commit is there when `core.position` says so.  Behind an address with several servers
the probes tell of some of them; how far this one lags, it says itself.
"""

from __future__ import annotations

from psycopg import pq
from psycopg.abc import PQGen

from ...core.model import CausalToken, EndpointView, Role, Topology
from ...core.position import contains
from .. import role


def proves(
    pgconn: pq.abc.PGconn,
    topology: Topology,
    view: EndpointView,
    after: CausalToken | None,
    bound_s: float | None,
) -> PQGen[bool]:
    """Has this server the token's commit, and lags no more than so many seconds?  A round trip
    for what isn't known; none where nothing is asked for.  Raises `RoleError`."""
    if after is not None:
        at = yield from role.position(pgconn)
        if not contains(at, after, topology.epoch):
            return False
    if bound_s is None or not view.group:
        return True
    seen = yield from role.observe(pgconn)
    if seen.role is not Role.REPLICA:
        return seen.timeline == topology.epoch
    fresh = seen.lag_s is not None and seen.lag_s <= bound_s
    return fresh and (seen.timeline or 0) == (topology.epoch or 0)
