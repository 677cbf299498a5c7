"""Which cells are counted, and what is made of their figures; callgrind itself takes minutes."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations

from benchmarks.overhead.cells import AXES, MOST, chosen, every
from benchmarks.overhead.instructions import SIDES, table


def test_the_short_list_has_each_pair() -> None:
    cells = chosen()
    assert len(set(cells)) == len(cells) <= MOST
    seen = {pair for cell in cells for pair in combinations(asdict(cell).items(), 2)}
    possible = {pair for cell in every() for pair in combinations(asdict(cell).items(), 2)}
    assert possible <= seen
    assert {value for name, value in (item for pair in seen for item in pair)} == {
        value for values in AXES.values() for value in values
    }


def test_the_worst_cell_comes_first() -> None:
    figures = {"a/b": (100, 110, 101), "c/d": (1000, 1500, 1000), "half/done": (10,)}
    rows = [
        {"cell": cell, "side": side, "instructions": count}
        for cell, counts in figures.items()
        for side, count in zip(SIDES, counts, strict=False)
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| c | d | 1\u202f000 | 1\u202f500 | 1.500 | 1\u202f000 | 1.000 |"
    assert lines[3].startswith("| a | b |")
    assert "2 cells: median 1.300 (wanted 1.05), worst 1.500 (wanted 1.15)" in table(rows)
    assert "half" not in table(rows)
