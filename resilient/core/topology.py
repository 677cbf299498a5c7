"""The topology state machine.  Everything that changes what an endpoint *is* lives here.

`step(state, event, now) -> State` folds one event into a new state; it modifies nothing.
`state.topology` is the snapshot for publishing.  `schedule.due` says which endpoints to probe.  The
monitor does the I/O in between and applies what `effects` reads off two snapshots.

Rules (DESIGN: knowing the primary)
* A role is observed.  An endpoint without an observation is no candidate for writing.
* The writer is the one live primary of the highest timeline ever seen in this cluster.  A
  primary below it is fenced; two different servers on it are a conflict: nobody writes.
  `topology_writer` has these rules, `topology_names` those of names.
* An address may have several servers behind it: `members`.
* Where a lease source names a known server (`Leased`), only that one writes, unless a higher
  timeline shows that the source is behind.
* Only probes clear a suspicion or kill.  Passive evidence merely asks sooner.
* An address that left DNS goes when it is no longer needed: at once unless it is the
  writer, and the writer when another one is published or it is dead.
"""

from __future__ import annotations

from dataclasses import replace

from . import topology_writer as writing
from .health import ProbeConfig, missed, silent_to_death
from .members import one
from .model import EndpointView, FailureKind, Health, Observation, Role, Switch, Topology
from .topology_events import (
    Event,
    Evidence,
    Fenced,
    Leased,
    Observed,
    ProbeFailed,
    ProbeSent,
    Promoted,
    Received,
    Resolved,
    Tick,
)
from .topology_names import resolved
from .topology_state import Known, NameRecord, State, key_of

__all__ = [
    "Event",
    "Evidence",
    "Fenced",
    "Known",
    "Leased",
    "NameRecord",
    "Observed",
    "ProbeConfig",
    "ProbeFailed",
    "ProbeSent",
    "Promoted",
    "Received",
    "Resolved",
    "State",
    "Tick",
    "key_of",
    "step",
]

#: failures that are a verdict by themselves
DEADLY = frozenset({FailureKind.REFUSED})
#: a pooler whose last sign of life is older than so many intervals is under suspicion
POOLED_LATE = 1.5
#: failures that say something of this process or of the credentials, not of the server
NEUTRAL = frozenset({FailureKind.LOCAL, FailureKind.CROWDED, FailureKind.REJECTED})


def step(state: State, event: Event, now: float) -> State:
    """The state after one event.  Events of endpoints that are gone change nothing."""
    before = state
    if isinstance(event, Resolved):
        state = resolved(state, event)
    elif isinstance(event, Tick):
        state = _ticked(state, event.late_s, now)
    elif isinstance(event, Leased):
        leased = frozenset(map(key_of, event.holders))
        state = replace(state, leased=leased, lease_timeline=event.timeline, settled=False)
    elif isinstance(event, Fenced):
        heights = dict(state.heights)
        heights[event.system_id] = max(event.timeline, heights.get(event.system_id, 0))
        state = replace(state, heights=tuple(heights.items()), settled=False)
    else:
        known = state.get(event.endpoint)
        if known is None:
            return state
        if isinstance(event, ProbeSent):
            return state.put(replace(known, detector=known.detector.sent(event.probe, now)))
        if isinstance(event, Received):
            detector = known.detector.spared(event.probe).received(event.at_s)
            return state.put(replace(known, detector=detector))
        state = _told(state, known, event, now)
    if state.settled and _looks_as(state, before):
        return state
    return _publish(_without_retired(state), now)


def _told(
    state: State,
    known: Known,
    event: Observed | ProbeFailed | Promoted | Evidence,
    now: float,
) -> State:
    """News of an endpoint."""
    if isinstance(event, Observed):
        return _observed(state, known, event, now)
    if isinstance(event, Promoted):
        return _branched(state, known, event)
    if isinstance(event, ProbeFailed):
        return state.put(_probe_failed(known, event, now))
    return state.put(_suspected(known, event, now))


def _looks_as(new: State, old: State) -> bool:
    """Does all that is published, or decides on it, stand as it did?  Most answers are news of
    nothing but that they came."""
    return new.names is old.names and all(
        (item.view is was.view or item.view == was.view)
        and (item.system_id, item.incarnation, item.lag_s, item.streams)
        == (was.system_id, was.incarnation, was.lag_s, was.streams)
        for (_, item), (_, was) in zip(new.known, old.known, strict=True)
    )


