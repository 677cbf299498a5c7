"""From a flight recording (what `resilient watch --json` printed) to timelines: one for each
failover in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from .records import Snapshot
from .timeline import Mark, Phase, Timeline, endpoint_bars

__all__ = ["failovers", "recorded"]

BEFORE_S, AFTER_S = 2.0, 2.0
_STEP = re.compile(r"step=(?P<step>[\w -]+?) (?:endpoint|old)=(?P<endpoint>\S+)(?P<rest>.*)")
_SECONDS = re.compile(r"(\w+)_s=([\d.]+)")
_PHASES = {
    "detect": "suspected → not trusted any more",
    "promote": "lost → somebody can write",
    "resolve": "writable → the client knows who writes",
    "reconnect": "known → first usable connection",
}


def failovers(lines: Iterable[Mapping[str, Any]]) -> Iterator[Timeline]:
    """A failover begins where a writer is lost and ends where it is over, or with the recording.

    Raises `ConfigError` for other lines.
    """
    seen: list[Snapshot] = []
    steps: list[tuple[float, str, str, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            at = float(line["at"])
            if "version" in line:
                seen.append(_snapshot(line, at))
            elif "step" in line:
                steps.append((at, *_step(line)))
            elif match := _STEP.match(str(line.get("event", ""))):
                steps.append((at, match["step"], match["endpoint"], match["rest"].strip()))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"line {number} of the recording lacks something ({error!r}); accepted: the lines"
                " that `resilient watch --json` printed"
            ) from None
    for number, (begin, end) in enumerate(_spans(steps), 1):
        yield _timeline(number, steps[begin : end + 1], seen)


def _step(line: Mapping[str, Any]) -> tuple[str, str, str]:
    """(step, where, the rest as text)."""
    where = line.get("endpoint") or line.get("old") or "-"
    rest = " ".join(
        f"{name}={value:.3f}" for name, value in line.items() if isinstance(value, float)
    )
    return str(line["step"]), str(where), rest


def recorded(dump: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What `resilient.recorder.dump` wrote, as the lines that `watch --json` prints.

    Raises `ConfigError` for something else.
    """
    try:
        for failover in dump["failovers"]:
            for event in failover["events"]:
                yield {"at": event["at"], "step": event["name"], "endpoint": event["endpoint"]}
            if failover["result"] == "over":
                total_s = failover["ended_at"] - failover["started_at"]
                over = {"at": failover["ended_at"], "step": "over", "old": failover["old"]}
                yield {**over, "total_s": total_s, **failover["phases"]}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"the recorder's file lacks something ({error!r})") from None


def _snapshot(line: Mapping[str, Any], at: float) -> Snapshot:
    endpoints = line["endpoints"]
    return Snapshot(
        at,
        int(line["version"]),
        line["writer"],
        {each["endpoint"]: each["health"] for each in endpoints},
        {each["endpoint"]: each["role"] for each in endpoints},
    )


def _spans(steps: Sequence[tuple[float, str, str, str]]) -> Iterator[tuple[int, int]]:
    begin: int | None = None
    for number, (_, step, _, _) in enumerate(steps):
        if step == "lost" and begin is None:
            begin = number
        elif step == "over" and begin is not None:
            yield begin, number
            begin = None
    if begin is not None:
        yield begin, len(steps) - 1


def _timeline(
    number: int, steps: Sequence[tuple[float, str, str, str]], seen: Sequence[Snapshot]
) -> Timeline:
    zero, last = steps[0][0], steps[-1]
    over = last[1] == "over"
    ends_s = last[0] - zero + AFTER_S
    near = [one for one in seen if one.at - zero < ends_s]
    # what held before it began is where the lanes begin
    before = [one for one in near if one.at <= zero - BEFORE_S][-1:]
    within = before + [one for one in near if one.at > zero - BEFORE_S]
    bars = tuple(
        bar if bar.from_s > -BEFORE_S else type(bar)(bar.lane, -BEFORE_S, *_rest(bar))
        for bar in endpoint_bars(within, zero, ends_s)
    )
    addresses = sorted({bar.lane for bar in bars} - {"writer"})
    measured = dict(_SECONDS.findall(last[3])) if over else {}
    return Timeline(
        f"failover {number}: {steps[0][2]} was lost",
        -BEFORE_S,
        ends_s,
        ("steps", *addresses, "writer"),
        bars,
        tuple(Mark("steps", at - zero, f"{step} {where}") for at, step, where, _ in steps),
        phases=tuple(
            Phase(name, meaning, None, float(measured[name]) if name in measured else None)
            for name, meaning in _PHASES.items()
            if name in measured or not over
        ),
        facts=(f"over after {measured['total']} s",) if "total" in measured else (),
        verdict=() if over else ("it isn't over in this recording",),
    )


def _rest(bar: Any) -> tuple[float, str, str]:
    return bar.to_s, bar.state, bar.text
