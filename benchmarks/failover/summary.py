"""From rows to cells: one for each fault, endpoint, client and way.

Pure.  Times are medians and maxima over the runs that recovered; `never` counts the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..judge.checker import BROKEN
from .clients import CLIENTS
from .plan import ENDPOINTS, FAULTS

__all__ = ["BEYOND", "COUNTS", "Beaten", "Cell", "beaten", "cells", "of", "targets"]

Row = Mapping[str, Any]
TIMES = ("outage_s", "after_writable_s", "all_served_s", "after_dns_s", "detect_s")
#: summed over the runs
COUNTS = ("acked", "told", "stuck", "unknown", *BROKEN, "refused_53300")
#: medians over the runs
EACH = ("errors", "connections", "connections_peak")
NOT_FOUND = 1e9
#: the outage without the time for which nobody promoted: clients met other delays
BEYOND = "outage_beyond_delay_s"
#: a peer is better when it is by more than this: seconds, or a count
NOISE = {"after_writable_s": 0.015, BEYOND: 0.030, "errors": 0.5, "connections": 2.5}
WINDOW_S, TTL_S = 2.0, 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """What was found.  `times`: name → (median, maximum), None where no run has it."""

    fault: str
    endpoint: str
    client: str
    way: str
    runs: int
    never: int
    times: dict[str, tuple[float, float] | None]
    counts: dict[str, int]
    each: dict[str, float]
    watched_s: float
    versions: str

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return CLIENTS[self.client].ours

    def median(self, name: str) -> float:
        """Of a time or of a count of each run; a time that never came is the longest."""
        if name in self.each:
            return self.each[name]
        found = self.times[name]
        if self.never * 2 >= self.runs or found is None:
            return NOT_FOUND
        return found[0]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON summary."""
        return {
            **{name: getattr(self, name) for name in ("fault", "endpoint", "client", "way")},
            "runs": self.runs, "never": self.never, "versions": self.versions,
            **{name: value and {"median": value[0], "max": value[1]}
               for name, value in self.times.items()},
            **self.counts,
            **{f"{name}_median": value for name, value in self.each.items()},
        }  # fmt: skip


