"""The table of an ordinary day, and where ours is worse than plain httpx2."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..progress import say
from ..rows import Rows
from .clients import CLIENTS, PLAIN

__all__ = ["COLUMNS", "report", "worse"]


@dataclass(frozen=True, slots=True)
class Column:
    """`slack`: so much more is no difference, in the column's unit; beside noise and 5 %."""

    case: str
    measure: str
    title: str
    slack: float
    digits: int = 2


COLUMNS = (
    Column("slow", "late_s", "slow answers: s late", 0.05),
    Column("slow", "computed", "computed each", 0.0),
    Column("upload", "late_s", "8 MiB, reader pauses: s late", 0.05),
    Column("upload", "big_s", "32 MiB: s", 0.02),
    Column("upload", "sent", "sent each", 0.0),
    Column("conditional", "wrong", "conditional writes told wrong, of 2", 0.0, 0),
    Column("names", "a_name_ms", "a new name: ms", 0.1),
    Column("names", "kb_a_name", "kept of each: kB", 0.5, 1),
    Column("names", "at_rest", "questions in 4 s of rest", 0.0, 0),
    Column("names", "errors", "errors", 0.0, 0),
    Column("limits", "took_s", "at the limit: s", 0.03),
    Column("limits", "connections", "connections (4 allowed)", 0.0, 0),
    Column("vanishing", "late_s", "vanished name: s late", 0.5),
    Column("refused", "ms", "refused: ms", 1.0, 1),
    Column("sdk", "late_s", "an SDK's long answer: s late", 0.05),
    Column("sdk", "computed", "computed", 0.0, 0),
    Column("quick", "us", "50 µs handler: µs", 0.0, 0),
)
#: what isn't told from noise: five in a hundred, and what plain httpx2's own runs differ by
NOISE = 1.05


def worse(column: Column, ours: list[float], plain: list[float]) -> bool:
    """Is ours beyond what plain httpx2 itself showed in this run?"""
    if not ours or not plain:
        return False
    median = statistics.median(plain)
    spread = max(0.0, statistics.median([value for value in plain if value >= median]) - median)
    return statistics.median(ours) > NOISE * median + spread + column.slack


def report(rows: Rows, out: Path) -> int:
    """Prints the table and writes it; 1 when a column of ours is worse, or a case failed."""
    found = rows.read()
    bad = [f"{row['key']}: {row['trouble']}" for row in found if row["trouble"]]
    lines = list(_table(found))
    for ours, plain in PLAIN.items():
        for column in COLUMNS:
            a, b = _values(found, column, ours), _values(found, column, plain)
            if worse(column, a, b):
                median = statistics.median(a), statistics.median(b)
                bad.append(f"{ours}, {column.title}: {median[0]:.4g}, plain {median[1]:.4g}")
    text = "\n".join(lines) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "http-ordinary.md").write_text(text)
    print(text)
    for line in bad:
        say(f"worse or failed: {line}")
    return 1 if bad else 0


def _values(rows: list[dict[str, Any]], column: Column, client: str) -> list[float]:
    mine = (row for row in rows if (row["case"], row["client"]) == (column.case, client))
    return [row["measured"][column.measure] for row in mine if column.measure in row["measured"]]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| median (worst) | " + " | ".join(CLIENTS) + " |", "|---" * (len(CLIENTS) + 1) + "|"]
    for column in COLUMNS:
        cells = []
        for client in CLIENTS:
            values = _values(rows, column, client)
            if not values:
                cells.append("")
                continue
            median, most = statistics.median(values), max(values)
            cells.append(f"{median:.{column.digits}f} ({most:.{column.digits}f})")
        lines.append(f"| {column.title} | " + " | ".join(cells) + " |")
    return lines
