"""A failover: one pure fold over snapshots, from which logs and spans are made.

    suspected → lost → resolved* → promoted → reconnected

`suspected` begins it (the writer is silent or under suspicion), `lost` is the verdict,
`resolved` a change of what the names mean, `promoted` another writer in the snapshot,
`reconnected` the first usable connection to it.  A suspicion that clears is no failover:
it ends as `recovered` and yields no span.
"""

from __future__ import annotations

from dataclasses import replace

from .._dataclass import dataclass
from .model import Endpoint, EndpointView, Health, Role, Topology


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened.  `at_s` is monotonic seconds.  `detail` says why in words, which
    may be a server's; `cause` is one of a few words of ours."""

    name: str
    at_s: float
    endpoint: Endpoint | None = None
    detail: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a failover, monotonic seconds."""

    name: str
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Failover:
    """A failover so far, or, with `new` and a last step `reconnected`, all of it."""

    old: EndpointView
    new: EndpointView | None = None
    steps: tuple[Step, ...] = ()

    @property
    def started_at(self) -> float:
        return self.steps[0].at_s

    @property
    def ended_at(self) -> float:
        return self.steps[-1].at_s

    @property
    def reason(self) -> str:
        """Why it began, in the words of the first step that has some."""
        return next((step.detail for step in self.steps if step.detail), "")

    @property
    def cause(self) -> str:
        """The same as one of a few words."""
        return next((step.cause for step in self.steps if step.cause), "unknown")

    def at(self, name: str) -> float | None:
        """When a step came, the first of its name."""
        return next((step.at_s for step in self.steps if step.name == name), None)

    def phases(self) -> dict[str, float]:
        """Seconds between the steps, by the name of the phase that they end."""
        return {f"{phase.name}_s": phase.to_s - phase.from_s for phase in self.parts()}

    def parts(self) -> tuple[Phase, ...]:
        """The phases that have ended."""
        parts, last = [], self.started_at
        for name, steps in _PHASES:
            at = next((step.at_s for step in self.steps if step.name in steps), None)
            if at is not None:
                parts.append(Phase(name, last, max(last, at)))
                last = max(last, at)
        return tuple(parts)

    @property
    def phase(self) -> str:
        """What it is in the middle of."""
        over = {part.name for part in self.parts()}
        return next((name for name, _ in _PHASES if name not in over), "reconnect")


#: what ends each; of an HTTP origin nobody is promoted
_PHASES = (
    ("detect", ("lost", "ejected", "retired")),
    ("promote", ("promoted",)),
    ("reconnect", ("reconnected",)),
)
PHASES = tuple(name for name, _ in _PHASES)


@dataclass(frozen=True, slots=True)
class Tracker:
    """`current`: the failover under way.  `writer`: the last one that was up."""

    writer: EndpointView | None = None
    current: Failover | None = None


def follow(
    tracker: Tracker, old: Topology, new: Topology, now: float
) -> tuple[Tracker, list[Step]]:
    """Fold one new snapshot: (tracker, steps that it brought)."""
    up = new.writer is not None and new.writer.health is Health.UP
    if tracker.current is None:
        return _quiet(tracker, new, now, up)
    current, before = tracker.current, len(tracker.current.steps)
    last = current.old
    if current.new is None and up and new.writer is not None and _same(new.writer, last):
        step = Step("recovered", now, last.endpoint)
        return Tracker(new.writer), [step]
    if current.at("lost") is None and _lost(last, new):
        current = _with(current, _step("lost", now, last, new))
    if {view.endpoint for view in old.endpoints} != {view.endpoint for view in new.endpoints}:
        known = ", ".join(str(view.endpoint) for view in new.endpoints)
        current = _with(current, Step("resolved", now, None, known))
    if current.new is None and up and new.writer is not None:
        step = Step("promoted", now, new.writer.endpoint, _history(last, new.writer))
        current = replace(_with(current, step), new=new.writer)
    elif current.new is not None and new.writer is None:
        # The new one is gone before anybody used it: the failover goes on.
        current = replace(_with(current, Step("lost again", now, current.new.endpoint)), new=None)
    return replace(tracker, current=current), list(current.steps[before:])


def reconnected(
    tracker: Tracker, endpoint: Endpoint, now: float
) -> tuple[Tracker, Failover | None]:
    """A usable connection to `endpoint` exists: (tracker, the failover that it ends)."""
    current = tracker.current
    if current is None or current.new is None or current.new.endpoint != endpoint:
        return tracker, None
    return Tracker(current.new), _with(current, Step("reconnected", now, endpoint))


def _quiet(tracker: Tracker, new: Topology, now: float, up: bool) -> tuple[Tracker, list[Step]]:
    writer = tracker.writer
    if writer is None or (up and new.writer is not None and _same(new.writer, writer)):
        return Tracker(new.writer if up else writer), []
    steps = [_step("suspected", now, writer, new)]
    if _lost(writer, new):
        steps.append(_step("lost", now, writer, new))
    current = Failover(writer, steps=tuple(steps))
    if up and new.writer is not None:
        promoted = Step("promoted", now, new.writer.endpoint, _history(writer, new.writer))
        steps.append(promoted)
        current = Failover(writer, new.writer, tuple(steps))
    return replace(tracker, current=current), steps


def _with(failover: Failover, step: Step) -> Failover:
    return replace(failover, steps=(*failover.steps, step))


def _history(old: EndpointView, new: EndpointView) -> str:
    """Whose history the new writer goes on with."""
    foreign = bool(old.system_id and new.system_id) and old.system_id != new.system_id
    return f"another cluster, timeline {new.timeline}" if foreign else f"timeline {new.timeline}"


def _same(one: EndpointView, other: EndpointView) -> bool:
    return one.endpoint == other.endpoint and one.generation == other.generation


def _lost(writer: EndpointView, new: Topology) -> bool:
    view = new.find(writer.endpoint)
    return view is None or view.generation != writer.generation or not view.usable


def _why(writer: EndpointView, new: Topology) -> str:
    view = new.find(writer.endpoint)
    if view is None:
        return "no longer what the name means"
    return view.reason or f"now {view.role.value}, {view.health.value}"


def _step(name: str, now: float, writer: EndpointView, new: Topology) -> Step:
    return Step(name, now, writer.endpoint, _why(writer, new), _cause(writer, new))


def _cause(writer: EndpointView, new: Topology) -> str:
    view = new.find(writer.endpoint)
    if view is None:
        return "moved"
    if view.fenced:
        return "fenced"
    if view.cause:
        return view.cause
    if view.role is Role.REPLICA:
        return "demoted"
    return "restarted" if view.generation != writer.generation else "unknown"
