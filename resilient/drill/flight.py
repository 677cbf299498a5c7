"""From a flight recording to timelines, one for each failover in it.

A recording is what `resilient watch --json` printed (steps, and the topology at each change), or
what `resilient.recorder.dump` wrote (records of failovers, and which calls waited).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..telemetry import names
from .records import Snapshot
from .timeline import Bar, Dot, Mark, Phase, Timeline, endpoint_bars, zones_of
from .words import plural, seconds

__all__ = ["dumped", "failovers"]

BEFORE_S, AFTER_S = 2.0, 2.0
#: what a failover ends with
_LAST = ("over", "recovered")
#: what begins one in earnest; a suspicion alone may clear
_FIRST = ("lost", "ejected", "retired")
_CALLS = "waiting calls"
#: what calls met, among a record's events
_MET = (names.WAITED, names.REPLAYED, names.RESOLVED)
_STEP = re.compile(r"step=(?P<step>[\w -]+?) (?:endpoint|old)=(?P<endpoint>\S+)(?P<rest>.*)")
_SECONDS = re.compile(r"(\w+)_s=([\d.]+)")
_PHASES = {
    "detect": "suspected → not trusted any more",
    "promote": "lost → somebody can write",
    "resolve": "writable → the client knows who writes",
    "reconnect": "known → first usable connection",
}
ZoneOf = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class _Step:
    """`at`: seconds since the epoch; `failover`: its id, where the recording has one."""

    at: float
    name: str
    where: str
    measured: Mapping[str, float]
    failover: str = ""


def failovers(lines: Iterable[Mapping[str, Any]]) -> Iterator[Timeline]:
    """What `watch --json` printed: a failover begins where a writer is lost and ends where it is
    over, or with the recording.

    Raises `ConfigError` for other lines.
    """
    seen: list[Snapshot] = []
    steps: list[_Step] = []
    for number, line in enumerate(lines, 1):
        try:
            at = float(line["at"])
            if "endpoints" in line:
                seen.append(_snapshot(line, at))
            elif step := _step(line, at):
                steps.append(step)
            elif "event" not in line:
                raise KeyError("endpoints")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"line {number} of the recording lacks something ({error!r}); accepted: the lines"
                " that `resilient watch --json` printed"
            ) from None
    for number, each in enumerate(_grouped(steps), 1):
        yield _watched(number, each, seen)


def dumped(dump: Mapping[str, Any], zone_of: ZoneOf = lambda place: None) -> Iterator[Timeline]:
    """What `resilient.recorder.dump` wrote.  `zone_of`: of `host:port`, as far as it is known.

    Raises `ConfigError` for something else.
    """
    try:
        for number, record in enumerate(dump["failovers"], 1):
            yield _recorded(number, record, zone_of)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the recorder's file lacks something ({error!r})") from None


# -- watched


def _step(line: Mapping[str, Any], at: float) -> _Step | None:
    """As fields, or (older recordings) as a log line in a string."""
    if "step" in line:
        where = line.get("endpoint") or line.get("old") or "-"
        measured = {
            name: float(value)
            for name, value in line.items()
            if name.endswith("_s") and isinstance(value, int | float)
        }
        failover = str(line.get("failover") or "")
        return _Step(at, str(line["step"]), str(where), measured, failover)
    match = _STEP.match(str(line.get("event", "")))
    if match is None:
        return None
    measured = {f"{name}_s": float(value) for name, value in _SECONDS.findall(match["rest"])}
    return _Step(at, match["step"], match["endpoint"], measured)


def _snapshot(line: Mapping[str, Any], at: float) -> Snapshot:
    endpoints = line["endpoints"]
    return Snapshot(
        at,
        int(line["version"]),
        line["writer"],
        {each["endpoint"]: each["health"] for each in endpoints},
        {each["endpoint"]: each["role"] for each in endpoints},
        {each["endpoint"]: each["zone"] for each in endpoints if each.get("zone")},
    )


def _grouped(steps: Sequence[_Step]) -> Iterator[list[_Step]]:
    """By their id; those without one are told one after the other."""
    groups: dict[str, list[_Step]] = {}
    running = 0
    for step in steps:
        key = step.failover or f"number {running}"
        groups.setdefault(key, []).append(step)
        running += not step.failover and step.name in _LAST
    for group in groups.values():
        begin = next((n for n, step in enumerate(group) if step.name in _FIRST), None)
        if begin is not None:  # else: a suspicion that cleared
            yield group[begin:]


def _watched(number: int, steps: Sequence[_Step], seen: Sequence[Snapshot]) -> Timeline:
    zero, last = steps[0].at, steps[-1]
    over = last.name in _LAST
    ends_s = last.at - zero + AFTER_S
    near = [one for one in seen if one.at - zero < ends_s]
    # what held before it began is where the lanes begin
    before = [one for one in near if one.at <= zero - BEFORE_S][-1:]
    within = before + [one for one in near if one.at > zero - BEFORE_S]
    bars = tuple(
        Bar(bar.lane, max(bar.from_s, -BEFORE_S), bar.to_s, bar.state, bar.text)
        for bar in endpoint_bars(within, zero, ends_s)
    )
    addresses = sorted({bar.lane for bar in bars} - {"writer"})
    measured = {name.removesuffix("_s"): value for name, value in last.measured.items()}
    measured = measured if over else {}
    return Timeline(
        f"failover {number}: {steps[0].where} was lost",
        -BEFORE_S,
        ends_s,
        ("steps", *addresses, *(["writer"] if bars else [])),
        bars,
        tuple(Mark("steps", step.at - zero, f"{step.name} {step.where}") for step in steps),
        phases=_phases(measured, over),
        facts=tuple(_after(last.name, measured)),
        verdict=() if over else ("it isn't over in this recording",),
        kind="flight",
        at=zero,
        zones=zones_of(within),
    )


def _phases(measured: Mapping[str, float], over: bool) -> tuple[Phase, ...]:
    return tuple(
        Phase(name, meaning, None, measured.get(name))
        for name, meaning in _PHASES.items()
        if name in measured or (not over and name != "resolve")
    )


def _after(end: str, measured: Mapping[str, float]) -> Iterator[str]:
    if "total" in measured:
        yield f"{end} after {seconds(measured['total'], 3)} s"


# -- recorded


def _recorded(number: int, record: Mapping[str, Any], zone_of: ZoneOf) -> Timeline:
    zero, ended_at = float(record["started_at"]), record["ended_at"]
    result = str(record["result"])
    over = result in _LAST
    events = record["events"]
    dots = tuple(_calls(events, zero))
    last_s = max((float(event["at"]) - zero for event in events), default=0.0)
    last_s = max(last_s, float(ended_at) - zero if ended_at is not None else 0.0)
    waited_s = max((dot.took_s - dot.at_s for dot in dots if dot.took_s is not None), default=0.0)
    margin_s = max(0.005, 0.15 * last_s)
    begins_s, ends_s = -max(margin_s, waited_s), last_s + margin_s
    steps = [event for event in events if event["name"] not in _MET]
    marks = [
        Mark("steps", float(event["at"]) - zero, f"{event['name']} {event['endpoint']}".strip())
        for event in steps
    ]
    if over and ended_at is not None and not any(mark.text.startswith(result) for mark in marks):
        marks.append(Mark("steps", float(ended_at) - zero, result))
    over_s = float(ended_at) - zero if over and ended_at is not None else None
    measured = {name.removesuffix("_s"): float(s) for name, s in record["phases"].items()}
    named = _Named(zone_of)
    # no lanes but the writer's: a record has no snapshots of the others
    # nobody writes to an HTTP origin in particular
    database = "origin" not in record
    bars = tuple(_writers(record, steps, zero, (begins_s, ends_s), named)) if database else ()
    return Timeline(
        f"failover {number}: {record['old']} was lost",
        begins_s,
        ends_s,
        ("steps", *(["writer"] if bars else []), *([_CALLS] if dots else [])),
        bars,
        tuple(marks),
        dots,
        phases=_phases(measured, over or not database),
        facts=tuple(_said(record, over_s, named)),
        verdict=() if over else (f"it isn't over in this recording ({result})",),
        kind="flight",
        at=zero,
        zones=named.zones,
    )


class _Named:
    """An endpoint's place with its zone; `zones`: those that were told."""

    def __init__(self, zone_of: ZoneOf) -> None:
        self._zone_of = zone_of
        self.zones: dict[str, str] = {}

    def __call__(self, place: object) -> str:
        # `10.0.1.5:5432 (db1.example)`
        zone = self._zone_of(str(place).partition(" ")[0])
        if zone:
            self.zones[str(place)] = zone
        return f"{place}, {zone}" if zone else str(place)


