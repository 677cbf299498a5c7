"""Choosing an endpoint.  Selectors compose: each maps candidates to candidates.

    role → not ejected → staleness bound → zone → latency window → balance

A selector never invents a candidate, and `prefer` falls back to its input where a narrower
choice would be empty.  Randomness is the caller's `rng`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Protocol

from .._dataclass import dataclass
from .model import EndpointView, Health, Intent, Role, Topology


class Rng(Protocol):
    """What is used of `random.Random`."""

    def randrange(self, stop: int, /) -> int: ...


class Target(StrEnum):
    """libpq's `target_session_attrs`."""

    ANY = "any"
    PRIMARY = "primary"
    STANDBY = "standby"
    PREFER_PRIMARY = "prefer-primary"
    PREFER_STANDBY = "prefer-standby"
    READ_WRITE = "read-write"
    READ_ONLY = "read-only"


class Balance(StrEnum):
    ORDER = "order"  # the first listed that fits
    RANDOM = "random"
    LEAST_BUSY = "least_busy"  # of two random choices the less busy
    EVEN = "even"  # as random: a fresh draw over all that fit


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint with what only the caller knows of it.

    `avoid`: it failed a moment ago.  `tags`: what a zone preference may ask for besides the
    zone's name.  `rtt_s`: smoothed round trip, None when unknown.
    """

    view: EndpointView
    in_flight: int = 0
    rtt_s: float | None = None
    avoid: bool = False
    tags: tuple[tuple[str, str], ...] = ()


Zone = str | tuple[tuple[str, str], ...] | None
Candidates = tuple[Candidate, ...]
Selector = Callable[[Candidates], Candidates]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.  `zones`: preference list, tried in order, None = anywhere."""

    target: Target = Target.ANY
    zones: tuple[Zone, ...] = (None,)
    max_lag_s: float | None = None
    window_s: float | None = None
    balance: Balance = Balance.LEAST_BUSY
    exclude: frozenset[object] = field(default_factory=frozenset)


def _writable(candidate: Candidate) -> bool:
    return candidate.view.role is Role.PRIMARY and not candidate.view.read_only


def _only(test: Callable[[Candidate], bool]) -> Selector:
    return lambda found: tuple(item for item in found if test(item))


def usable(request: Request) -> Selector:
    """Observed, alive, not fenced, not excluded."""
    return _only(
        lambda item: (
            item.view.usable
            and not item.view.astray
            and item.view.role is not Role.UNKNOWN
            and item.view.endpoint not in request.exclude
        )
    )


def by_role(target: Target) -> tuple[Selector, ...]:
    """The selectors of a target, best first: each is tried until one leaves somebody."""
    standby = _only(lambda item: item.view.role is Role.REPLICA)
    primary = _only(lambda item: item.view.role is Role.PRIMARY)
    return {
        Target.ANY: (_only(lambda _: True),),
        Target.PRIMARY: (primary,),
        Target.STANDBY: (standby,),
        Target.PREFER_PRIMARY: (primary, standby),
        Target.PREFER_STANDBY: (standby, primary),
        Target.READ_WRITE: (_only(_writable),),
        Target.READ_ONLY: (_only(lambda item: not _writable(item)),),
    }[target]


def fresh_enough(bound_s: float | None) -> Selector:
    """A replica of unknown lag fails any bound; a primary never lags."""

    def test(item: Candidate) -> bool:
        if bound_s is None or item.view.role is Role.PRIMARY:
            return True
        return item.view.lag_s is not None and item.view.lag_s <= bound_s

    return _only(test)


def in_zone(zone: Zone) -> Selector:
    """A zone's name, a set of tags, or None for anywhere."""
    if zone is None:
        return _only(lambda _: True)
    if isinstance(zone, str):
        return _only(lambda item: item.view.zone == zone)
    return _only(lambda item: set(zone) <= set(item.tags))


def prefer(test: Callable[[Candidate], bool]) -> Selector:
    """Those that pass, or everybody when nobody does."""
    return lambda found: tuple(item for item in found if test(item)) or found


