"""Which endpoint gets the next request: selectors that compose, candidates → candidates.

    not retired → not ejected → in my zone while one is there → of the family to prefer (RFC 6724)
    → least in flight of two draws → any zone's while that one is saturated → rather another one
    while it has just come back

Zone and family are a preference of first attempts only: a second one may go to any that is
in good standing.  Each step that would leave nobody is undone by `ranked`: as long as an address is
known the choice is never empty, it is the least bad one (panic).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TypeVar

from .model import Endpoint, Health
from .upstream import Upstream, UpstreamSnapshot

#: how long an endpoint that came back takes to get its full share, in seconds, and what it
#: gets at once
RAMP_S = 10.0
RAMP_FLOOR = 0.1
#: with so many requests in flight at an endpoint, other zones take what more comes
SPILL_AT = 50
T = TypeVar("T")
Candidates = tuple[Upstream, ...]


def not_retired(candidates: Candidates) -> Candidates:
    return tuple(view for view in candidates if not view.retired)


def not_out(candidates: Candidates) -> Candidates:
    """Those that are neither ejected nor waiting for a trial."""
    return tuple(view for view in candidates if view.ejected_until_s is None)


def in_zone(candidates: Candidates, zone: str | None) -> Candidates:
    """One healthy local endpoint is enough to stay local; without one, all of them."""
    local = tuple(view for view in candidates if zone is not None and view.zone == zone)
    return local or candidates


def in_family(candidates: Candidates, six: bool | None) -> Candidates:
    """One of the preferred family is enough to stay with it; without one, all of them."""
    preferred = tuple(view for view in candidates if (":" in view.endpoint.address) is six)
    return preferred or candidates


def fit(snapshot: UpstreamSnapshot) -> Candidates:
    """Those that may be used, in any zone: a second attempt may go to any of them.

    In panic, when less than half are in good standing, those ejected for their answers only count
    too: bad answers of many are better than all the load on a few.  The dead never do.
    """
    members = not_retired(snapshot.endpoints)
    good = not_out(members)
    if good and 2 * len(good) < len(members):
        return tuple(view for view in members if view in good or view.health is Health.SUSPECT)
    return good


def ready(snapshot: UpstreamSnapshot, zone: str | None) -> Candidates:
    """Whom a first attempt may go to.  Empty in panic."""
    return in_family(in_zone(fit(snapshot), zone), snapshot.six)


def improved(before: UpstreamSnapshot, after: UpstreamSnapshot) -> bool:
    """Is there an endpoint to be tried that there wasn't?  Then those wake who had nobody."""
    old = {view.endpoint: view for view in before.endpoints}
    for view in not_retired(after.endpoints):
        was = old.get(view.endpoint)
        if was is None or was.retired or (view.blameless and not was.blameless):
            return True
    return False


def ready_until(snapshot: UpstreamSnapshot, now: float) -> float:
    """Until when the answer of `ready` and `due` can't change without a new snapshot."""
    times = (view.ejected_until_s for view in snapshot.endpoints)
    return min((at for at in times if at is not None and at > now), default=inf)


def due(snapshot: UpstreamSnapshot, now: float) -> Candidates:
    """Those that wait for one idempotent request as a trial."""
    return tuple(view for view in not_retired(snapshot.endpoints) if view.is_due(now))


def ranked(snapshot: UpstreamSnapshot, zone: str | None, now: float) -> Candidates:
    """All, the best first: the order for a staggered connect, and for panic.  What was
    retired because its name is gone isn't asked even then."""

    def badness(view: Upstream) -> tuple[bool, bool, bool, bool, float, int]:
        return (
            view.retired,
            view.ejected_until_s is not None,
            view.health is Health.DEAD,
            zone is not None and view.zone != zone,
            view.ejected_until_s or 0.0,
            view.failures,
        )

    views = not_retired(snapshot.endpoints) if snapshot.gone else snapshot.endpoints
    return tuple(sorted(views, key=badness))


def next_dial(candidates: Candidates, last: Endpoint) -> Upstream | None:
    """Whom a staggered connect dials after `last`, of candidates in the order of `ranked`:
    the families take turns (RFC 8305 section 4) among those in good standing."""
    six = ":" in last.address
    turned = (view for view in not_out(candidates) if (":" in view.endpoint.address) is not six)
    return next(turned, None) or next(iter(candidates), None)


def ramp(back_s: float) -> float:
    """The share of its requests that an endpoint gets so long after it came back, in seconds:
    its caches are cold, and those who waited for it are many (slow start)."""
    return min(1.0, max(RAMP_FLOOR, back_s / RAMP_S))


def least_of_two(
    candidates: Sequence[T], in_flight: Callable[[T], int], draws: tuple[float, float]
) -> T:
    """The one with less in flight of two different ones; `draws` are numbers from [0, 1)."""
    n = len(candidates)
    first = int(draws[0] * n)
    if n == 1:
        return candidates[first]
    second = (first + 1 + int(draws[1] * (n - 1))) % n
    one, other = candidates[first], candidates[second]
    return other if in_flight(other) < in_flight(one) else one
