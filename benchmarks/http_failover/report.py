"""Table, JSON and picture from the rows."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from .. import dots
from ..rows import Row, Rows
from .clients import CLIENTS
from .losses import Loss, losses
from .plan import FAULTS

__all__ = ["report"]

TIMES = ("stall_s", "back_s", "slowest_s", "left_s")
SUMS = ("told", "stuck", "answers", "acked", "lost", "duplicated", "ghosts")
EACH = ("errors", "connections")
HEAD = ("client", "way", "runs", "stall, s", "back, s", "slowest call, s", "last from it, s",
        "errors", "stuck", "answers", "orders", "lost", "dupl.", "ghosts", "conn.")  # fmt: skip
TITLE = "The longest time that any caller had no good answer"
NOTE = (
    "stall: the longest time that any session had no good answer; back: after the fault was over; "
    "last from it: when the upstream that was hit gave its last good answer; a ghost: an order "
    "that was carried out and reported as failed, which no client can know after it was sent."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """All runs of one fault, client and way.  `times`: (median, maximum)."""

    fault: str
    client: str
    way: str
    rows: tuple[Row, ...]

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return CLIENTS[self.client].ours

    @property
    def never(self) -> int:
        """Runs after which some session had no good answer any more."""
        return sum(row["never"] for row in self.rows)

    def seconds(self, name: str) -> tuple[float, ...]:
        """Of the runs that came back."""
        return tuple(r[name] for r in self.rows if r[name] is not None and not r["never"])

    def spread(self, name: str) -> tuple[float, float] | None:
        """Median and maximum."""
        found = self.seconds(name)
        return (statistics.median(found), max(found)) if found else None

    def sum(self, name: str) -> int:
        """Over all runs."""
        return sum(row[name] for row in self.rows)

    def each(self, name: str) -> float:
        """Median of the runs."""
        return float(statistics.median(row[name] for row in self.rows))

    def value(self, column: str) -> float:
        """For a comparison: a median, or a count for each run."""
        if column in EACH:
            return self.each(column)
        if column in SUMS:
            return self.sum(column) / len(self.rows)
        return (self.spread(column) or (float("inf"),))[0]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON summary."""
        spreads = {name: self.spread(name) for name in TIMES}
        return {
            "fault": self.fault,
            "client": self.client,
            "way": self.way,
            "runs": len(self.rows),
            "never": self.never,
            **{n: value and {"median": value[0], "max": value[1]} for n, value in spreads.items()},
            **{name: self.sum(name) for name in SUMS},
            **{f"{name}_median": self.each(name) for name in EACH},
            "versions": self.rows[-1]["versions"],
        }


def report(out: Path, as_json: bool) -> int:
    """Write all of it beside the rows, and print one of it."""
    rows = Rows(out / "http.jsonl").read()
    found = cells(rows)
    if not found:
        print("no rows yet", file=sys.stderr)
        return 1
    summary = {
        "machine": rows[-1].get("machine"),
        "cells": [cell.as_dict() for cell in found],
        "beaten": [
            {"fault": loss.ours.fault, "client": loss.ours.client, "way": loss.ours.way}
            | {"column": loss.column, "by": loss.peer.client, "why": loss.why}
            for loss in losses(found)
        ],
        "broken_off": {row["key"]: row["trouble"] for row in rows if row["trouble"]},
    }
    text = "\n".join(_table(found, rows)) + "\n"
    (out / "http.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    (out / "http.md").write_text(text)
    (out / "http.svg").write_text(dots.draw(TITLE, _panels(found)))
    print(json.dumps(summary, ensure_ascii=False) if as_json else text)
    return 0


def cells(rows: Sequence[Row]) -> list[Cell]:
    """By fault, the shortest stall first."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if not row["trouble"]:
            groups.setdefault((row["fault"], row["client"], row["way"]), []).append(row)
    found = [Cell(*key, rows=tuple(group)) for key, group in groups.items()]
    order = list(FAULTS)
    return sorted(
        found,
        key=lambda c: (order.index(c.fault), c.never > 0, (c.spread("stall_s") or (1e9,))[0]),
    )


def _table(found: Sequence[Cell], rows: Sequence[Row]) -> Iterator[str]:
    lost = list(losses(found))
    worse = {(id(loss.ours), loss.column) for loss in lost}
    for fault, group in groupby(found, key=lambda cell: cell.fault):
        yield f"### {fault}\n"
        yield f"| {' | '.join(HEAD)} |"
        yield f"|{' --- |' * len(HEAD)}"
        for cell in group:
            yield f"| {' | '.join(_line(cell, worse))} |"
        yield ""
    yield from _explained(lost)
    yield NOTE
    yield from (f"\nBroken off: {r['key']}: {r['trouble']}" for r in rows if r["trouble"])
    named = sorted({row["versions"] for row in rows})
    yield "\n" + "; ".join(dict.fromkeys(part for names in named for part in names.split(", ")))


def _explained(lost: Sequence[Loss]) -> Iterator[str]:
    """One line for all that has the same fault, column and reason."""
    if not lost:
        return
    yield "### Where a peer is better (◄)\n"
    yield "| fault | column | ours ← the best peer | why |\n| --- | --- | --- | --- |"
    groups: dict[tuple[str, str, str], list[str]] = {}
    for loss in lost:
        values = f"{loss.ours.value(loss.column):.3g} ← {loss.peer.value(loss.column):.3g}"
        text = f"{loss.ours.client} {loss.ours.way}: {values} ({loss.peer.client})"
        key = (loss.ours.fault, loss.column.removesuffix("_s"), loss.why)
        groups.setdefault(key, []).append(text)
    for (fault, column, why), texts in groups.items():
        yield f"| {fault} | {column} | {'; '.join(texts)} | {why} |"
    yield ""


def _line(cell: Cell, worse: set[tuple[int, str]]) -> Iterator[str]:
    def mark(text: str, column: str) -> str:
        return f"{text} ◄" if (id(cell), column) in worse else text

    yield f"**{cell.client}**" if cell.ours else cell.client
    yield cell.way
    yield str(len(cell.rows))
    never = f"never ({cell.never} of {len(cell.rows)})" if cell.never else ""
    yield mark("; ".join(filter(None, (_told(cell.spread("stall_s")), never))), "stall_s")
    for name in TIMES[1:]:
        yield mark(_told(cell.spread(name)) or "–", name)
    yield mark(f"{cell.each('errors'):g}", "errors")
    for name in ("stuck", "answers", "acked", "lost", "duplicated", "ghosts"):
        yield mark(str(cell.sum(name)), name)
    yield mark(f"{cell.each('connections'):g}", "connections")


def _told(value: tuple[float, float] | None) -> str:
    return f"{value[0]:.2f} / {value[1]:.2f}" if value else ""


def _panels(found: Sequence[Cell]) -> list[dots.Panel]:
    return [
        dots.Panel(fault, [_drawn(cell) for cell in group])
        for fault, group in groupby(found, key=lambda cell: cell.fault)
    ]


def _drawn(cell: Cell) -> dots.Line:
    spread = cell.spread("stall_s")
    return dots.Line(
        name=f"{cell.client} · {cell.way}",
        ours=cell.ours,
        seconds=cell.seconds("stall_s"),
        median=spread[0] if spread else None,
        never=cell.never,
        numbers={
            "errors": cell.each("errors"),
            "lost": cell.sum("lost"),
            "dupl.": cell.sum("duplicated"),
            "ghosts": cell.sum("ghosts"),
            "conn.": cell.each("connections"),
        },
        bad=frozenset({"lost", "dupl."}),
    )
