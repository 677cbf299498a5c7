"""How long after "writable" each client was back, a panel for each fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .. import dots
from .summary import Cell, of

__all__ = ["KNOWN", "draw"]

KNOWN = {"multi": "several hosts known", "cname": "one CNAME known"}
TITLE = "Time from the moment the new primary takes writes to the client's first good write"


def draw(found: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> str:
    """The SVG's text."""
    panels = [
        dots.Panel(f"{fault}, {KNOWN[endpoint]}", [_line(cell, of(cell, rows)) for cell in group])
        for (fault, endpoint), group in groupby(found, lambda c: (c.fault, c.endpoint))
    ]
    return dots.draw(TITLE, panels)


def _line(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> dots.Line:
    # where nobody is promoted: the longest time without a good write
    name = "after_writable_s" if cell.times["after_writable_s"] else "outage_s"
    median = cell.times[name]
    return dots.Line(
        name=f"{cell.client} · {cell.way}",
        ours=cell.ours,
        seconds=tuple(row[name] for row in rows if row[name] is not None),
        median=median[0] if median else None,
        never=cell.never,
        numbers={
            "errors": cell.each["errors"],
            "lost": cell.counts["lost"],
            "dupl.": cell.counts["duplicated"],
            "ghosts": cell.counts["ghosts"],
            "conn.": cell.each["connections"],
        },
    )
