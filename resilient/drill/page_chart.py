"""One timeline as a chart: what happened, what the client believed, what its callers were told
and how long they took.

Positions are percent of the width, so that it fits a phone, a screen and paper alike.  What the
eye sees a screen reader is told in words: each lane is an image with a description, and `tables`
has the same in numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby, pairwise

from .timeline import Bar, Dot, Timeline
from .words import seconds

__all__ = ["CALLS", "chart", "lane_name", "state_words", "told_words"]

#: a bar narrower than this, in percent, has no room for words
ROOM = 5.0
#: pixels of a panel of latencies, and between two
PANEL, BETWEEN = 72, 22
#: the least that a panel shows, seconds: a millisecond to a tenth of a second
LEAST_S, MOST_S = 1e-3, 0.1
#: where dots go that took no time at all
WIDTH = 1000
#: longer than this a call has waited; its waiting is drawn, seconds
WAITED_S = 0.05
CLASSES = {"ok": "", "unknown": "doubt", "error": "error"}
#: what a dot of each outcome means
CALLS = {
    "ok": "a caller was answered",
    "unknown": "a caller was told that the outcome is unknown",
    "error": "a caller was told an error",
}


def chart(one: Timeline, heading: str) -> Iterator[str]:
    """`heading`: the id of the element that names it."""
    yield f"<figure role='group' aria-labelledby='{heading}'><div class='plot'>"
    yield from _grid(one)
    yield from _events(one)
    told = {dot.lane for dot in one.dots}
    happened = {mark.lane for mark in one.marks}
    for lane in one.lanes:
        bars = [bar for bar in one.bars if bar.lane == lane]
        if bars:
            yield from _bars(one, lane, bars)
        elif lane in told:
            yield from _dots(one, lane)
        elif lane not in happened:
            yield from _bars(one, lane, [])
    yield from _took(one)
    yield "</div></figure>"


class Scale:
    """Seconds → percent of the width."""

    def __init__(self, one: Timeline) -> None:
        self._from_s, self._to_s = one.begins_s, one.ends_s
        self._span_s = max(one.ends_s - one.begins_s, 1e-3)

    def __call__(self, at_s: float) -> float:
        inside_s = min(max(at_s, self._from_s), self._to_s)
        return (inside_s - self._from_s) / self._span_s * 100


def _grid(one: Timeline) -> Iterator[str]:
    """Ticks below, a line through all lanes for each, and for each event."""
    x = Scale(one)
    yield "<div class='grid' aria-hidden='true'>"
    ticks = _ticks(one.begins_s, one.ends_s)
    for number, at_s in ticks:
        minor = " minor" if number % 2 else ""
        zero = " zero" if number == 0 else ""
        yield f"<i class='{zero}{minor}' style='left:{x(at_s):.2f}%'></i>"
        yield f"<span class='{minor}' style='left:{x(at_s):.2f}%'>{at_s:g} s</span>"
    for mark in one.marks:
        yield f"<i class='mark' style='left:{x(mark.at_s):.2f}%'></i>"
    yield "</div>"


def _ticks(begins_s: float, ends_s: float) -> list[tuple[int, float]]:
    """(number from zero, seconds): at most 14."""
    span = ends_s - begins_s
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 43_200)
    step = next((s for s in steps if span / s <= 14), span / 14)
    numbers = range(math.ceil(begins_s / step - 1e-9), math.floor(ends_s / step + 1e-9) + 1)
    return [(number, number * step + 0.0) for number in numbers]


def _events(one: Timeline) -> Iterator[str]:
    """Each in a row of its own, its words on the side that has room: none covers another."""
    if not one.marks:
        return
    x = Scale(one)
    yield "<ol class='events' aria-label='What happened, in order'>"
    for mark in sorted(one.marks, key=lambda mark: mark.at_s):
        at = x(mark.at_s)
        told = f"{seconds(mark.at_s, 3)} s: {mark.text}"
        if "," in mark.lane:  # a caller's, and there are several
            told += f" ({mark.lane})"
        side, room = ("before", f"right:{100 - at:.2f}") if at > 50 else ("", f"left:{at:.2f}")
        yield f"<li><i style='left:{at:.2f}%'></i><div class='{side}' style='margin-{room}%'>"
        yield f"<span>{escape(told)}</span></div></li>"
    yield "</ol>"


def lane_name(one: Timeline, lane: str) -> str:
    """With its zone, if it has one."""
    zone = one.zones.get(lane)
    return f"{lane}, {zone}" if zone else lane


def _label(one: Timeline, lane: str) -> str:
    zone = one.zones.get(lane)
    small = f" <small>{escape(zone)}</small>" if zone else ""
    return f"<span class='name' aria-hidden='true'>{escape(lane)}{small}</span>"


def state_words(bar: Bar) -> str:
    """`up primary`, `nobody may write`, or the writer's address."""
    state = bar.state if bar.state != "writer" else ""
    return " ".join(filter(None, (state, bar.text if bar.text != "unknown" else "")))


def _bars(one: Timeline, lane: str, bars: Sequence[Bar]) -> Iterator[str]:
    x = Scale(one)
    told = "; ".join(
        f"{state_words(bar)} from {seconds(bar.from_s, 2)} to {seconds(bar.to_s, 2)} s"
        for bar in bars
    )
    words = escape(f"{lane_name(one, lane)}: {told or 'nothing is known'}", quote=True)
    yield f"<div class='lane'>{_label(one, lane)}<div class='track' role='img'"
    yield f" aria-label='{words}'>"
    for bar in bars:
        left, right = x(bar.from_s), x(bar.to_s)
        said = escape(state_words(bar), quote=True)
        title = f"{said}, {seconds(bar.from_s, 3)} to {seconds(bar.to_s, 3)} s"
        shown = f"<span>{said}</span>" if right - left > ROOM else ""
        yield f"<div class='bar {escape(bar.state, quote=True)}' title='{title}'"
        yield f" style='left:{left:.2f}%;width:{max(right - left, 0.2):.2f}%'>{shown}</div>"
    yield "</div></div>"