def in_window(window_s: float | None) -> Selector:
    """Those within `window_s` of the nearest.  Unknown round trips are not judged."""

    def select(found: Candidates) -> Candidates:
        known = [item.rtt_s for item in found if item.rtt_s is not None]
        if window_s is None or not known:
            return found
        limit = min(known) + window_s
        return tuple(item for item in found if item.rtt_s is None or item.rtt_s <= limit)

    return select


def pick(found: Candidates, balance: Balance, rng: Rng) -> Candidate:
    """One of them.  `found` is not empty."""
    if balance is Balance.ORDER or len(found) == 1:
        return found[0]
    first = rng.randrange(len(found))
    if balance is not Balance.LEAST_BUSY:
        return found[first]
    second = rng.randrange(len(found) - 1)
    second += second >= first
    one, two = found[first], found[second]
    return two if two.in_flight < one.in_flight else one


def fitting(found: Sequence[Candidate], request: Request) -> Candidates:
    """All that may be taken, after every narrowing but the draw.  Empty when nobody fits."""
    alive = usable(request)(tuple(found))
    for role in by_role(request.target):
        bounded = fresh_enough(request.max_lag_s)(role(alive))
        spared = tuple(item for item in bounded if not item.avoid)
        # First among those that didn't just fail, then, rather than nobody, among all.
        for pool in (spared, bounded):
            for zone in request.zones:
                local = in_zone(zone)(pool)
                local = prefer(lambda item: item.view.health is Health.UP)(local)
                if local:
                    return in_window(request.window_s)(local)
    return ()


def choose(found: Sequence[Candidate], request: Request, rng: Rng) -> Candidate | None:
    """The endpoint to take, None when nobody fits."""
    left = fitting(found, request)
    return pick(left, request.balance, rng) if left else None


def read_request(
    zone: str | None, max_lag_s: float | None, exclude: frozenset[object] = frozenset()
) -> Request:
    """Reads: a healthy replica here, else elsewhere, the primary last."""
    zones: tuple[Zone, ...] = (zone, None) if zone else (None,)
    return Request(Target.PREFER_STANDBY, zones, max_lag_s, exclude=exclude)


class Search:
    """A reader's way: each replica for `share_s` seconds, then the primary, and round again.

    A replica that had no room, or no proof, may have it before the primary has room, or before
    there is a primary.  Rounds double, so that who waits for long keeps its place in a queue.
    `passed`: endpoints that aren't to be asked in this round; the `avoided` in none, and those that
    were `late` for somebody else a moment ago not in the first.
    """

    def __init__(
        self,
        avoided: frozenset[object],
        share_s: float,
        late: frozenset[object] = frozenset(),
    ) -> None:
        self._avoided = avoided
        self.passed = avoided | late
        self.share_s = share_s

    def passes(self, endpoint: object) -> None:
        """It had no room, or no proof."""
        self.passed |= {endpoint}

    @property
    def comes_back(self) -> bool:
        """Is there somebody to look at again?"""
        return self.passed != self._avoided

    def patience_s(self, left_s: float) -> float:
        """How long to wait for the primary, of the seconds that are left."""
        return min(left_s, self.share_s) if self.comes_back else left_s

    def again(self) -> None:
        """The next round."""
        self.passed = self._avoided
        self.share_s *= 2


def explain(topology: Topology, request: Request) -> dict[str, str]:
    """Endpoint → why it was not taken, for an error's text."""
    reasons = {}
    for view in topology.endpoints:
        why = view.refusal(Intent.READ)
        if not why and view.endpoint in request.exclude:
            why = "failed in this call"
        if not why and request.max_lag_s is not None and view.role is Role.REPLICA:
            lag = "unknown" if view.lag_s is None else f"{view.lag_s:.1f} s"
            why = f"lag {lag}, bound {request.max_lag_s:g} s"
        reasons[str(view.endpoint)] = why or f"a {view.role.value}"
    return reasons