def cells(rows: Iterable[Row]) -> list[Cell]:
    """In order of the plan, the quickest first within a fault and endpoint."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not row.get("trouble") and "acked" in row and row["client"] in CLIENTS:
            key = row["fault"], row["endpoint"], row["client"], row["way"]
            groups.setdefault(key, []).append(row)
    found = [_cell(key, group) for key, group in groups.items()]
    faults, endpoints = list(FAULTS), list(ENDPOINTS)
    return sorted(
        found,
        key=lambda cell: (
            faults.index(cell.fault),
            endpoints.index(cell.endpoint),
            cell.median("after_writable_s"),
            cell.median("outage_s"),
        ),
    )


def _cell(key: tuple[str, ...], rows: Sequence[Row]) -> Cell:
    return Cell(
        fault=key[0],
        endpoint=key[1],
        client=key[2],
        way=key[3],
        runs=len(rows),
        never=sum(row["outage_s"] is None for row in rows),
        times={name: _spread(row[name] for row in rows) for name in TIMES}
        | {BEYOND: _spread(map(_beyond_delay, rows))},
        counts={name: sum(row.get(name, 0) for row in rows) for name in COUNTS},
        each={name: statistics.median(row[name] for row in rows) for name in EACH},
        watched_s=max(row["watched_s"] for row in rows),
        versions=rows[-1]["versions"],
    )


def _beyond_delay(row: Row) -> float | None:
    outage_s = row["outage_s"]
    return None if outage_s is None else float(outage_s) - float(row["promote_after_s"])


def _spread(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (statistics.median(known), max(known)) if known else None


@dataclass(frozen=True, slots=True)
class Beaten:
    """A cell of ours, and the best peer that is better in one column."""

    ours: Cell
    peer: Cell
    column: str


def beaten(found: Sequence[Cell]) -> Iterator[Beaten]:
    """Every column of every cell of ours in which a peer, used in the same way, is better.

    `run` has no equal among the peers: it stands against their naive retries.
    """
    for cell in found:
        if not cell.ours:
            continue
        way = "retry" if cell.way == "run" else cell.way
        same = [
            c for c in found if (c.fault, c.endpoint, c.way) == (cell.fault, cell.endpoint, way)
        ]
        # who never came back opened no connection and saw no error: that is no merit
        back = [peer for peer in same if peer.never * 2 < peer.runs]
        peers = [peer for peer in back if not peer.ours and peer.client != "broken"]
        for column, noise in NOISE.items():
            best = min(peers, key=lambda peer: peer.median(column), default=None)
            if best is not None and best.median(column) + noise < cell.median(column):
                yield Beaten(cell, best, column)
        for column in BROKEN:
            best = min(peers, key=lambda peer: peer.counts[column] / peer.runs, default=None)
            if best and best.counts[column] / best.runs < cell.counts[column] / cell.runs:
                yield Beaten(cell, best, column)


def targets(found: Iterable[Cell], rows: Iterable[Row]) -> Iterator[tuple[str, str, bool]]:
    """(target, what was measured, whether it holds) for each cell of ours."""
    given = list(rows)
    for cell in found:
        if not cell.ours:
            continue
        name = f"{cell.fault}, {cell.endpoint}, {cell.client} {cell.way}"
        yield from _timely(name, cell, of(cell, given))
        if cell.way != "retry":  # a loop that asks for no reason may do anything twice
            wrong = {key: value for key in BROKEN if (value := cell.counts[key])}
            said = ", ".join(f"{value} {key}" for key, value in wrong.items()) or "0"
            yield f"{name}: nothing lost, duplicated, ghostly or torn", said, not wrong


def of(cell: Cell, rows: Iterable[Row]) -> list[Row]:
    """The rows that the cell was made of."""
    place = cell.fault, cell.endpoint, cell.client, cell.way
    return [
        row
        for row in rows
        if (row["fault"], row["endpoint"], row["client"], row["way"]) == place
        and not row.get("trouble")
        and "acked" in row
    ]


def _timely(name: str, cell: Cell, rows: Sequence[Row]) -> Iterator[tuple[str, str, bool]]:
    after = [row["after_writable_s"] for row in rows]
    worst = max((NOT_FOUND if value is None else value for value in after), default=NOT_FOUND)
    if cell.endpoint == "cname" and cell.fault in ("crash", "hang", "blackhole", "switchover"):
        late = [_or_never(row["after_dns_s"]) - TTL_S for row in rows]
        said = f"TTL {_told(max(late, default=NOT_FOUND))}"
        yield f"{name}: ≤ TTL + 300 ms after the record", said, max(late, default=1e9) <= 0.3
    elif cell.fault in ("crash", "switchover"):
        median = cell.median("after_writable_s")
        said = f"{_told(median)}, {_told(worst)}"
        yield f"{name}: ≤ 30 / 100 ms after writable", said, median <= 0.030 and worst <= 0.100
    elif cell.fault in ("hang", "blackhole") and cell.endpoint == "multi":
        late = [_late(row) for row in rows]
        said = _told(max(late, default=NOT_FOUND))
        yield f"{name}: ≤ 150 ms after window or writable", said, max(late, default=1e9) <= 0.150


def _late(row: Row) -> float:
    """Seconds after the later of (fault + window) and writable; never is never."""
    after = row["after_writable_s"]
    if after is None:
        return NOT_FOUND
    writable_s = float(row["writable_s"])
    return float(after) + writable_s - max(WINDOW_S, writable_s)


def _or_never(value: float | None) -> float:
    return NOT_FOUND if value is None else value


def _told(value: float) -> str:
    return "never" if value >= NOT_FOUND / 2 else f"{value * 1000:+.0f} ms"
