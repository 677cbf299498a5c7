"""Which cluster is meant, and who writes in it.

* The strict names that were given for writing say which cluster is meant: when they lead to a
  live primary of another one, that one is.  Several have to agree: each leads to a server of it,
  and none to one of ours.  Until then a foreign server among them is refused.
* The writer is the one live primary of the highest timeline ever seen in the cluster.  Whom
  only readers' names lead to is none, and raises no timeline.
* A primary that tells no timeline writes only where nobody tells one.
* One with `default_transaction_read_only` is one where no other is: what a caller makes of it
  is the caller's.
* The first primary ever is believed once every other endpoint has answered, and every other name,
  or had `FAIR_S`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .model import EndpointView, Health, Role, Switch, Topology
from .topology_state import Key, Known, State, key_of

#: how long after the first primary the others are waited for, in seconds
FAIR_S = 0.1
#: replicas of which none streams, or beside one that is dead, are taken for all there is after
#: this long: a primary may be about to be promoted
ALONE_S = 5.0


def eligible(state: State) -> Iterator[Known]:
    """Those that a writer's name leads to, under this name or another."""
    servers = {
        (item.system_id, item.incarnation)
        for _, item in state.known
        if not item.reader and item.incarnation
    }
    for _, item in state.known:
        if not item.reader or (item.system_id, item.incarnation) in servers:
            yield item


# -- which cluster


def pinned(state: State) -> State:
    """Which cluster this is: until one has led, that of the first in the list that has answered."""
    ids = {item.system_id for item in eligible(state) if item.system_id}
    moved = _moved_to(state)
    if not moved:
        if not ids or (state.led and state.system_id in ids):
            return state
        moved = min((k.order, k.system_id) for k in eligible(state) if k.system_id)[1]
        if moved == state.system_id:
            return state
    return replace(state, system_id=moved, highest=dict(state.heights).get(moved))


def _moved_to(state: State) -> str:
    """The cluster that the strict writers' names lead to now, if it has a primary there."""
    records = [record for _, record in state.names if not record.reader]
    if not state.system_id or any(record.rotating for record in records):
        return ""
    known = dict(state.known)
    led_to = [[known[key] for key in record.keys if key in known] for record in records]
    here = [item for items in led_to for item in items]
    if any(item.system_id == state.system_id for item in here):
        return ""
    for item in here:
        if item.view.role is Role.PRIMARY and item.view.health is not Health.DEAD:
            agree = (any(one.system_id == item.system_id for one in items) for items in led_to)
            if all(agree):
                return item.system_id
    return ""


def with_heights(state: State) -> State:
    """Remember the highest timeline of each cluster."""
    heights = dict(state.heights)
    for item in eligible(state):
        timeline = item.view.timeline
        if timeline is not None and timeline > heights.get(item.system_id, 0):
            heights[item.system_id] = timeline
    known = tuple(heights.items())
    highest = heights.get(state.system_id, state.highest)
    if known == state.heights and highest == state.highest:
        return state
    return replace(state, heights=known, highest=highest)


def switches(state: State) -> tuple[tuple[int, Switch], ...]:
    """Where the timelines of this cluster began."""
    here = state.system_id
    return tuple((timeline, at) for system_id, timeline, at in state.switches if system_id == here)


# -- who writes


def contenders(state: State) -> list[Known]:
    """The live primaries of the highest timeline."""
    able = list(eligible(state))
    told = any(item.view.timeline is not None for item in able)
    best: list[Known] = []
    for item in able:
        view = item.view
        if view.role is not Role.PRIMARY or view.health is Health.DEAD:
            continue
        if item.system_id != state.system_id or (view.timeline or 0) < (state.highest or 0):
            continue
        if view.timeline is None and told:
            continue
        best.append(item)
    writable = [item for item in best if not item.view.read_only]
    return sorted(writable or best, key=lambda item: item.order)


def decide(state: State) -> tuple[EndpointView | None, str]:
    """(writer, conflict) of the state as it stands."""
    out = ousted(state)
    best = [item for item in contenders(state) if key_of(item.view.endpoint) not in out]
    if not best:
        return None, ""
    servers = {item.incarnation for item in best}
    if len(best) > 1 and (len(servers) > 1 or "" in servers):
        if best[0].view.timeline is None:
            return _first(best, state.topology).view, ""  # nobody tells: each of them writes
        current = [item for item in best if not item.view.retired]
        if len(current) == 1:
            return current[0].view, ""
        names = ", ".join(str(item.view.endpoint) for item in best)
        return None, f"two primaries on timeline {state.highest}: {names}"
    return best[0].view, ""