def told_words(dots: Sequence[Dot]) -> str:
    """The callers of a lane, in words."""
    at = sorted(dot.at_s for dot in dots)
    gap_s, since_s = max(((b - a, a) for a, b in pairwise(at)), default=(0.0, 0.0))
    told = [f"longest gap {seconds(gap_s, 2)} s, from {seconds(since_s, 2)} s on"] if gap_s else []
    took = max((dot.took_s for dot in dots if dot.took_s is not None), default=None)
    if took is not None:
        told.append(f"slowest {seconds(took, 3)} s")
    for outcome, word in (("unknown", "unknown"), ("error", "failed")):
        count = sum(dot.outcome == outcome for dot in dots)
        told += [f"{count} {word}"] if count else []
    return ", ".join(told)


def _dots(one: Timeline, lane: str) -> Iterator[str]:
    x = Scale(one)
    dots = [dot for dot in one.dots if dot.lane == lane]
    words = escape(f"{lane}: {told_words(dots)}", quote=True)
    yield f"<div class='lane dots'>{_label(one, lane)}<div class='track' role='img'"
    yield f" aria-label='{words}'>"
    # those that tell of trouble lie above the others
    for dot in sorted(dots, key=lambda dot: dot.outcome != "ok"):
        kind = CLASSES.get(dot.outcome, "error")
        yield f"<i class='dot {kind}' style='left:{x(dot.at_s):.2f}%'></i>"
    yield "</div></div>"


def _took(one: Timeline) -> Iterator[str]:
    """How long callers took, on a scale of powers of ten: a panel each for writes, reads,
    requests.  A line leads from the call to its answer where that took long."""
    dots = [dot for dot in one.dots if dot.took_s is not None]
    if not dots:
        return
    panels = _panels(one, dots)
    height = len(panels) * (PANEL + BETWEEN)
    worst = "; ".join(
        f"{name}: slowest {seconds(max(dot.took_s or 0 for dot in each), 3)} s"
        for name, each in panels
    )
    words = escape(f"How long callers took. {worst}", quote=True)
    yield f"<div class='took'><svg viewBox='0 0 {WIDTH} {height}' height='{height}'"
    yield f" preserveAspectRatio='none' role='img' aria-label='{words}'>"
    labels: list[str] = []
    for number, (name, each) in enumerate(panels):
        top = number * (PANEL + BETWEEN) + BETWEEN
        most_s = _top(each)
        yield from _rules(top, most_s, labels)
        yield from _points(one, each, top, most_s)
        labels.append(f"<span class='name' style='top:{top - 18}px'>{escape(name)} took</span>")
    yield f"</svg><div aria-hidden='true'>{''.join(labels)}</div></div>"


def _panels(one: Timeline, dots: Sequence[Dot]) -> list[tuple[str, list[Dot]]]:
    """By kind, in the lanes' order: sync and async share one."""
    order = {lane: number for number, lane in enumerate(one.lanes)}
    known = sorted(
        (dot for dot in dots if dot.lane in order),
        key=lambda dot: (order[dot.lane] // 1, dot.at_s),
    )
    found: dict[str, list[Dot]] = {}
    for lane, each in groupby(known, key=lambda dot: dot.lane):
        found.setdefault(lane.partition(",")[0], []).extend(each)
    return list(found.items())


def _top(dots: Iterable[Dot]) -> float:
    """The power of ten above the slowest."""
    slowest = max((dot.took_s or 0.0 for dot in dots), default=0.0)
    return max(MOST_S, 10.0 ** math.ceil(math.log10(max(slowest, 1e-9)) - 1e-9))


def _y(took_s: float, top: float, most_s: float) -> float:
    share = math.log10(max(took_s, LEAST_S) / LEAST_S) / math.log10(most_s / LEAST_S)
    return top + PANEL * (1 - min(share, 1.0))


def _rules(top: float, most_s: float, labels: list[str]) -> Iterator[str]:
    at_s = LEAST_S
    while at_s <= most_s * 1.001:
        y = _y(at_s, top, most_s)
        kind = "base" if at_s == LEAST_S else "rule"
        yield f"<path class='{kind}' d='M0 {y:.1f}H{WIDTH}'/>"
        unit = f"{at_s * 1000:.0f} ms" if at_s < 0.999 else f"{at_s:.0f} s"
        labels.append(f"<span class='scale' style='top:{y:.1f}px'>{unit}</span>")
        at_s *= 10


def _points(one: Timeline, dots: Sequence[Dot], top: float, most_s: float) -> Iterator[str]:
    """Points of one look in one path: a point is a line of no length with a round end."""
    x = Scale(one)
    paths: dict[str, list[str]] = {}
    for dot in dots:
        took_s = dot.took_s or 0.0
        y, right = _y(took_s, top, most_s), x(dot.at_s) * WIDTH / 100
        shell = "async" if dot.lane.endswith("async") else "sync"
        look = CLASSES.get(dot.outcome) or shell
        size = "point" if dot.outcome == "ok" else "far"
        paths.setdefault(f"{look} {size}", []).append(f"M{right:.1f} {y:.1f}h0")
        if took_s >= WAITED_S:
            left = x(dot.at_s - took_s) * WIDTH / 100
            paths.setdefault(f"{look} wait", []).append(f"M{left:.1f} {y:.1f}H{right:.1f}")
    for look, parts in sorted(paths.items(), key=lambda item: "far" in item[0]):
        yield f"<path class='{look}' d='{''.join(parts)}'/>"
