"""Numbers and nouns as people write them."""

from __future__ import annotations

__all__ = ["MISSING", "milliseconds", "plural", "seconds"]

#: where there is no number
MISSING = "–"


def plural(count: int, noun: str, several: str = "") -> str:
    """`1 run`, `2 runs`, `2 replies` (`several`: where an s isn't enough)."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def seconds(value: float | None, digits: int) -> str:
    """Seconds, never `-0.00`; a dash for None."""
    return MISSING if value is None else _rounded(value, digits)


def milliseconds(value: float | None) -> str:
    """Seconds as whole milliseconds, never `-0`; a dash for None."""
    return MISSING if value is None else _rounded(value * 1000, 0)


def _rounded(value: float, digits: int) -> str:
    # adding zero makes the zero that a small negative number is rounded to a positive one
    return f"{round(value, digits) + 0.0:.{digits}f}"