def _first(best: list[Known], old: Topology) -> Known:
    """The one that writes already, as long as it does."""
    current = [item for item in best if not item.view.retired] or best
    was = old.writer
    stays = [k for k in current if was and key_of(was.endpoint) == key_of(k.view.endpoint)]
    return (stays or current)[0]


def ousted(state: State) -> frozenset[Key]:
    """The primaries that another server's lease rules out: what they acknowledge will be lost.

    A primary of a higher timeline than the holder's isn't: the source is behind the promotion.
    Where the source tells no timeline, the lease settles a tie only.
    """
    if not state.leased:
        return frozenset()
    holders = [item for key, item in state.known if key in state.leased]
    servers = {item.incarnation for item in holders}
    until = state.lease_timeline
    if until is None and any(item in holders for item in contenders(state)):
        until = state.highest
    if len(servers) != 1 or until is None:
        return frozenset()
    return frozenset(
        key
        for key, item in state.known
        if item.view.role is Role.PRIMARY and key not in state.leased
        if item.incarnation not in servers - {""} and (item.view.timeline or 0) <= until
    )


def fence(item: Known, state: State, out: frozenset[Key]) -> Known:
    """The endpoint, fenced if it must not be used any more, with the reason."""
    view, reason = item.view, ""
    if item.system_id and item.system_id != state.system_id:
        reason = f"belongs to another cluster, {item.system_id}, not {state.system_id}"
    elif item.reader:
        pass  # it writes nothing, so nothing it acknowledges is lost
    elif view.role is Role.PRIMARY and (view.timeline or 0) < (state.highest or 0):
        reason = f"fenced: primary of timeline {view.timeline}, {state.highest} was seen"
    elif key_of(view.endpoint) in out:
        reason = "fenced: another server holds the lease"
    fenced = bool(reason)
    if fenced == view.fenced and reason in ("", view.reason):
        return item
    generation = view.generation + (fenced and not view.fenced)
    return replace(item, view=replace(view, fenced=fenced, reason=reason, generation=generation))


# -- the first one, and none at all


def unheard(state: State, writer: EndpointView) -> list[str]:
    """Who might be the primary as well, and hasn't said anything yet."""
    return [
        str(item.view.endpoint)
        for item in eligible(state)
        if item.view.health is Health.UNKNOWN and not item.view.reason
        if not item.view.retired and item.view.endpoint != writer.endpoint
    ]


def unresolved(state: State) -> list[str]:
    """Names, of several, that lead nowhere yet."""
    names = [name for name, record in state.names if not (record.keys or record.reader)]
    return names if len(state.names) > 1 else []


def streaming(state: State) -> bool:
    """Is everybody a replica, and one of them receives WAL?  So their primary is elsewhere."""
    views = [item for item in eligible(state) if not item.view.retired]
    replicas = all(item.view.role is Role.REPLICA for item in views)
    return replicas and any(item.streams for item in views)


def only_replicas(state: State, now: float) -> tuple[bool, float | None]:
    """(does the cluster consist of replicas alone, when to look again): a reporting service's
    list.  Their primary is elsewhere where they stream; where none does, or somebody is dead, it
    may be that nobody was promoted yet.  An address that leads now to a primary, now to a replica
    serves what any of them can."""
    mixed = any(item.view.group for item in eligible(state))
    if (state.led and not mixed) or state.heard_at is None:
        return False, None
    views = [item for item in eligible(state) if not item.view.retired]
    live = [item for item in views if item.view.health in (Health.UP, Health.SUSPECT)]
    roles = {item.view.role for item in live}
    if Role.PRIMARY in roles or Role.REPLICA not in roles:
        return False, None
    if mixed or streaming(state):
        return True, None
    at = state.heard_at + ALONE_S
    return (True, None) if now >= at - 1e-9 else (False, at)


def whose_lag(items: Iterable[Known], state: State) -> list[Known]:
    """Each with its lag as far as it is the writer's: a replica that isn't known to be on the
    writer's timeline follows somebody else, or can't be told from one that does."""
    shown = []
    for item in items:
        view, lag_s = item.view, item.lag_s
        if view.role is not Role.REPLICA or (view.timeline or 0) != (state.highest or 0):
            lag_s = None
        if lag_s != view.lag_s:
            item = replace(item, view=replace(view, lag_s=lag_s))  # noqa: PLW2901
        shown.append(item)
    return shown
