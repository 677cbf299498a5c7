"""Tables and JSON from the rows, with the targets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..rows import Rows
from . import picture
from .cases import CASES
from .placement import PLACEMENTS
from .targets import WHERE, target

__all__ = ["report", "table"]

Row = dict[str, Any]
HEAD = (
    "shell", "workers", "case", "side", "bare µs", "this µs", "added µs", "ratio", "target",
    "noise", "cpu", "p50 µs: bare, this", "p99 µs: bare, this", "op/s: bare, this",
)  # fmt: skip
WEIGHT_HEAD = (
    "hosts known",
    "side",
    "memory with imports, MB",
    "with the pool, MB",
    "threads",
    "sockets",
)
NOTES = """\
Ratios are those of the medians of alternating batches; *noise* is the bare side against itself,
*cpu* the ratio of the processor time of the threads that work. With 16 workers µs is the time per
operation of all together (1 / throughput), p50 and p99 are those of single operations. The servers
are a primary without standbys. Targets are for one worker, ratios not for one processor; ◄: missed.
The bare side is psycopg_pool, httpx2, and dnspython with its cache (hits are timed in groups of
100). `aws` is a connection of the AWS wrapper for each worker, without a pool: nothing is checked
out. A proxy that makes the network adds its own work to every side.
"""


def report(out: Path, as_json: bool) -> int:
    """Write it beside the rows, and print it."""
    rows = Rows(out / "overhead.jsonl").read()
    if not rows:
        print("no rows yet", file=sys.stderr)
        return 1
    text = table(rows)
    named = [(row, target(row)) for row in rows]
    summary = {
        "postgresql": rows[-1].get("postgresql"),
        "machine": rows[-1].get("machine"),
        "rows": [row | ({"target": t[0], "ok": t[1]} if t else {}) for row, t in named],
        "missed": [row["key"] for row, t in named if t and not t[1]],
    }
    (out / "overhead.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    (out / "overhead.md").write_text(text)
    (out / "overhead.svg").write_text(picture.draw(rows))
    print(json.dumps(summary, ensure_ascii=False) if as_json else text)
    return 0


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    timed = [row for row in rows if row["case"] in CASES]
    order = {case: number for number, case in enumerate(CASES)}
    timed.sort(key=lambda r: (r["shell"] != "sync", r["workers"], order[r["case"]]))
    lines: list[str] = []
    for trip_ms in sorted({row["round_trip_ms"] for row in timed}):
        for placement in PLACEMENTS:
            group = [
                row
                for row in timed
                if (row["round_trip_ms"], row.get("placement", "free")) == (trip_ms, placement)
            ]
            if group:
                lines += _timed(trip_ms, placement, group)
    if timed:
        lines.append(NOTES)
    lines += _imports([row for row in rows if row["case"] == "import"])
    lines += _firsts([row for row in rows if row["case"] == "first"])
    lines += _weights([row for row in rows if row["case"] == "weight"])
    where = rows[-1].get("machine") or {}
    lines.append(
        f"PostgreSQL {rows[-1].get('postgresql')}, Python {where.get('python')}, "
        f"{where.get('cores')} cores. {rows[-1].get('versions')}."
    )
    return "\n".join(lines) + "\n"


def _head(title: str, names: Sequence[str]) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"| {' | '.join(names)} |"
    yield f"|{' --- |' * len(names)}"


def _timed(trip_ms: float, placement: str, rows: Sequence[Row]) -> Iterator[str]:
    title = WHERE[placement]
    if trip_ms:
        how = ", ".join(sorted({row["network"] for row in rows}))
        title = f"Over a network of {trip_ms:g} ms (there and back), by {how}"
    yield from _head(title, HEAD)
    for row in rows:
        yield f"| {' | '.join(map(str, _line(row)))} |"
    yield ""


def _line(row: Row) -> Iterator[object]:
    bare, this = row["bare"], row["this"]
    yield from (row["shell"], row["workers"], CASES[row["case"]].text)
    yield "aws" if row["side"] == "aws" else f"**{row['side']}**"
    yield f"{bare['us']:.2f}"
    yield f"{this['us']:.2f}"
    yield f"{row['added_us']:+.2f}"
    yield f"{row['ratio']:.3f}"
    yield _said(row)
    yield f"{row['noise_ratio']:.3f}"
    yield f"{row['cpu_ratio']:.3f}"
    for name in ("p50_us", "p99_us"):
        yield f"{bare[name]:.2f}, {this[name]:.2f}"
    yield f"{bare['ops_s']}, {this['ops_s']}"


def _said(row: Row) -> str:
    wanted = target(row)
    return "" if wanted is None else wanted[0] if wanted[1] else f"{wanted[0]} ◄"


def _imports(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield from _head(
        "Importing both drop-ins", ("against", "that, ms", "ours, ms", "ratio", "target")
    )
    against = {"below": "all that they stand on", "bare": "psycopg_pool and httpx2 alone"}
    for row in rows:
        cells = (against[row["against"]], row["bare_ms"], row["ms"], row["ratio"], _said(row))
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def _firsts(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    head = ("bare, ms", "ours, ms", "ratio", "of processor time", "bare, MB", "added, MB", "target")
    yield from _head("A process until its first row and its first response", head)
    for row in rows:
        names = ("bare_ms", "ms", "ratio", "cpu_ratio", "bare_mb", "added_mb")
        yield f"| {' | '.join(str(row[name]) for name in names)} | {_said(row)} |"
    yield ""


def _weights(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield from _head("A process with one pool of four connections", WEIGHT_HEAD)
    for row in rows:
        memory = (f"{row[name] / 1024:.1f}" for name in ("imported_kb", "resident_kb"))
        cells = (row["hosts"], row["side"], *memory, row["threads"], row["sockets"])
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    for side in ("bare", "resilient"):
        one, more = (
            next((r for r in rows if (r["side"], r["hosts"]) == (side, n)), None) for n in (1, 3)
        )
        if one and more:
            each = {n: (more[n] - one[n]) / 2 for n in ("resident_kb", "threads", "sockets")}
            yield (
                f"{side}, each further host: {each['resident_kb'] / 1024:+.2f} MB, "
                f"{each['threads']:+g} threads, {each['sockets']:+g} sockets.\n"
            )
