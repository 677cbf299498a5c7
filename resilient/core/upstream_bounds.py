"""How long the parts of one HTTP request may take: the caller's word above ours.

httpx bounds four phases, each of them a silence: `connect`, `read`, `write`, `pool`.  What the
caller says of a phase holds, in both directions, and None is no bound; a client's default that
nobody touched says nothing about waiting for somebody to connect to.  Our deadline
(`DEADLINE_S`) bounds what nobody bounded; the request's own (`deadline_s` in its extension)
bounds all.

    getting a connection    connect, waits for an endpoint that takes one included; else ours
    waiting for a slot      pool; else ours
    waiting for an answer   read (a silence, renewed by every attempt); else ours
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from .._dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Monotonic seconds, `inf` for no bound.

    `deadline_s`: when the head of the response must have come.  `connect_s`: when there must
    be a connection, waiting for a slot not counted.  `somebody_s`: how long to wait while nobody
    takes connections.  `pool_s`: seconds that waiting for a slot may take.
    """

    deadline_s: float
    connect_s: float
    somebody_s: float
    pool_s: float


def bounds(
    given: Mapping[str, float | None], explicit: bool, asked_s: float | None, ours_s: float,
    now: float,
) -> Bounds:  # fmt: skip
    """`given`: httpx's timeouts of this request.  `explicit`: somebody chose them.  `asked_s`:
    the request's own deadline.  `ours_s`: `DEADLINE_S`.  Seconds."""
    limit_s = inf if asked_s is None else now + asked_s
    ours_at = min(limit_s, now + ours_s)
    if not explicit:
        pool_s = given.get("pool")
        return Bounds(ours_at, ours_at, ours_at, inf if pool_s is None else pool_s)
    deadline_s, connect_s, somebody_s, pool_s = ours_at, ours_at, ours_at, inf
    if "read" in given:
        deadline_s = limit_s
    if "connect" in given:
        allowed_s = given["connect"]
        connect_s = limit_s if allowed_s is None else min(limit_s, now + allowed_s)
        # Waiting for somebody is our own doing: it has an end even where a connect has none.
        somebody_s = ours_at if allowed_s is None else connect_s
    if given.get("pool") is not None:
        pool_s = float(given["pool"] or 0.0)
    elif "pool" not in given:
        pool_s = max(0.0, ours_at - now)
    return Bounds(deadline_s, connect_s, somebody_s, pool_s)
