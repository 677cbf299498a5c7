"""The topology state machine.  Everything that changes what an endpoint *is* lives here.

`step(state, event, now) -> State` folds one event into a new state; it modifies nothing.
`state.topology` is the snapshot for publishing.  `schedule.due` says which endpoints to probe.  The
monitor does the I/O in between and applies what `effects` reads off two snapshots.

Rules (DESIGN: knowing the primary)
* A role is observed.  An endpoint without an observation is no candidate for writing.
* The writer is the one live primary of the highest timeline ever seen in this cluster.  A
  primary below it is fenced; two different servers on it are a conflict: nobody writes.
* Where a lease source names a known server (`Leased`), only that one writes, unless a higher
  timeline shows that the source is behind.
* Only probes clear a suspicion or kill.  Passive evidence merely asks sooner.
* An address that left DNS goes when it is no longer needed: at once unless it is the
  writer, and the writer when another one is published or it is dead.
"""

from __future__ import annotations

from dataclasses import field, replace

from .._dataclass import dataclass
from .health import Detector, ProbeConfig, missed, silent_to_death
from .model import Endpoint, EndpointView, FailureKind, Health, Role, Topology
from .topology_events import (
    Event,
    Evidence,
    Leased,
    Observed,
    ProbeFailed,
    ProbeSent,
    Received,
    Resolved,
    Tick,
)

__all__ = [
    "Event",
    "Evidence",
    "Known",
    "Leased",
    "NameRecord",
    "Observed",
    "ProbeConfig",
    "ProbeFailed",
    "ProbeSent",
    "Received",
    "Resolved",
    "State",
    "Tick",
    "key_of",
    "step",
]

Key = tuple[str, int, str]

#: refreshes in a row that an address of a rotating name may be absent from
ROTATING_ABSENCES = 3
#: failures that are a verdict by themselves
DEADLY = frozenset({FailureKind.REFUSED})
#: failures that say something of this process or of the credentials, not of the server
NEUTRAL = frozenset({FailureKind.LOCAL, FailureKind.CROWDED, FailureKind.REJECTED})


def key_of(endpoint: Endpoint) -> Key:
    """Two names for one address are one endpoint; a path or service is its name."""
    return (endpoint.address, endpoint.port, "" if endpoint.address else endpoint.name)


# -- state


@dataclass(frozen=True, slots=True)
class Known:
    """One endpoint and all that is remembered of it.  `clients`: see `Observation`; 0: unknown."""

    view: EndpointView
    detector: Detector = field(default_factory=Detector)
    system_id: str = ""
    incarnation: str = ""
    order: int = 0
    clients: int = 0