def _branched(state: State, known: Known, event: Promoted) -> State:
    """Where its timeline left the one before, if that one is known."""
    told = event.system_id, event.incarnation, event.timeline
    if known.parent is None or told != (known.system_id, known.incarnation, known.view.timeline):
        return state
    switch = event.system_id, event.timeline, Switch(known.parent, event.lsn)
    if switch in state.switches:
        return state
    others = tuple(item for item in state.switches if item[:2] != switch[:2])
    return replace(state, switches=(*others, switch), settled=False)


def _parent(known: Known, seen: Observation) -> int | None:
    """Of a standby its timeline, at least; of a primary the one that its own left: none lies
    between that and what the same run of this server told as a standby, or below the second."""
    same = seen.incarnation and seen.incarnation == known.incarnation
    before = known.parent if same else None
    if seen.role is not Role.PRIMARY:
        return seen.timeline or before
    if before is not None and before + 1 == seen.timeline:
        return before
    return 1 if seen.timeline == 2 else None


# long: one answer, field by field
def _observed(state: State, known: Known, event: Observed, now: float) -> State:
    seen, had = event.observation, known.incarnation
    if known.members.outdated(seen, had):
        # The address has left that server: an answer of its past, and none of its present.
        return state.put(replace(known, detector=known.detector.spared(event.probe)))
    members = known.members
    if seen.incarnation:
        members = members.heard(seen, had, now)
    # A restart closed every older connection, whether or not a probe saw it down.
    reborn = bool(had) and seen.incarnation not in ("", had) and not members.grouped
    as_one = one(members, seen)
    detector = known.detector.heard(event.probe, now, event.held_s)
    risen = known.view.health is not Health.DEAD or (
        detector.answers >= state.config.success_threshold
    )
    view = replace(
        known.view,
        role=as_one.role,
        health=Health.UP if risen else Health.DEAD,
        timeline=as_one.timeline if as_one.timeline is not None else known.view.timeline,
        read_only=seen.read_only,
        generation=known.view.generation + reborn,
        reason="",
        cause="",
        system_id=seen.system_id or known.view.system_id,
        group=members.grouped,
        pooled=seen.pooled or known.view.pooled,
    )
    updated = replace(
        known,
        view=view,
        detector=detector,
        system_id=seen.system_id or known.system_id,
        incarnation=seen.incarnation or had,
        clients=known.clients if seen.clients is None else seen.clients,
        lag_s=as_one.lag_s,
        streams=seen.streams,
        members=members,
        parent=None if members.grouped else _parent(known, seen),
    )
    heard_at = now if state.heard_at is None else state.heard_at
    return replace(state.put(updated), heard_at=heard_at)


def _probe_failed(known: Known, event: ProbeFailed, now: float) -> Known:
    detector = known.detector.failed(event.probe, now if event.kind in DEADLY else None)
    why = event.detail or event.kind.value
    if event.kind in NEUTRAL:
        view = replace(known.view, reason=why, cause=event.kind.value)
        return replace(known, view=view, detector=replace(detector, unanswered=0, heard_at=now))
    if event.kind in DEADLY:
        return _dead(replace(known, detector=detector.suspected(now)), why, event.kind)
    view = known.view
    if event.kind in (FailureKind.NOT_READY, FailureKind.SHUTDOWN, FailureKind.ERROR):
        # Alive, but no sessions or an odd answer: what it was, it is no longer for sure.
        lost = view.role is not Role.UNKNOWN
        view = replace(view, role=Role.UNKNOWN, generation=view.generation + lost)
        detector = replace(detector, heard_at=now, unanswered=0)
    if view.health is Health.UP:
        view = replace(view, health=Health.SUSPECT)
    view = replace(view, reason=why, cause=event.kind.value)
    return replace(known, view=view, detector=detector.suspected(now))


def _suspected(known: Known, event: Evidence, now: float) -> Known:
    if event.kind in NEUTRAL or event.generation < known.view.generation:
        return known  # an old connection's news is about a server that was
    view = known.view
    if event.kind is FailureKind.READ_ONLY and (view.read_only or view.role is Role.REPLICA):
        return known  # no news
    if view.health is Health.UP:
        why, cause = event.detail or event.kind.value, event.kind.value
        view = replace(view, health=Health.SUSPECT, reason=why, cause=cause)
    return replace(known, view=view, detector=known.detector.suspected(now))


