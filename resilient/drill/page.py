"""Timelines as one HTML file that needs nothing else: swim lanes, planned against measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from .timeline import Timeline

__all__ = ["page"]

WIDTH, LEFT, RIGHT, ROW, TOP = 1100, 190, 24, 30, 28
COLOURS = {
    "up": "#bfe3cd",
    "writer": "#8fc1ee",
    "suspect": "#f6d98b",
    "dead": "#eda29b",
    "nobody": "#eda29b",
    "unknown": "#e4e7eb",
    "gone": "#f1f3f5",
}
DOTS = {"ok": "#1b7f4d", "unknown": "#b7791f", "error": "#c2261c"}
At = Callable[[float], float]

STYLE = """
body{font:14px/1.45 system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif;color:#1f2933;
 max-width:1140px;margin:24px auto;padding:0 20px}
h1{font-size:22px}h2{font-size:17px;margin:32px 0 4px}
table{border-collapse:collapse;margin:8px 0}td,th{padding:3px 14px 3px 0;text-align:left}
td.n,th.n{text-align:right}tr+tr td{border-top:1px solid #e4e7eb}
.bad{color:#c2261c;font-weight:600}.fine{color:#1b7f4d;font-weight:600}.more{color:#52606d}
svg{max-width:100%;height:auto}
"""


def page(title: str, timelines: Sequence[Timeline]) -> str:
    """The file's text."""
    bad = sum(bool(one.verdict) for one in timelines)
    told = f"{len(timelines)} timeline{'s' * (len(timelines) != 1)}"
    state = f"{bad} with a broken limit" if bad else "every limit held"
    body = "\n".join(part for one in timelines for part in _section(one))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n"
        f"<p>{told}, <span class='{'bad' if bad else 'fine'}'>{state}</span>. Times are seconds"
        " since the fault. Bars are what the client believed; dots are what its callers were"
        " told.</p>\n"
        f"{body}\n</body></html>\n"
    )


def _section(one: Timeline) -> Iterator[str]:
    yield f"<section><h2>{escape(one.title)}</h2>"
    if one.verdict:
        yield f"<p class='bad'>{escape('; '.join(one.verdict))}</p>"
    if one.facts:
        yield f"<p class='more'>{escape(' · '.join(one.facts))}</p>"
    yield "".join(_picture(one))
    if one.phases:
        yield "".join(_phases(one))
    yield "</section>"


def _phases(one: Timeline) -> Iterator[str]:
    yield "<table><tr><th>phase</th><th></th><th class='n'>planned, s</th>"
    yield "<th class='n'>measured, s</th></tr>"
    for phase in one.phases:
        numbers = "".join(
            f"<td class='n'>{'–' if value is None else f'{value:.3f}'}</td>"
            for value in (phase.planned_s, phase.measured_s)
        )
        yield f"<tr><td>{escape(phase.name)}</td>"
        yield f"<td class='more'>{escape(phase.meaning)}</td>{numbers}</tr>"
    yield "</table>"


def _picture(one: Timeline) -> Iterator[str]:
    span = max(one.ends_s - one.begins_s, 1e-3)

    def x(at_s: float) -> float:
        share = (min(max(at_s, one.begins_s), one.ends_s) - one.begins_s) / span
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    rows = {lane: TOP + ROW * number for number, lane in enumerate(one.lanes)}
    bottom = TOP + ROW * len(rows)
    yield (
        f"<svg viewBox='0 0 {WIDTH} {bottom + 22}' width='{WIDTH}' height='{bottom + 22}'"
        f" role='img' aria-label='{escape(one.title, quote=True)}' font-size='12'>"
    )
    for at in _ticks(one.begins_s, one.ends_s):
        stroke = "#7b8794" if at == 0 else "#e4e7eb"
        yield f"<line x1='{x(at):.1f}' x2='{x(at):.1f}' y1='{TOP - 6}' y2='{bottom}'"
        yield f" stroke='{stroke}'/><text x='{x(at):.1f}' y='{bottom + 15}' fill='#52606d'"
        yield f" text-anchor='middle'>{at:g} s</text>"
    for lane, y in rows.items():
        yield f"<text x='{LEFT - 10}' y='{y + 19}' text-anchor='end'>{escape(lane)}</text>"
    yield from _bars(one, rows, x)
    yield from _dots(one, rows, x)
    yield from _marks(one, rows, x, bottom)
    yield "</svg>"


def _bars(one: Timeline, rows: dict[str, int], x: At) -> Iterator[str]:
    for bar in one.bars:
        if bar.lane not in rows:
            continue
        left, right, y = x(bar.from_s), x(bar.to_s), rows[bar.lane]
        words = " ".join(filter(None, (bar.state if bar.state != "writer" else "", bar.text)))
        told = escape(f"{words}: {bar.from_s:.3f} to {bar.to_s:.3f} s")
        yield f"<g><title>{told}</title><rect x='{left:.1f}' y='{y + 4}' height='{ROW - 8}'"
        yield f" width='{max(right - left, 1.5):.1f}' fill='{COLOURS.get(bar.state, '#e4e7eb')}'"
        yield " stroke='#fff'/>"
        if right - left > 7 * len(words) + 8:
            yield f"<text x='{left + 5:.1f}' y='{y + 19}'>{escape(words)}</text>"
        yield "</g>"


def _dots(one: Timeline, rows: dict[str, int], x: At) -> Iterator[str]:
    for dot in one.dots:
        if dot.lane in rows:
            yield f"<circle cx='{x(dot.at_s):.1f}' cy='{rows[dot.lane] + ROW / 2}'"
            yield f" r='{2.2 if dot.outcome == 'ok' else 4}' fill='{DOTS.get(dot.outcome, '#000')}'"
            yield " fill-opacity='0.7'/>"


def _marks(one: Timeline, rows: dict[str, int], x: At, bottom: float) -> Iterator[str]:
    """A line through all lanes; its words where there is room."""
    until = 0.0
    for mark in sorted(one.marks, key=lambda mark: mark.at_s):
        if mark.lane not in rows:
            continue
        at, y = x(mark.at_s), rows[mark.lane]
        yield f"<g><title>{escape(f'{mark.at_s:.3f} s: {mark.text}')}</title>"
        yield f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{y + 3}' y2='{bottom}' stroke='#52606d'"
        yield " stroke-dasharray='2 3'/>"
        yield f"<circle cx='{at:.1f}' cy='{y + ROW / 2}' r='4.5' fill='#52606d'/>"
        width = 6.4 * len(mark.text) + 12
        if at > until and at + width < WIDTH:
            yield f"<text x='{at + 8:.1f}' y='{y + 19}'>{escape(mark.text)}</text>"
            until = at + width
        yield "</g>"


def _ticks(begins_s: float, ends_s: float) -> list[float]:
    span = ends_s - begins_s
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800) if span / s <= 14)
    first = int(begins_s / step)
    return [number * step for number in range(first, int(ends_s / step) + 1)]
