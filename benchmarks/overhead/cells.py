"""The cells in which instructions are counted: a list that covers each pair, or all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

__all__ = ["AXES", "MOST", "Cell", "chosen", "every"]

#: as many as the short list has
MOST = 48

AXES: dict[str, tuple[Any, ...]] = {
    "mode": ("autocommit", "default"),
    "pattern": ("statement", "block", "transaction", "nested", "run", "executemany", "pipeline"),
    "statements": (1, 10),
    "given": ("none", "parameters", "prepared"),
    "rows": (1, 1000),
    "does": ("reads", "writes"),
    "shell": ("sync", "async"),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """`pattern`: how the statements are held together.  `given`: no parameters (psycopg prepares
    the text at its fifth use), parameters that are never prepared, or always.  `does`: all
    statements read, or every other one writes, the first too.  `rows`: of each result; of
    `executemany`, those that are sent."""

    mode: str
    pattern: str
    statements: int
    given: str
    rows: int
    does: str
    shell: str

    @property
    def key(self) -> str:
        return "/".join(str(value) for value in asdict(self).values())

    @property
    def repeats(self) -> int:
        """So many calls give a figure that repeats itself."""
        if self.rows == 1:
            return 10
        return 1 if self.pattern == "executemany" else 4


def every() -> Iterator[Cell]:
    """All that there are; ten times a thousand rows sent are left out, which take minutes."""
    for values in product(*AXES.values()):
        cell = Cell(*values)
        if not (cell.pattern == "executemany" and cell.statements * cell.rows > 1000):
            yield cell


def chosen() -> list[Cell]:
    """`MOST` cells with each pair of values at least once, and as many triples as they can have;
    always the same ones."""
    left, found = list(every()), []
    for size in (2, 3):
        wanted = {part for cell in left for part in _parts(cell, size)}
        for cell in found:
            wanted -= set(_parts(cell, size))
        while wanted and len(found) < MOST:
            best = max(left, key=lambda cell: len(wanted & set(_parts(cell, size))))
            found.append(best)
            left.remove(best)
            wanted -= set(_parts(best, size))
    order = {cell: number for number, cell in enumerate(every())}
    return sorted(found, key=order.__getitem__)


def _parts(cell: Cell, size: int) -> list[tuple[tuple[str, Any], ...]]:
    return list(combinations(asdict(cell).items(), size))
