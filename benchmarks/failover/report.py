"""Table, JSON and picture from the rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..judge.checker import BROKEN
from ..rows import Rows
from .explained import why
from .picture import KNOWN, draw
from .summary import BEYOND, Beaten, Cell, beaten, cells, targets

__all__ = ["report", "table"]

HEAD = (
    "client", "way", "runs", "outage beyond delay, s", "after writable, ms", "all served, ms",
    "detected, s", "errors", "stuck", "unknown", "acked", "lost", "dupl.", "ghosts", "wrong",
    "conn.",
)  # fmt: skip


def report(out: Path, as_json: bool) -> int:
    """Write all of it beside the rows, and print one of it."""
    rows = Rows(out / "failover.jsonl").read()
    found = cells(rows)
    if not found:
        print("no rows yet", file=sys.stderr)
        return 1
    summary = as_summary(found, rows)
    text = table(found, rows)
    (out / "failover.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    (out / "failover.md").write_text(text)
    (out / "failover.svg").write_text(draw(found, rows))
    print(json.dumps(summary, ensure_ascii=False) if as_json else text)
    return 0


def as_summary(found: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same for programs."""
    last = rows[-1]
    return {
        "postgresql": last.get("postgresql"),
        "machine": last.get("machine"),
        "cells": [cell.as_dict() for cell in found],
        "targets": [
            {"target": what, "measured": said, "ok": ok} for what, said, ok in targets(found, rows)
        ],
        "beaten": [
            {**_cell_of(b), "by": b.peer.client, "column": b.column, "why": why(b)}
            for b in beaten(found)
        ],
        "broken_off": {r["key"]: r["trouble"] for r in rows if r.get("trouble")},
    }


def _cell_of(b: Beaten) -> dict[str, str]:
    return {name: getattr(b.ours, name) for name in ("fault", "endpoint", "client", "way")}


def table(found: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    return (
        "\n".join([*_tables(found), *_targets(found, rows), *_losses(found), *_rest(rows)]) + "\n"
    )


def _tables(found: Sequence[Cell]) -> Iterator[str]:
    # ours is marked where a peer is better, in that very cell
    worse = {(id(b.ours), b.column) for b in beaten(found)}
    for (fault, endpoint), group in groupby(found, key=lambda c: (c.fault, c.endpoint)):
        yield f"### {fault}, {KNOWN[endpoint]}\n"
        yield f"| {' | '.join(HEAD)} |"
        yield f"|{' --- |' * len(HEAD)}"
        for cell in group:
            yield f"| {' | '.join(_line(cell, worse))} |"
        yield ""


def _line(cell: Cell, worse: set[tuple[int, str]]) -> Iterator[str]:
    def mark(text: str, column: str) -> str:
        return f"{text} ◄" if (id(cell), column) in worse else text

    wrong = sum(cell.counts[name] for name in BROKEN[3:])
    yield f"**{cell.client}**" if cell.ours else cell.client
    yield cell.way
    yield str(cell.runs)
    yield mark(_outage(cell), BEYOND)
    yield mark(_spread(cell.times["after_writable_s"], 1000, "{:.0f}"), "after_writable_s")
    yield _spread(cell.times["all_served_s"], 1000, "{:.0f}")
    yield _spread(cell.times["detect_s"], 1, "{:.2f}").split(" / ")[0]
    yield mark(f"{cell.each['errors']:g}", "errors")
    yield str(cell.counts["stuck"])
    yield str(cell.counts["unknown"])
    yield str(cell.counts["acked"])
    for name in BROKEN[:3]:
        yield mark(str(cell.counts[name]), name)
    yield str(wrong)
    yield mark(f"{cell.each['connections']:g}", "connections")


def _outage(cell: Cell) -> str:
    never = f"never ({cell.never} of {cell.runs}, > {cell.watched_s:.0f} s)" if cell.never else ""
    if cell.never == cell.runs:
        return never
    told = _spread(cell.times[BEYOND], 1, "{:.2f}")
    return f"{told}; {never}" if never else told


def _spread(value: tuple[float, float] | None, factor: float, how: str) -> str:
    if value is None:
        return "–"
    return " / ".join(how.format(part * factor) for part in value)


def _targets(found: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    checked = list(targets(found, rows))
    if checked:
        yield "### Targets\n"
        yield "| target | measured (median, worst) | holds |"
        yield "| --- | --- | --- |"
        yield from (f"| {what} | {said} | {'yes' if ok else '**no**'} |"
                    for what, said, ok in checked)  # fmt: skip
        yield ""


def _losses(found: Sequence[Cell]) -> Iterator[str]:
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for b in beaten(found):
        column = b.column.removesuffix("_s").replace("_", " ")
        theirs = f"{_value(b.peer, b.column)} ({b.peer.client} {b.peer.way})"
        text = f"{b.ours.client} {b.ours.way}: {_value(b.ours, b.column)} ← {theirs}"
        groups.setdefault((b.ours.fault, b.ours.endpoint, column, why(b)), []).append(text)
    if groups:
        yield "### Where a peer is better (◄)\n"
        yield "| fault | known | column | ours ← the best peer | why |"
        yield "| --- | --- | --- | --- | --- |"
        for (fault, endpoint, column, reason), texts in groups.items():
            yield f"| {fault} | {endpoint} | {column} | {'; '.join(texts)} | {reason} |"
        yield ""


def _value(cell: Cell, column: str) -> str:
    if column in cell.counts:
        return f"{cell.counts[column]} in {cell.runs}"
    if column in cell.each:
        return f"{cell.each[column]:g}"
    found = cell.times[column]
    return "never" if found is None else f"{found[0]:.3f} s"


def _rest(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    given = list(rows)
    broken_off = [row for row in given if row.get("trouble")]
    if broken_off:
        yield "### Runs that came to no end\n"
        yield from (f"- {row['key']}: {row['trouble']}" for row in broken_off)
        yield ""
    named = sorted({row["versions"] for row in given if row.get("versions")})
    server = given[-1].get("postgresql", "?")
    machine = given[-1].get("machine", {})
    yield f"PostgreSQL {server}; Python {machine.get('python')}; {machine.get('cores')} cores. "
    yield "; ".join(dict.fromkeys(part for names in named for part in names.split(", "))) + "."
