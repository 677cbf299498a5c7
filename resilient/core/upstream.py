"""What is known of the endpoints of one HTTP origin, and how it changes.

Everything that affects the state machine lives here: `step(snapshot, event, config, now)`
returns an updated copy and what happened.  An endpoint is *ejected* while `ejected_until_s` lies
ahead; it is

- when a connect fails (refused, unreachable, or silent although another one answered),
- when its health checks have been silent for a whole window,
- when `eject_after` failures in a row came from it (outlier ejection),
- when active probes say so;

but never the last one that is left, and outliers only while half of the endpoints stay in.
The n-th time in a row it stays so n × as long, up to ten times.  When that time is over it
is *due* for a trial: one idempotent request goes there, the others don't, until it answers.
With active probes (`config.active`) a dead endpoint comes back by a probe instead.

DNS: `strict` names retire an endpoint as soon as it is missing from an answer; `rotating`
ones (large load balancers answer with a subset) when it is missing *and* ejected, or missing
from `ABSENT_LIMIT` refreshes in a row.  A retired endpoint finishes what is in flight.

While DNS says that the name doesn't exist (`gone`), an endpoint stays as long as it answers:
one that never did is retired at once, one that is ejected later is too, be it the last, and
nothing but another answer of DNS brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Literal

from .._dataclass import dataclass
from .model import Endpoint, Health
from .upstream_events import (
    Answered,
    EndpointAdded,
    EndpointBack,
    EndpointEjected,
    EndpointLost,
    EndpointRetired,
    Failed,
    Gone,
    Input,
    Lost,
    Probed,
    Succeeded,
    Trouble,
    UpstreamEvent,
)

MAX_EJECTION_FACTOR = 10
#: refreshes in a row without an address until a rotating name has lost it
ABSENT_LIMIT = 3
#: refreshes for which a retired endpoint stays visible
RETIRED_LIMIT = 3
_GOOD = (Health.UP, Health.UNKNOWN)


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """The settings that matter here; durations in seconds."""

    eject_after: int = 5
    eject_s: float = 30.0
    connect_retry_s: float = 1.0
    window_s: float = 2.0
    probe_interval_s: float = 1.0
    failure_threshold: int = 2
    success_threshold: int = 1
    active: bool = False
    mode: Literal["strict", "rotating"] | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """One endpoint.  Times are monotonic seconds.

    `failures`: in a row.  `ejections`: in a row.  `ejected_since_s`: when it was last ejected.
    `hung_since_s`: it is ejected, and its health checks have had no answer since then.  `absent`:
    refreshes in a row that DNS left it out.
    """

    endpoint: Endpoint
    zone: str | None = None
    health: Health = Health.UNKNOWN
    failures: int = 0
    ejections: int = 0
    ejected_since_s: float = -inf
    ejected_until_s: float | None = None
    hung_since_s: float | None = None
    probe_answers: int = 0
    probe_failures: int = 0
    absent: int = 0
    retired: bool = False
    reason: str = ""

    def is_ejected(self, now: float) -> bool:
        return self.ejected_until_s is not None and now < self.ejected_until_s

    def is_due(self, now: float) -> bool:
        """Its ejection is over, and nobody has tried it yet."""
        return self.ejected_until_s is not None and now >= self.ejected_until_s

    @property
    def spotless(self) -> bool:
        """A success would change nothing."""
        return self.health is Health.UP and self.blameless

    @property
    def blameless(self) -> bool:
        """Nothing is known against it; it may never have been asked."""
        return not self.failures and self.ejected_until_s is None and self.health in _GOOD


@dataclass(frozen=True, slots=True)
class UpstreamSnapshot:
    """The endpoints of one origin; `version` grows with every change.

    `six`: the family that DNS put first, as the resolver orders them (RFC 6724), is IPv6.
    `resolved`: DNS gave endpoints, and not all of them are gone.  `gone`: its last answer
    was that there is no such name.
    """

    host: str
    port: int
    version: int = 0
    endpoints: tuple[Upstream, ...] = ()
    canonical: str = ""
    six: bool | None = None
    resolved: bool = False
    gone: bool = False

    def find(self, endpoint: Endpoint) -> Upstream | None:
        return next((view for view in self.endpoints if view.endpoint == endpoint), None)

    def reasons(self) -> dict[str, str]:
        """Endpoint → why it would rather not be used."""
        return {
            str(view.endpoint): "retired" if view.retired else view.reason or view.health.value
            for view in self.endpoints
        }


def proved_dead(
    hung_since_s: float | None,
    heard_s: float,
    others_heard_s: Iterable[float],
    config: UpstreamConfig,
    now: float,
) -> bool:
    """May a request that can't be sent again be given up at this endpoint?

    Silence of that request, or of others like it, proves nothing: a server with one worker is
    as silent while it works on it.  What does is a window without an answer to health checks
    (`hung_since_s`; the operator says that a healthy endpoint answers them) and without a
    single byte in any other exchange (`heard_s`, the last one), while another endpoint is
    heard: so it isn't the network next to us.  That may have failed as late as this endpoint's
    next health check was due; what another one sent before then proves nothing.  Times are
    monotonic seconds.
    """
    if hung_since_s is None:
        return False
    since_s = max(hung_since_s, heard_s)
    if now - since_s < config.window_s:
        return False
    return any(other_s > since_s + config.probe_interval_s for other_s in others_heard_s)


def is_hung(hung_since_s: float | None, heard_s: float, config: UpstreamConfig, now: float) -> bool:
    """May a request that can be repeated leave this endpoint without its answer?

    The evidence is a window without an answer to health checks (`hung_since_s`), in which
    nothing else came from there either (`heard_s`): silence of requests is none.
    """
    if hung_since_s is None:
        return False
    return now - max(hung_since_s, heard_s) >= config.window_s


EventType = Callable[[float, Endpoint, str | None, str, str], UpstreamEvent]
Events = tuple[UpstreamEvent, ...]
Stepped = tuple[UpstreamSnapshot, Events]


def step(snapshot: UpstreamSnapshot, event: Input, config: UpstreamConfig, now: float) -> Stepped:
    """The snapshot after `event`, and what happened.  The same object if nothing did."""
    if isinstance(event, Answered):
        return _answered(snapshot, event, config, now)
    if isinstance(event, Gone):
        return _gone(snapshot, now)
    view = snapshot.find(event.endpoint)
    if view is None:
        return snapshot, ()
    if isinstance(event, Lost):
        return _lost(snapshot, view, event, config, now)
    if isinstance(event, Failed):
        return _failed(snapshot, view, event, config, now)
    if isinstance(event, Succeeded):
        if event.began_s < view.ejected_since_s:
            return snapshot, ()
        return _back(snapshot, view, now)
    if isinstance(event, Probed):
        return _probed(snapshot, view, event, config, now)
    trial = replace(view, ejected_until_s=now + config.window_s)
    return _replaced(snapshot, view, trial), ()


def _replaced(snapshot: UpstreamSnapshot, old: Upstream, new: Upstream) -> UpstreamSnapshot:
    if old == new:
        return snapshot
    views = tuple(new if view is old else view for view in snapshot.endpoints)
    return _with(snapshot, views)


def _with(snapshot: UpstreamSnapshot, views: tuple[Upstream, ...]) -> UpstreamSnapshot:
    resolved = snapshot.resolved and not all(view.retired for view in views)
    return replace(snapshot, version=snapshot.version + 1, endpoints=views, resolved=resolved)


def _leaving(snapshot: UpstreamSnapshot, old: Upstream, new: Upstream, now: float) -> Events:
    """The event when an endpoint is ejected that only its own answers held."""
    gone = snapshot.gone and not old.retired
    return (_event(EndpointRetired, new, now, f"no such name; {new.reason}"),) if gone else ()


def _event(kind: EventType, view: Upstream, now: float, why: str, cause: str = "") -> UpstreamEvent:
    return kind(now, view.endpoint, view.zone, why, cause)


def _alternatives(snapshot: UpstreamSnapshot, view: Upstream, now: float) -> int:
    """Other endpoints that may be used now."""
    others = (other for other in snapshot.endpoints if other is not view)
    return sum(not other.retired and not other.is_ejected(now) for other in others)


def _ejections(view: Upstream, config: UpstreamConfig, now: float) -> int:
    """How many times in a row it was ejected, this one included; calm days forgive."""
    calm_s = MAX_EJECTION_FACTOR * config.eject_s
    return view.ejections + 1 if now - view.ejected_since_s < calm_s else 1


def _brief_s(ejections: int, config: UpstreamConfig) -> float:
    """How long it stays ejected where trying it again costs little: one staggered connect."""
    return min(config.eject_s, config.connect_retry_s * 2.0 ** min(ejections - 1, 16))


def _lost(
    snapshot: UpstreamSnapshot, view: Upstream, event: Lost, config: UpstreamConfig, now: float
) -> Stepped:
    reason = event.detail or event.trouble.value
    if not snapshot.gone and not _alternatives(snapshot, view, now):
        # Somebody has to be asked; a note for the error's text is all that changes.
        noted = replace(view, health=Health.SUSPECT, failures=view.failures + 1, reason=reason)
        return _replaced(snapshot, view, noted), ()
    ejections = _ejections(view, config, now)
    if config.active:
        until_s = inf
    elif event.trouble in (Trouble.REFUSED, Trouble.CONNECT_SILENT):
        until_s = now + _brief_s(ejections, config)
    else:
        until_s = now + config.eject_s * min(ejections, MAX_EJECTION_FACTOR)
    silent = event.trouble is Trouble.SILENT
    ejected = replace(
        view,
        health=Health.DEAD,
        failures=view.failures + 1,
        ejections=ejections,
        ejected_since_s=now,
        ejected_until_s=until_s,
        hung_since_s=(event.since_s or view.hung_since_s) if silent else None,
        probe_answers=0,
        reason=reason,
        retired=view.retired or snapshot.gone,
    )
    known = view.health is Health.DEAD
    events = () if known else (_event(EndpointLost, ejected, now, reason, event.trouble.value),)
    return _replaced(snapshot, view, ejected), (*events, *_leaving(snapshot, view, ejected, now))


def _failed(
    snapshot: UpstreamSnapshot, view: Upstream, event: Failed, config: UpstreamConfig, now: float
) -> Stepped:
    failures = view.failures + 1
    trial_failed = view.ejected_until_s is not None
    bad = replace(view, failures=failures, reason=event.detail or view.reason)
    if failures < config.eject_after and not trial_failed:
        return _replaced(snapshot, view, bad), ()
    members = [other for other in snapshot.endpoints if not other.retired]
    left = _alternatives(snapshot, view, now)
    if not snapshot.gone and (not left or 2 * left < len(members)):
        return _replaced(snapshot, view, bad), ()
    ejections = _ejections(view, config, now)
    until_s = now + config.eject_s * min(ejections, MAX_EJECTION_FACTOR)
    ejected = replace(
        bad,
        health=Health.SUSPECT,
        failures=0,
        ejections=ejections,
        ejected_since_s=now,
        ejected_until_s=max(until_s, view.ejected_until_s or until_s),
        retired=view.retired or snapshot.gone,
    )
    news = () if trial_failed else (_event(EndpointEjected, ejected, now, bad.reason, "failures"),)
    return _replaced(snapshot, view, ejected), (*news, *_leaving(snapshot, view, ejected, now))


def _back(snapshot: UpstreamSnapshot, view: Upstream, now: float) -> Stepped:
    if view.spotless:
        return snapshot, ()
    up = replace(view, health=Health.UP, failures=0, ejected_until_s=None, hung_since_s=None,
                 probe_failures=0, reason="")  # fmt: skip
    events = () if view.ejected_until_s is None else (_event(EndpointBack, up, now, view.reason),)
    return _replaced(snapshot, view, up), events


def _probed(
    snapshot: UpstreamSnapshot, view: Upstream, event: Probed, config: UpstreamConfig, now: float
) -> Stepped:
    if not event.healthy:
        failures = view.probe_failures + 1
        noted = replace(view, hung_since_s=None, probe_answers=0, probe_failures=failures)
        snapshot = _replaced(snapshot, view, noted)
        if failures < config.failure_threshold or view.is_ejected(now):
            return snapshot, ()
        return _lost(
            snapshot, noted, Lost(view.endpoint, Trouble.PROBES, event.detail), config, now
        )
    answers = view.probe_answers + 1
    if view.health is Health.DEAD and answers >= config.success_threshold:
        return _back(snapshot, view, now)
    noted = replace(view, hung_since_s=None, probe_answers=answers, probe_failures=0)
    if view.health is not Health.DEAD:
        health = Health.UP if view.ejected_until_s is None else view.health
        noted = replace(noted, health=health, probe_answers=0)
    return _replaced(snapshot, view, noted), ()


def _answered(
    snapshot: UpstreamSnapshot, event: Answered, config: UpstreamConfig, now: float
) -> Stepped:
    mode = config.mode or event.mode or _mode(snapshot, event)
    zones = dict(zip(event.addresses, event.zones, strict=False))
    kept: list[Upstream] = []
    events: list[UpstreamEvent] = []
    for view in snapshot.endpoints:
        address = view.endpoint.address
        if address in zones or address in event.addresses:
            kept.append(replace(view, absent=0, retired=False, zone=zones.get(address, view.zone)))
            continue
        gone = _missing(view, mode, now)
        if gone.retired and not view.retired:
            events.append(_event(EndpointRetired, gone, now, f"gone from DNS ({mode})"))
        if gone.absent <= RETIRED_LIMIT + ABSENT_LIMIT:
            kept.append(gone)
    known = {view.endpoint.address for view in kept}
    for address in dict.fromkeys(event.addresses):
        if address not in known:
            endpoint = Endpoint(snapshot.host, address, snapshot.port)
            kept.append(Upstream(endpoint, zones.get(address)))
            events.append(_event(EndpointAdded, kept[-1], now, ""))
    views = tuple(kept)
    six = any(":" in address for address in event.addresses[:1])
    fresh = snapshot.gone or not snapshot.resolved or six is not snapshot.six
    if views == snapshot.endpoints and not fresh:
        return snapshot, ()
    after = replace(
        snapshot,
        version=snapshot.version + 1,
        endpoints=views,
        canonical=event.canonical or snapshot.canonical,
        six=six,
        resolved=True,
        gone=False,
    )
    return after, tuple(events)


def _gone(snapshot: UpstreamSnapshot, now: float) -> Stepped:
    """The name is gone: so is every endpoint that was only DNS's word, or is in trouble."""
    stays = [view.retired or view.health is Health.UP for view in snapshot.endpoints]
    if snapshot.gone and all(stays):
        return snapshot, ()
    both = list(zip(snapshot.endpoints, stays, strict=True))
    views = tuple(view if stay else replace(view, retired=True) for view, stay in both)
    left = [view for view, stay in both if not stay]
    events = tuple(_event(EndpointRetired, view, now, "no such name") for view in left)
    return replace(_with(snapshot, views), gone=True), events


def _mode(snapshot: UpstreamSnapshot, event: Answered) -> Literal["strict", "rotating"]:
    moved = bool(snapshot.canonical and event.canonical != snapshot.canonical)
    return "strict" if moved or len(event.addresses) == 1 else "rotating"


def _missing(view: Upstream, mode: str, now: float) -> Upstream:
    absent = view.absent + 1
    retired = view.retired or mode == "strict" or view.is_ejected(now) or absent >= ABSENT_LIMIT
    return replace(view, absent=absent, retired=retired)
