"""One failover as swim lanes: values, which travel as JSON.

    lanes: who; bars: a state for a while; marks: a moment; dots: what callers were told
    plan: each phase as planned and as measured

All moments are seconds since the fault (or, in a recording, since the writer was lost).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ConfigError
from .checker import Finding
from .plan import EXEC
from .records import Outcome, Read, Request, Snapshot, Trace, Write
from .words import milliseconds, plural, seconds

__all__ = ["Bar", "Dot", "Mark", "Phase", "Timeline", "endpoint_bars", "of_run", "zones_of"]

#: before the fault, this much is shown
BEFORE_S = 0.6
#: the phases of a recovery, in order
MEANINGS = {
    "detect": "fault → not trusted any more",
    "promote": "fault → somebody can write",
    "resolve": "writable → the client knows who writes",
    "reconnect": "known → first good write",
}
#: of good answers that follow each other by less than `GAP_S` one in `DENSE_S` is shown, seconds
GAP_S, DENSE_S = 0.03, 0.02
#: a call that took so long has waited for something, seconds
SLOW_S = 0.1
FORMAT = "resilient-timeline-1"


@dataclass(frozen=True, slots=True)
class Bar:
    """`state`: up, suspect, dead, unknown, gone (health); writer or nobody (who may write)."""

    lane: str
    from_s: float
    to_s: float
    state: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something happened."""

    lane: str
    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A caller was told: `ok`, `unknown`, or `error`.  `took_s`: seconds since its call."""

    lane: str
    at_s: float
    outcome: str
    took_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds; `planned` None: nobody planned it, `measured` None: it didn't happen."""

    name: str
    meaning: str
    planned_s: float | None
    measured_s: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """`verdict`: the limits that were broken, empty: none.  `facts`: what is worth a line.

    `kind`: `drill` (it is judged by limits) or `flight` (a recording).  `at`: seconds since the
    epoch of what `at_s` counts from, where that is known.  `zones`: of lanes that are endpoints.
    `about`: see `about.circumstances`.
    """

    title: str
    begins_s: float
    ends_s: float
    lanes: tuple[str, ...]
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    dots: tuple[Dot, ...] = ()
    phases: tuple[Phase, ...] = ()
    facts: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()
    kind: str = "drill"
    at: float | None = None
    zones: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` is the inverse."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Timeline:
        """Raises `ConfigError` for anything else."""
        if given.get("format") != FORMAT:
            raise ConfigError(f"format={given.get('format')!r}; accepted: {FORMAT}")
        kinds = {"bars": Bar, "marks": Mark, "dots": Dot, "phases": Phase}
        try:
            values: dict[str, Any] = {key: value for key, value in given.items() if key != "format"}
            for name, kind in kinds.items():
                values[name] = tuple(kind(**each) for each in values.get(name, ()))
            for name in ("lanes", "facts", "verdict"):
                values[name] = tuple(values.get(name, ()))
            for name in ("zones", "about"):
                values[name] = dict(values.get(name, {}))
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"not a timeline: {error}") from None


def endpoint_bars(snapshots: Sequence[Snapshot], zero: float, end_s: float) -> Iterator[Bar]:
    """What the client believed of each endpoint, and who might write, from snapshot to
    snapshot."""
    open_bars: dict[str, tuple[float, str, str]] = {}
    for snapshot in sorted(snapshots, key=lambda seen: seen.at):
        at = snapshot.at - zero
        states = {
            address: (health, snapshot.role.get(address, ""))
            for address, health in snapshot.health.items()
        }
        for address in open_bars.keys() - states.keys() - {"writer"}:
            states[address] = ("gone", "")
        writer = snapshot.writer
        states["writer"] = ("writer", writer) if writer else ("nobody", "may write")
        for lane, (state, text) in states.items():
            began = open_bars.get(lane)
            if began is not None and began[1:] == (state, text):
                continue
            if began is not None:
                yield Bar(lane, began[0], at, *began[1:])
            open_bars[lane] = at, state, text
    for lane, (at, state, text) in open_bars.items():
        yield Bar(lane, at, max(at, end_s), state, text)


def of_run(
    finding: Finding,
    trace: Trace,
    events: Sequence[tuple[float, str]],
    window_s: float,
    *,
    at: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> Timeline:
    """The timeline of a drill's run.  `events`: what the lab did, `window_s`: the detection
    window, `at`: the fault's moment, seconds since the epoch.  The verdict is added when all
    runs are there: medians count."""
    facts, case = finding.facts, finding.case
    zero = facts.fault_at
    last = [write.ended_at for write in trace.writes] + [at for at, _ in events]
    ends_s = max((*last, zero + 0.5)) - zero + 0.1
    bars = [_clipped(bar, ends_s) for bar in endpoint_bars(trace.snapshots, zero, ends_s)]
    known = "several hosts known" if case.endpoint == "multi" else "one CNAME known"
    addresses = sorted({bar.lane for bar in bars} - {"writer"})
    dots, marks = tuple(_dots(trace, zero)), tuple(_marks(finding, events))
    told = sorted({dot.lane for dot in dots}, key=lambda lane: (lane[0] != "w", lane))
    happened = [
        lane for lane in ("fault", "promotion", "DNS") if any(m.lane == lane for m in marks)
    ]
    lanes = (*happened, *addresses, "writer", *told)
    return Timeline(
        f"{case.fault}, {known}, run {case.number} of {case.of}",
        -BEFORE_S,
        ends_s,
        lanes,
        tuple(bar for bar in bars if bar.to_s > -BEFORE_S),
        marks,
        dots,
        tuple(_phases(finding, window_s)),
        tuple(_facts(finding)),
        at=at,
        zones=zones_of(trace.snapshots),
        about=dict(about or {}),
    )


def zones_of(snapshots: Iterable[Snapshot]) -> dict[str, str]:
    """Of each address the zone that the client knew last."""
    found: dict[str, str] = {}
    for seen in snapshots:
        found |= seen.zone
    return found


def _clipped(bar: Bar, ends_s: float) -> Bar:
    return Bar(bar.lane, max(bar.from_s, -BEFORE_S), min(bar.to_s, ends_s), bar.state, bar.text)


def _marks(finding: Finding, events: Sequence[tuple[float, str]]) -> Iterator[Mark]:
    facts = finding.facts
    lanes = {facts.dns_changed_at: "DNS"}
    lanes |= dict.fromkeys((facts.writable_at, facts.durable_at), "promotion")
    for at, text in events:
        lane = "promotion" if text.startswith("promoting ") else lanes.get(at, "fault")
        yield Mark(lane, at - facts.fault_at, text)
    for shell, after_s in finding.by_shell.items():
        if after_s is not None and facts.writable_at is not None:
            at_s = facts.writable_at - facts.fault_at + after_s
            yield Mark(f"writes, {shell}", at_s, "first good write")


def _dots(trace: Trace, zero: float) -> Iterator[Dot]:
    told: list[tuple[str, Write | Read | Request, Outcome]]
    told = [("writes", write, write.outcome) for write in trace.writes]
    told.extend(("reads", read, _outcome(read.error)) for read in trace.reads)
    told.extend(("requests", request, _outcome(request.error)) for request in trace.requests)
    by_lane: dict[str, list[Dot]] = {}
    for lane, record, outcome in told:
        if record.ended_at > zero - BEFORE_S:
            name, took_s = f"{lane}, {record.shell}", record.ended_at - record.began_at
            dot = Dot(name, round(record.ended_at - zero, 5), outcome, round(took_s, 5))
            by_lane.setdefault(name, []).append(dot)
    for dots in by_lane.values():
        yield from _thinned(sorted(dots, key=lambda dot: dot.at_s))


def _thinned(dots: Sequence[Dot]) -> Iterator[Dot]:
    """Without the good ones among many good ones: gaps keep their edges; failures stay, and who
    waited."""
    kept_s = float("-inf")
    for dot, following in zip(dots, (*dots[1:], None), strict=True):
        edge = following is None or following.at_s - dot.at_s >= GAP_S
        slow = dot.took_s is not None and dot.took_s >= SLOW_S
        if edge or slow or dot.outcome != "ok" or dot.at_s - kept_s >= DENSE_S:
            kept_s = dot.at_s
            yield dot


def _outcome(error: str) -> Outcome:
    return "error" if error else "ok"


def _phases(finding: Finding, window_s: float) -> Iterator[Phase]:
    case, facts, seen = finding.case, finding.facts, finding.phases
    if case.fault == EXEC:  # nobody has planned it
        for name, meaning in MEANINGS.items():
            yield Phase(name, meaning, None, getattr(seen, f"{name}_s"))
        return
    if not case.is_failover:
        return
    silent = case.fault in ("hang", "blackhole", "zombie")
    resolved_s = case.dns_after_s + facts.ttl_s if case.endpoint == "cname" else 0.0
    planned = {
        "detect": window_s if silent else 0.0,
        "promote": case.promote_after_s,
        "resolve": resolved_s,
        "reconnect": 0.0,
    }
    for name, meaning in MEANINGS.items():
        yield Phase(name, meaning, planned[name], getattr(seen, f"{name}_s"))


def _facts(finding: Finding) -> Iterator[str]:
    yield f"{plural(finding.acked, 'write')} acknowledged"
    yield f"{finding.lost} lost, {finding.duplicated} duplicated"
    yield plural(finding.ghosts_run + finding.ghosts_plain, "ghost")
    yield plural(finding.unknown, "unknown outcome")
    if finding.requests:
        yield f"{plural(finding.requests, 'request')}, {finding.errors_http} failed"
    if finding.outage_s is not None:
        yield f"longest outage {seconds(finding.outage_s, 2)} s"
    if finding.after_writable_s is not None:
        yield f"good again {milliseconds(finding.after_writable_s)} ms after writable"