def _calls(events: Iterable[Mapping[str, Any]], zero: float) -> Iterator[Dot]:
    """Those that waited or were done again: when they went on, and how long that took."""
    for event in events:
        if event["name"] in _MET:
            pairs = (pair.partition("=") for pair in str(event["detail"]).split())
            told = {name: value for name, _, value in pairs}
            outcome = "unknown" if told.get("outcome") == "unknown" else "ok"
            outcome = "error" if "error" in told else outcome
            took_s = float(told["seconds"]) if "seconds" in told else None
            yield Dot(_CALLS, float(event["at"]) - zero, outcome, took_s)


def _writers(
    record: Mapping[str, Any],
    steps: Sequence[Mapping[str, Any]],
    zero: float,
    shown: tuple[float, float],
    named: _Named,
) -> Iterator[Bar]:
    """Who might write: the old one until it was lost, the new one from its promotion on."""
    lost = next((e for e in steps if e["name"] in _FIRST), None)
    if lost is None or not record["old"]:
        return
    begins_s, ends_s = shown
    lost_s = float(lost["at"]) - zero
    new = next((e for e in steps if e["name"] in ("promoted", "recovered")), None)
    found_s = ends_s if new is None else float(new["at"]) - zero
    yield Bar("writer", begins_s, lost_s, "writer", named(record["old"]))
    yield Bar("writer", lost_s, found_s, "nobody", "may write")
    if new is not None:
        yield Bar("writer", found_s, ends_s, "writer", named(record["new"] or record["old"]))


def _said(record: Mapping[str, Any], took_s: float | None, named: _Named) -> Iterator[str]:
    if took_s is not None:
        yield f"{record['result']} after {seconds(took_s, 3)} s"
    why = str(record.get("reason") or "")
    yield f"cause: {record['cause']}{f' ({why})' if why else ''}"
    if record["new"]:
        yield f"then {named(record['new'])}"
    for name in ("pool", "database", "origin"):
        if record.get(name):
            yield f"{name} {record[name]}"
    if record["calls"]:
        yield f"{plural(int(record['calls']), 'call')} waited"
