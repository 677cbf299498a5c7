"""Timelines as one HTML file that needs nothing else: charts, planned against measured, and
under which circumstances.

Only what is there is spoken of: a flight recording has no limits, and perhaps no callers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version

from .page_chart import CALLS, chart, lane_name, state_words, told_words
from .page_style import STYLE
from .timeline import Timeline
from .words import plural, seconds

__all__ = ["page"]

#: state of a bar → what it means
STATES = {
    "up": "answers",
    "suspect": "silent, or it said something odd",
    "dead": "dead to the client",
    "unknown": "not known yet",
    "gone": "no longer among the addresses",
    "writer": "writes go there",
    "nobody": "nobody may write: callers wait",
}


def page(title: str, timelines: Sequence[Timeline], drawn_by: str = "") -> str:
    """The file's text.  `drawn_by`: the command that drew it."""
    body = "\n".join(
        part for number, one in enumerate(timelines, 1) for part in _section(number, one)
    )
    drawn = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    by = f" by <code>{escape(drawn_by)}</code>," if drawn_by else ""
    by += f" resilient-connect {version('resilient-connect')}"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        f"<header><h1>{escape(title)}</h1>\n<p>{_lead(timelines)}</p></header>\n<main>\n"
        f"{''.join(_summary(timelines))}{''.join(_legend(timelines))}\n"
        f"{body}\n{''.join(_circumstances(timelines))}\n</main>\n"
        f"<footer><p>Drawn {drawn}{by}.</p></footer>\n</body></html>\n"
    )


def _lead(timelines: Sequence[Timeline]) -> str:
    """How many, and how they came out."""
    drills = [one for one in timelines if one.kind == "drill"]
    flights = [one for one in timelines if one.kind != "drill"]
    told = []
    if drills:
        bad = sum(bool(one.verdict) for one in drills)
        state = f"{bad} with a broken limit" if bad else "every limit held"
        told.append(f"{plural(len(drills), 'timeline')}, {_graded(bad, state)}.")
        told.append("Times are seconds since the fault.")
    if flights:
        bad = sum(bool(one.verdict) for one in flights)
        state = f"{bad} not over" if bad else "all over" if len(flights) > 1 else "it is over"
        told.append(f"{plural(len(flights), 'failover')} recorded, {_graded(bad, state)}.")
        told.append("Times are seconds since the server was suspected or lost.")
    if any(one.bars for one in timelines):
        told.append("Bars are what the client believed.")
    if any(one.dots for one in timelines):
        told.append("Dots are what its callers were told.")
    return " ".join(told) or "There is no failover in it."


def _graded(bad: int, state: str) -> str:
    return f"<span class='{'bad' if bad else 'fine'}'>{state}</span>"


def _summary(timelines: Sequence[Timeline]) -> Iterator[str]:
    """All of them, a line each: the page may be long.  The result comes first, so that a phone
    shows it without a push."""
    if len(timelines) < 2:
        return
    names = list(dict.fromkeys(phase.name for one in timelines for phase in one.phases))
    heads = "".join(f"<th scope='col' class='n'>{escape(name)}</th>" for name in names)
    yield "<section aria-labelledby='all'><h2 id='all'>All of them</h2>"
    yield "<div class='scroll' role='region' aria-labelledby='all' tabindex='0'><table>"
    yield "<caption>Phases in seconds, as measured</caption><thead><tr>"
    yield f"<th scope='col'>timeline</th><th scope='col'>result</th>{heads}</tr></thead><tbody>"
    for one in timelines:
        measured = {phase.name: phase.measured_s for phase in one.phases}
        cells = "".join(f"<td class='n'>{seconds(measured.get(name), 3)}</td>" for name in names)
        yield f"<tr><th scope='row'>{escape(one.title)}</th><td>{_result(one)}</td>{cells}</tr>"
    yield "</tbody></table></div></section>"


def _result(one: Timeline) -> str:
    fine = "held" if one.kind == "drill" else "over"
    bad = "broken" if one.kind == "drill" else "not over"
    return _graded(bool(one.verdict), bad if one.verdict else fine)


def _legend(timelines: Sequence[Timeline]) -> Iterator[str]:
    """Of what is drawn, and of nothing else."""
    states = {bar.state for one in timelines for bar in one.bars}
    outcomes = {dot.outcome for one in timelines for dot in one.dots}
    took = any(dot.took_s is not None for one in timelines for dot in one.dots)
    items = [
        f"<li><i class='bar {state}'></i>{state}: {meaning}</li>"
        for state, meaning in STATES.items()
        if state in states
    ]
    kinds = {"ok": "", "unknown": "doubt", "error": "error"}
    items += [
        f"<li><i class='dot {kinds[outcome]}'></i>{meaning}</li>"
        for outcome, meaning in CALLS.items()
        if outcome in outcomes
    ]
    if took:
        if any(dot.lane.endswith("async") for one in timelines for dot in one.dots):
            items.append("<li><i class='dot'></i>how long a thread's call took</li>")
            items.append("<li><i class='dot later'></i>… a task's</li>")
        items.append("<li>— a line to a dot: from the call to its answer</li>")
    if any(one.marks for one in timelines):
        items.append("<li>┊ dashed: an event, through all lanes</li>")
    if items:
        yield "<section aria-labelledby='key'><h2 id='key'>Legend</h2>"
        yield f"<ul class='legend'>{''.join(items)}</ul></section>"