@dataclass(frozen=True, slots=True)
class NameRecord:
    keys: tuple[Key, ...] = ()
    absences: tuple[tuple[Key, int], ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """All of a cluster.  `highest` is the highest timeline ever seen in cluster `system_id`;
    `burst_at` since when nobody, or only a suspect, may write.  `leased`: who holds the lease, as
    primary of `lease_timeline`.  `settled`: publishing it once more would change nothing."""

    config: ProbeConfig = field(default_factory=ProbeConfig)
    known: tuple[tuple[Key, Known], ...] = ()
    names: tuple[tuple[str, NameRecord], ...] = ()
    system_id: str = ""
    highest: int | None = None
    burst_at: float | None = None
    leased: frozenset[Key] = frozenset()
    lease_timeline: int | None = None
    topology: Topology = field(default_factory=Topology)
    settled: bool = False

    def get(self, endpoint: Endpoint) -> Known | None:
        wanted = key_of(endpoint)
        return next((known for key, known in self.known if key == wanted), None)

    def put(self, known: Known) -> State:
        wanted = key_of(known.view.endpoint)
        items = tuple((key, known if key == wanted else old) for key, old in self.known)
        return replace(self, known=items)


def step(state: State, event: Event, now: float) -> State:
    """The state after one event.  Events of endpoints that are gone change nothing."""
    before = state
    if isinstance(event, Resolved):
        state = _resolved(state, event)
    elif isinstance(event, Tick):
        state = _ticked(state, event.late_s, now)
    elif isinstance(event, Leased):
        leased = frozenset(map(key_of, event.holders))
        state = replace(state, leased=leased, lease_timeline=event.timeline, settled=False)
    else:
        known = state.get(event.endpoint)
        if known is None:
            return state
        if isinstance(event, ProbeSent):
            return state.put(replace(known, detector=known.detector.sent(event.probe, now)))
        if isinstance(event, Received):
            detector = known.detector.spared(event.probe).received(event.at_s)
            return state.put(replace(known, detector=detector))
        if isinstance(event, Observed):
            state = _observed(state, known, event, now)
        elif isinstance(event, ProbeFailed):
            state = state.put(_probe_failed(known, event, now))
        else:
            state = state.put(_suspected(known, event, now))
    if before.settled and state.leased is before.leased and _looks_as(state, before):
        return state
    return _publish(_without_retired(state), now)


def _looks_as(new: State, old: State) -> bool:
    """Does all that is published, or decides on it, stand as it did?  Most answers are news of
    nothing but that they came."""
    return new.names is old.names and all(
        (one.view is other.view or one.view == other.view)
        and (one.system_id, one.incarnation) == (other.system_id, other.incarnation)
        for (_, one), (_, other) in zip(new.known, old.known, strict=True)
    )


def _observed(state: State, known: Known, event: Observed, now: float) -> State:
    seen = event.observation
    detector = known.detector.heard(event.probe, now, event.held_s)
    risen = known.view.health is not Health.DEAD or (
        detector.answers >= state.config.success_threshold
    )
    reborn = bool(known.incarnation) and seen.incarnation not in ("", known.incarnation)
    view = replace(
        known.view,
        role=seen.role,
        health=Health.UP if risen else Health.DEAD,
        lag_s=seen.lag_s if seen.role is Role.REPLICA else None,
        epoch=seen.timeline if seen.timeline is not None else known.view.epoch,
        read_only=seen.read_only,
        # A restart closed every older connection, whether or not a probe saw it down.
        generation=known.view.generation + reborn,
        reason="",
    )
    updated = replace(
        known,
        view=view,
        detector=detector,
        system_id=seen.system_id or known.system_id,
        incarnation=seen.incarnation or known.incarnation,
        clients=known.clients if seen.clients is None else seen.clients,
    )
    return state.put(updated)


def _probe_failed(known: Known, event: ProbeFailed, now: float) -> Known:
    detector = known.detector.failed(event.probe, now if event.kind in DEADLY else None)
    why = event.detail or event.kind.value
    if event.kind in NEUTRAL:
        view = replace(known.view, reason=why)
        return replace(known, view=view, detector=replace(detector, unanswered=0, heard_at=now))
    if event.kind in DEADLY:
        return _dead(replace(known, detector=detector.suspected(now)), why)
    view = known.view
    if event.kind in (FailureKind.NOT_READY, FailureKind.SHUTDOWN, FailureKind.ERROR):
        # Alive, but no sessions or an odd answer: what it was, it is no longer for sure.
        lost = view.role is not Role.UNKNOWN
        view = replace(view, role=Role.UNKNOWN, generation=view.generation + lost)
        detector = replace(detector, heard_at=now, unanswered=0)
    if view.health is Health.UP:
        view = replace(view, health=Health.SUSPECT)
    return replace(known, view=replace(view, reason=why), detector=detector.suspected(now))


def _suspected(known: Known, event: Evidence, now: float) -> Known:
    if event.kind in NEUTRAL or event.generation < known.view.generation:
        return known  # an old connection's news is about a server that was
    view = known.view
    if view.health is Health.UP:
        view = replace(view, health=Health.SUSPECT, reason=event.detail or event.kind.value)
    return replace(known, view=view, detector=known.detector.suspected(now))


def _dead(known: Known, why: str) -> Known:
    if known.view.health is Health.DEAD:
        return replace(known, view=replace(known.view, reason=why))
    view = replace(
        known.view,
        health=Health.DEAD,
        role=Role.UNKNOWN,
        lag_s=None,
        generation=known.view.generation + 1,
        reason=why,
    )
    return replace(known, view=view)


def _ticked(state: State, late_s: float, now: float) -> State:
    for _, before in state.known:
        known, detector = before, before.detector.excused(late_s, now)
        if detector is not before.detector:
            state = state.put(known := replace(before, detector=detector))
        if detector.excuses > before.detector.excuses:
            continue  # listened to first; who is late at every look judges all the same
        if silent_to_death(known.detector, state.config, now):
            silence = now - (known.detector.heard_at or now)
            if known.view.health is not Health.DEAD:
                state = state.put(_dead(known, f"no answer for {silence:.1f} s"))
        elif missed(known.detector, state.config, now) and known.view.health is not Health.DEAD:
            health = Health.SUSPECT if known.view.health is Health.UP else known.view.health
            view = replace(known.view, health=health, reason="a probe is unanswered")
            state = state.put(replace(known, view=view, detector=known.detector.suspected(now)))
    return state


# -- names


def _resolved(state: State, event: Resolved) -> State:
    known = dict(state.known)
    record = dict(state.names).get(event.name, NameRecord())
    zones = event.zones or (None,) * len(event.endpoints)
    now_keys = []
    for endpoint, zone in zip(event.endpoints, zones, strict=True):
        key = key_of(endpoint)
        now_keys.append(key)
        if key in known:
            known[key] = replace(known[key], view=replace(known[key].view, retired=False))
        else:
            order = max((item.order for item in known.values()), default=-1) + 1
            known[key] = Known(EndpointView(endpoint, zone), order=order)
    absences = dict(record.absences) if event.rotating else {}
    kept = list(now_keys)
    for key in record.keys:
        if key in now_keys or key not in known:
            continue
        absences[key] = absences.get(key, 0) + 1
        alive = known[key].view.health is not Health.DEAD
        if event.rotating and alive and absences[key] < ROTATING_ABSENCES:
            kept.append(key)
    names = dict(state.names)
    left = tuple((key, n) for key, n in absences.items() if key in kept and key not in now_keys)
    names[event.name] = NameRecord(tuple(kept), left)
    wanted = {key for item in names.values() for key in item.keys}
    for key, item in known.items():
        if key not in wanted:
            known[key] = replace(item, view=replace(item.view, retired=True))
    return replace(state, known=tuple(known.items()), names=tuple(names.items()))


def _without_retired(state: State) -> State:
    writer = _decide(state)[0]
    here = key_of(writer.endpoint) if writer else None
    kept = tuple((key, item) for key, item in state.known if not item.view.retired or key == here)
    return state if len(kept) == len(state.known) else replace(state, known=kept)


# -- who writes


def _pinned(state: State) -> State:
    """Which cluster this is.  Another one is taken only when nothing of ours is left."""
    ids = {item.system_id for _, item in state.known if item.system_id}
    if not ids or state.system_id in ids:
        return state
    first = min((item.order, item.system_id) for _, item in state.known if item.system_id)[1]
    return replace(state, system_id=first, highest=None)


def _contenders(state: State) -> list[Known]:
    """The live primaries of the highest timeline."""
    best: list[Known] = []
    for _, item in state.known:
        view = item.view
        if view.role is not Role.PRIMARY or view.health is Health.DEAD or view.read_only:
            continue
        if item.system_id != state.system_id or (view.epoch or 0) < (state.highest or 0):
            continue
        best.append(item)
    return sorted(best, key=lambda item: item.order)


def _decide(state: State) -> tuple[EndpointView | None, str]:
    """(writer, conflict) of the state as it stands."""
    ousted = _ousted(state)
    best = [item for item in _contenders(state) if key_of(item.view.endpoint) not in ousted]
    if not best:
        return None, ""
    servers = {item.incarnation for item in best}
    if len(best) > 1 and (len(servers) > 1 or "" in servers):
        current = [item for item in best if not item.view.retired]
        if len(current) == 1:
            return current[0].view, ""
        names = ", ".join(str(item.view.endpoint) for item in best)
        return None, f"two primaries on timeline {state.highest}: {names}"
    return best[0].view, ""


def _ousted(state: State) -> frozenset[Key]:
    """The primaries that another server's lease rules out: what they acknowledge will be lost.

    A primary of a higher timeline than the holder's isn't: the source is behind the promotion.
    Where the source tells no timeline, the lease settles a tie only.
    """
    if not state.leased:
        return frozenset()
    holders = [item for key, item in state.known if key in state.leased]
    servers = {item.incarnation for item in holders}
    until = state.lease_timeline
    if until is None and any(item in holders for item in _contenders(state)):
        until = state.highest
    if len(servers) != 1 or until is None:
        return frozenset()
    return frozenset(
        key
        for key, item in state.known
        if item.view.role is Role.PRIMARY and key not in state.leased
        if item.incarnation not in servers - {""} and (item.view.epoch or 0) <= until
    )


def _fence(item: Known, state: State, ousted: frozenset[Key]) -> Known:
    view, reason = item.view, ""
    if item.system_id and item.system_id != state.system_id:
        reason = f"belongs to cluster {item.system_id}, not {state.system_id}"
    elif view.role is Role.PRIMARY and (view.epoch or 0) < (state.highest or 0):
        reason = f"fenced: primary of timeline {view.epoch}, {state.highest} was seen"
    elif key_of(view.endpoint) in ousted:
        reason = "fenced: another server holds the lease"
    fenced = bool(reason)
    if fenced == view.fenced and reason in ("", view.reason):
        return item
    generation = view.generation + (fenced and not view.fenced)
    return replace(item, view=replace(view, fenced=fenced, reason=reason, generation=generation))


def _publish(given: State, now: float) -> State:
    state = _pinned(given)
    epochs = [
        item.view.epoch
        for _, item in state.known
        if item.view.epoch is not None and item.system_id == state.system_id
    ]
    highest = max([*epochs, state.highest or 0])
    state = state if highest == (state.highest or 0) else replace(state, highest=highest)
    old = state.topology
    ousted = _ousted(state)
    fenced = sorted((_fence(item, state, ousted) for _, item in state.known), key=lambda k: k.order)
    items = [_demoted(item, old) for item in fenced]
    known = tuple((key_of(item.view.endpoint), item) for item in items)
    state = state if known == state.known else replace(state, known=known)
    views = tuple(item.view for item in items)
    writer, conflict = _decide(state)
    current = next((v for v in views if writer and v.endpoint == writer.endpoint), None)
    troubled = current is None or current.health is not Health.UP
    burst_at = (state.burst_at if state.burst_at is not None else now) if troubled else None
    new = Topology(old.version, views, current, state.highest, conflict)
    if new.shape != old.shape:
        new = replace(new, version=old.version + 1)
    return replace(state, topology=new, burst_at=burst_at, settled=state is given)


def _demoted(item: Known, old: Topology) -> Known:
    """A primary that now says replica: its connections were opened for writing."""
    view = item.view
    before = old.find(view.endpoint)
    if before and before.role is Role.PRIMARY and view.role is Role.REPLICA:
        return replace(item, view=replace(view, generation=view.generation + 1))
    return item
