"""The table of faults: row, test, result, in Markdown.

    python -m tests.faults.table [pytest's arguments] > table.md

A test belongs to the rows that its docstring names, as `FAULTS 12` or `FAULTS 27, 28` do, or
else to those of its module's.  All tests that name one are run, here and in other folders.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import defaultdict
from collections.abc import Sequence

import pytest

NAMED = re.compile(r"FAULTS (\d+(?:–\d+)?(?:(?:, | and )\d+(?:–\d+)?)*)")
#: where to look
FOLDERS = ("tests/faults", "tests/dns", "tests/tls", "tests/differential")
#: of several results of one test, the first of these is told
WORST = ("failed", "error", "expected to fail", "skipped", "passed")


def rows_of(text: str | None) -> list[int]:
    """`FAULTS 19–22, 37` → 19, 20, 21, 22, 37."""
    found: set[int] = set()
    for match in NAMED.findall(text or ""):
        for part in re.split(r", | and ", match):
            first, _, last = part.partition("–")
            found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


class Table:
    """A plugin of pytest: keeps the tests that name a row, and notes how they end."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.results: defaultdict[str, set[str]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = []
        for item in items:
            function = getattr(item, "function", None)
            module = getattr(item, "module", None)
            rows = rows_of(getattr(function, "__doc__", None)) or rows_of(module.__doc__)
            if rows:
                kept.append(item)
                self.rows[item.nodeid.partition("[")[0]] = rows
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("[")[0]
        if hasattr(report, "wasxfail") and report.skipped:
            self.results[name].add("expected to fail")
        elif report.skipped:
            self.results[name].add("skipped")
        elif report.failed:
            self.results[name].add("failed" if report.when == "call" else "error")
        elif report.when == "call":
            self.results[name].add("passed")

    def lines(self) -> list[str]:
        """The table's, by row and test."""
        lines = ["| row | test | result |", "|---|---|---|"]
        pairs = sorted((row, name) for name, rows in self.rows.items() for row in rows)
        for row, name in pairs:
            told = next((word for word in WORST if word in self.results[name]), "not run")
            lines.append(f"| {row} | `{name.removeprefix('tests/')}` | {told} |")
        return lines


def main(arguments: Sequence[str]) -> int:
    table = Table()
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main(["-q", *(arguments or FOLDERS)], plugins=[table])
    print("\n".join(table.lines()))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
