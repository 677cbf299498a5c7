"""The endpoints of a snapshot as a table, as large as there is room for."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .._parse import visible
from ..core.model import EndpointView, Health, Role, Topology
from .in_flight import InFlight

__all__ = ["FOLDS", "drawn", "folded", "table"]

#: lines of a screen that a table needs beside its rows: title, blanks, head and rule
ABOVE = 5
#: between two columns
GAP = 3
#: characters that a column with reasons has at least; where there is less room they stand below
WHY = 30
#: rows that an endpoint's reason, or a line that matters, may take
FOLDS = 2
STYLES = {Health.UP: "green", Health.SUSPECT: "yellow", Health.DEAD: "red"}
#: libpq names the place again, which the row does already
_PLACE = re.compile(
    r'connection to server (?:at|on) "[^"]*"(?: \([^)]*\))?(?:, port \d+)? failed: '
)


#: columns in the order in which they are shown, and how important the optional ones are
_COLUMNS = ("endpoint", "zone", "role", "health", "timeline", "lag s", "in flight", "why")
_OPTIONAL = ("lag s", "zone", "in flight", "timeline")
_RIGHT = frozenset({"timeline", "lag s", "in flight"})


def drawn(seen: Topology, in_flight: InFlight, width: int, height: int) -> Group:
    """A snapshot on a screen of `width` columns, in `height` rows: endpoint, role and health are
    never cut off.  Of more endpoints than there are rows for, the writer and those with a reason
    come first."""
    shown, left = _important(seen, max(1, height - ABOVE))
    part = replace(seen, endpoints=shown)
    columns = _fitting([_row(seen, view, in_flight, named=False) for view in shown], width)
    more = [Text(f"… and {left} more", style="dim")] if left else []
    if "why" in columns:
        return Group(table(part, in_flight, width), *more)
    reasons = [
        Text(row, style=STYLES.get(view.health, ""))
        for view in shown
        if view.reason
        for row in folded(visible(f"{view.endpoint.place}: {_brief(view.reason)}"), width, FOLDS)
    ]
    if columns:
        return Group(table(part, in_flight, width), *more, *reasons)
    rows = (_row(seen, view, in_flight, named=False) for view in shown)
    stacked = [Text(f"{row['endpoint']} {row['role']} {row['health']}") for row in rows]
    return Group(Text(visible(_title(seen))), *stacked, *more, *reasons)


def _important(seen: Topology, most: int) -> tuple[tuple[EndpointView, ...], int]:
    """The endpoints that are shown, in their order, and how many aren't."""
    views = seen.endpoints
    if len(views) <= most:
        return views, 0

    def rank(view: EndpointView) -> int:
        if seen.writer is not None and view.endpoint == seen.writer.endpoint:
            return 0
        return 1 if view.role is Role.PRIMARY else 2 if view.health is not Health.UP else 3

    kept = sorted(views, key=rank)[: max(1, most - 1)]
    return tuple(view for view in views if view in kept), len(views) - len(kept)


def _title(seen: Topology) -> str:
    writer = "nobody may write" if seen.writer is None else f"writes go to {seen.writer.endpoint}"
    return f"version {seen.version}: {seen.conflict or writer}"


def table(seen: Topology, in_flight: InFlight, width: int | None = None) -> Table:
    """A snapshot for people; * is where writes go.  `width`: columns of the screen; those that
    don't fit are left out, the least important first."""
    rows = [_row(seen, view, in_flight, named=True) for view in seen.endpoints]
    columns = _fitting(rows, width)
    if width is not None and len(columns) < len(_COLUMNS):
        rows = [_row(seen, view, in_flight, named=False) for view in seen.endpoints]
        columns = _fitting(rows, width)
    # As Text: what a server says is no markup either.
    shown = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=Text(visible(_title(seen))), title_justify="left"
    )
    if width is not None:
        needs = _needs(rows)
        room = width - sum(needs[name] for name in columns if name != "why") - GAP
        rows = [{**row, "why": "\n".join(folded(row["why"], max(room, 1), FOLDS))} for row in rows]
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in _RIGHT else "left"
        fixed = name != "why" or width is not None
        shown.add_column(name, justify=justify, no_wrap=fixed)
    for row, view in zip(rows, seen.endpoints, strict=True):
        style = {"health": STYLES.get(view.health, "")}
        shown.add_row(*(Text(row[name], style=style.get(name, "")) for name in columns))
    return shown


def _fitting(rows: list[dict[str, str]], width: int | None) -> tuple[str, ...]:
    """The columns that fit; without `why` where it has no room, none where the rest has none."""
    if width is None:
        return _COLUMNS
    needs = _needs(rows)
    needs["why"] = min(needs["why"], WHY)
    first = [name for name in _COLUMNS if name not in _OPTIONAL]
    left = width - sum(needs[name] for name in first)
    if left < 0:
        first.remove("why")
        left += needs["why"]
    if left < 0:
        return ()
    taken = set(first)
    for name in _OPTIONAL:
        if needs[name] <= left:
            taken.add(name)
            left -= needs[name]
    return tuple(name for name in _COLUMNS if name in taken)


def _brief(reason: str) -> str:
    """A reason without the place, which stands beside it."""
    return _PLACE.sub("", " ".join(reason.split()))


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _needs(rows: list[dict[str, str]]) -> dict[str, int]:
    return {n: max([len(n), *(len(row[n]) for row in rows)]) + GAP for n in _COLUMNS}


def _row(seen: Topology, view: EndpointView, in_flight: InFlight, named: bool) -> dict[str, str]:
    here = seen.writer is not None and view.endpoint == seen.writer.endpoint
    busy = in_flight.at(view.endpoint)
    where = str(view.endpoint) if named else view.endpoint.place
    return {
        "endpoint": visible(f"{where}{' *' if here else ''}"),
        "zone": view.zone or "–",
        "role": f"{view.role.value}{' (fenced)' if view.fenced else ''}",
        "health": view.health.value,
        "timeline": "–" if view.timeline is None else str(view.timeline),
        "lag s": "–" if view.lag_s is None else f"{view.lag_s:.1f}",
        "in flight": "–" if busy is None else str(busy),
        "why": visible(_PLACE.sub("", view.reason)),
    }


def folded(text: str, width: int, most: int) -> list[str]:
    """In so many rows at most, at blanks where there are some; the last one may be cut."""
    rows: list[str] = []
    indent = ""
    while len(indent + text) > width and len(rows) < most - 1:
        room = max(1, width - len(indent))
        blank = text.rfind(" ", 0, room + 1)
        at = blank if blank > room // 2 else room
        rows.append(f"{indent}{text[:at].rstrip()}")
        text, indent = text[at:].lstrip(), "  "
    return [*rows, _cut(indent + text, width)]