def _dead(known: Known, why: str, kind: FailureKind) -> Known:
    if known.view.health is Health.DEAD:
        return replace(known, view=replace(known.view, reason=why, cause=kind.value))
    view = replace(
        known.view,
        health=Health.DEAD,
        role=Role.UNKNOWN,
        generation=known.view.generation + 1,
        reason=why,
        cause=kind.value,
    )
    return replace(known, view=view, lag_s=None)


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
                why = f"no answer for {silence:.1f} s"
                state = state.put(_dead(known, why, FailureKind.SILENT))
        elif known.view.pooled and _heard_lately(known, state.config, now):
            continue  # its servers are busy: the question waits in its queue
        elif missed(known.detector, state.config, now) and known.view.health is not Health.DEAD:
            health = Health.SUSPECT if known.view.health is Health.UP else known.view.health
            why, cause = "a probe is unanswered", FailureKind.SILENT.value
            view = replace(known.view, health=health, reason=why, cause=cause)
            state = state.put(replace(known, view=view, detector=known.detector.suspected(now)))
    return state


def _heard_lately(known: Known, config: ProbeConfig, now: float) -> bool:
    heard_at = known.detector.heard_at
    return heard_at is not None and now - heard_at < POOLED_LATE * config.interval_s


# -- what is published


def _without_retired(state: State) -> State:
    writer = writing.decide(state)[0]
    here = key_of(writer.endpoint) if writer else None
    kept = tuple((key, item) for key, item in state.known if not item.view.retired or key == here)
    return state if len(kept) == len(state.known) else replace(state, known=kept)


def _publish(given: State, now: float) -> State:
    state = writing.with_heights(writing.pinned(given))
    old = state.topology
    out = writing.ousted(state)
    items = [writing.fence(item, state, out) for _, item in state.known]
    items = writing.whose_lag(_marked(items, state), state)
    items = [_demoted(item, old) for item in sorted(items, key=lambda item: item.order)]
    known = tuple((key_of(item.view.endpoint), item) for item in items)
    state = state if known == state.known else replace(state, known=known)
    views = tuple(item.view for item in items)
    writer, conflict = writing.decide(state)
    current = next((v for v in views if writer and v.endpoint == writer.endpoint), None)
    state, current, doubt = _believed(state, current, now)
    alone, at = writing.only_replicas(state, now)
    new = Topology(
        *(old.version, views, current, state.highest, conflict),
        *(state.system_id, alone, doubt, writing.switches(state)),
    )
    if new.shape != old.shape:
        new = replace(new, version=old.version + 1)
    calm = new.calm and (current is not None or writing.streaming(state))
    burst_at = None if calm else state.burst_at if state.burst_at is not None else now
    until_s = state.first_at + writing.FAIR_S if doubt and state.first_at is not None else at
    settled = state is given and until_s is None
    return replace(state, topology=new, burst_at=burst_at, until_s=until_s, settled=settled)


def _believed(
    state: State, writer: EndpointView | None, now: float
) -> tuple[State, EndpointView | None, str]:
    """(state, writer, why there is none): the first one waits for what the others say.  Until
    there was one, nobody who says so is taken while a name leads nowhere yet."""
    if state.led or (writer is None and state.first_at is not None):
        return state, writer, ""
    nameless = writing.unresolved(state)
    if writer is None:
        return state, None, f"{', '.join(nameless)}: no answer yet" if nameless else ""
    silent = [*writing.unheard(state, writer), *nameless]
    if state.first_at is None:
        state = replace(state, first_at=now)
    if silent and now < (state.first_at or 0.0) + writing.FAIR_S - 1e-9:
        names = ", ".join(silent)
        return state, None, f"a primary answers; whether {names} is one as well isn't known yet"
    return replace(state, led=True), writer, ""


def _marked(items: list[Known], state: State) -> list[Known]:
    """Those whom only readers' names lead to, and whose data is another branch's."""
    able = {key_of(item.view.endpoint) for item in writing.eligible(state)}
    marked = []
    for item in items:
        view = item.view
        reader = key_of(view.endpoint) not in able
        above = (view.timeline or 0) > (state.highest or 0) > 0
        astray = reader and (view.role is Role.PRIMARY or above)
        if (reader, astray) != (view.reader, view.astray):
            item = replace(item, view=replace(view, reader=reader, astray=astray))  # noqa: PLW2901
        marked.append(item)
    return marked


def _demoted(item: Known, old: Topology) -> Known:
    """A primary that now says replica: its connections were opened for writing."""
    view = item.view
    before = old.find(view.endpoint)
    if view.group:
        return item  # whoever answered now, it isn't who did before
    if before and before.role is Role.PRIMARY and view.role is Role.REPLICA:
        return replace(item, view=replace(view, generation=view.generation + 1))
    return item