def _circumstances(timelines: Sequence[Timeline]) -> Iterator[str]:
    """When it was, which command, settings and versions."""
    yield "<section aria-labelledby='how'><h2 id='how'>How it was measured</h2><dl>"
    moments = sorted(one.at for one in timelines if one.at is not None)
    if moments:
        first, last = _date(moments[0]), _date(moments[-1])
        yield _pair("date", first if first == last else f"{first} to {last}")
    zones = sorted({zone for one in timelines for zone in one.zones.values()})
    if zones:
        yield _pair("zones", ", ".join(zones))
    seen: list[Mapping[str, object]] = []
    for about in (one.about for one in timelines):
        if about and about not in seen:
            seen.append(about)
            yield from (_pair(name, _told(value)) for name, value in about.items() if value)
    if not seen:
        yield _pair("settings, versions", "not in this recording")
    yield "</dl></section>"


def _pair(name: str, value: str) -> str:
    shown = f"<code>{escape(value)}</code>" if name == "command" else escape(value)
    return f"<dt>{escape(name)}</dt><dd>{shown}</dd>"


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return " · ".join(f"{name} {each}" for name, each in value.items())
    return str(value)


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _section(number: int, one: Timeline) -> Iterator[str]:
    heading = f"t{number}"
    yield f"<section aria-labelledby='{heading}'>"
    yield f"<div class='whole'><h2 id='{heading}'>{escape(one.title)}</h2>"
    if one.verdict:
        yield f"<p class='bad'>{escape('; '.join(one.verdict))}</p>"
    elif one.kind == "drill":
        yield "<p class='fine'>held</p>"
    facts = [*one.facts, *([_date(one.at)] if one.at is not None else [])]
    if facts:
        yield "<ul class='facts'>"
        yield "".join(f"<li>{escape(fact)}</li>" for fact in facts) + "</ul>"
    yield "".join(chart(one, heading))
    yield "</div>"
    if one.phases:
        yield "".join(_phases(one))
    yield "".join(_numbers(one))
    yield "</section>"


def _phases(one: Timeline) -> Iterator[str]:
    planned = any(phase.planned_s is not None for phase in one.phases)
    yield "<div class='scroll'><table><caption>Phases, seconds</caption><thead><tr>"
    yield "<th scope='col'>phase</th><th scope='col'>from → to</th>"
    yield "<th scope='col' class='n'>planned</th>" if planned else ""
    yield "<th scope='col' class='n'>measured</th></tr></thead><tbody>"
    for phase in one.phases:
        values = (phase.planned_s, phase.measured_s) if planned else (phase.measured_s,)
        numbers = "".join(f"<td class='n'>{seconds(value, 3)}</td>" for value in values)
        yield f"<tr><th scope='row'>{escape(phase.name)}</th>"
        yield f"<td class='more'>{escape(phase.meaning)}</td>{numbers}</tr>"
    yield "</tbody></table></div>"


def _numbers(one: Timeline) -> Iterator[str]:
    """The chart as tables: what a screen reader, or a search, finds."""
    yield "<details class='table'><summary>The chart as a table</summary>"
    if one.bars:
        rows = [
            (lane_name(one, bar.lane), state_words(bar), seconds(bar.from_s, 3),
             seconds(bar.to_s, 3))
            for bar in one.bars
        ]  # fmt: skip
        heads = ("lane", "state", "from, s", "to, s")
        yield from _table("What the client believed", heads, rows, 2)
    if one.marks:
        marks = sorted(one.marks, key=lambda mark: mark.at_s)
        events = [(mark.lane, mark.text, seconds(mark.at_s, 3)) for mark in marks]
        yield from _table("What happened", ("lane", "event", "at, s"), events, 2)
    lanes = [lane for lane in one.lanes if any(dot.lane == lane for dot in one.dots)]
    if lanes:
        told = [(lane, told_words([d for d in one.dots if d.lane == lane])) for lane in lanes]
        yield from _table("What callers were told", ("lane", "in words"), told, 2)
    yield "</details>"


def _table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int
) -> Iterator[str]:
    """Cells from column `numbers_from` on are numbers."""
    kinds = ["" if place < numbers_from else " class='n'" for place in range(len(heads))]
    yield f"<div class='scroll' role='region' aria-label='{escape(caption, quote=True)}'"
    yield f" tabindex='0'><table><caption>{escape(caption)}</caption><thead><tr>"
    yield "".join(
        f"<th scope='col'{kind}>{escape(head)}</th>"
        for head, kind in zip(heads, kinds, strict=True)
    )
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = zip(row, kinds, strict=True)
        yield "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in cells) + "</tr>"
    yield "</tbody></table></div>"
