"""The table of faults: row, test, result, in Markdown, as `docs/faults.md` has it.

    python -m tests.faults.table [--write] [pytest's arguments]

A test belongs to the rows that its docstring names, as `FAULTS 12` or `FAULTS 27, 28` do, or
else to those of its module's.  All tests that name one are run, here and in other folders;
with arguments only some of them, and for the others `docs/faults.md` is believed.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
NAMED = re.compile(r"FAULTS (\d+(?:–\d+)?(?:(?:, | and )\d+(?:–\d+)?)*)")
LINE = re.compile(r"\| \d+ \| [^|]+ \| `([^`]+)` \| ([^|]+) \|")
#: of several results of one test, the first of these is told
WORST = ("failed", "error", "expected to fail", "skipped", "passed")
NOT_RUN = "not run"
HEAD = """\
# Faults, and the tests that show what a client does in each

Generated: `python -m tests.faults.table --write`. A test stands in a row because its docstring
names the row. Several cases of one test are one line, with the worst result of them. All of them
need real servers but those that say *in virtual time*. What isn't installed is skipped, and
*not run* says that nobody has run it for this page yet.

| row | fault | test | result |
|---|---|---|---|
"""
FAULTS = {
    1: "primary killed",
    2: "orderly shutdown, switchover",
    3: "primary hangs",
    4: "zone blackholed, open connections",
    5: "zone blackholed, new connections",
    6: "connection reset",
    7: "connection closed in the middle of a result",
    8: "500 ms more latency",
    9: "1–20 % of probes lost",
    10: "asymmetric partition",
    11: "two primaries",
    12: "demoted, but still open",
    13: "role unknown",
    14: "no primary anywhere",
    15: "reply to COMMIT lost",
    16: "cancelled during COMMIT",
    17: "lossy asynchronous failover",
    18: "replica lags",
    19: "a known name vanishes",
    20: "name servers fail or are silent",
    21: "record still the old one",
    22: "long TTL, pinned address",
    23: "spoofed answer",
    24: "wall clock jumps",
    25: "out of file descriptors",
    26: "pool exhausted",
    27: "too many connections",
    28: "200 processes reconnect at once",
    29: "everything fails",
    30: "TLS verification fails after a failover",
    31: "password rotated",
    32: "PgBouncer in transaction mode",
    33: "pool made before a fork",
    34: "task cancelled in a query",
    35: "KeyboardInterrupt, SIGTERM",
    36: "event loop blocked",
    37: "resolver dies with its zone",
    38: "HTTP upstream in trouble",
    39: "restart in place, tail lost",
    40: "lost reply, no transaction id",
    41: "lost session, state that no journal saw",
    42: "connections that others have used",
    43: "an operator's kill",
    44: "a statement that fells its server",
    45: "limits, conflicts, the application's own codes",
    46: "one address, several servers",
    47: "saturated pooler",
    48: "the name moves to another cluster",
    49: "a readers' name is promoted",
    50: "two pools, other names, one cluster",
    51: "token at a replica of a fenced primary",
    52: "a parameter's buffer is filled again",
    53: "credentials rotated, the source late",
    54: "hostile server",
    55: "ORM transaction with serials",
    56: "slow or unsafe HTTP request",
    57: "a name vanishes and returns",
    58: "explicit timeouts and limits",
    59: "absurd input",
}


def rows_of(text: str | None) -> list[int]:
    """`FAULTS 19–22, 37` → 19, 20, 21, 22, 37."""
    found: set[int] = set()
    for match in NAMED.findall(text or ""):
        for part in re.split(r", | and ", match):
            first, _, last = part.partition("–")
            found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)


def named() -> dict[str, list[int]]:
    """Each test that names rows, as pytest calls it, and the rows."""
    found: dict[str, list[int]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_text())
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            rows = rows_of(ast.get_docstring(node)) or rows_of(ast.get_docstring(tree))
            if rows and node.name.startswith("test_"):
                found[f"{file.relative_to(ROOT).as_posix()}::{node.name}"] = rows
    return found


def kept() -> dict[str, str]:
    """The results that the page has."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return {f"tests/{name}": result for name, result in LINE.findall(text)}


def page(results: Mapping[str, str]) -> str:
    """The page of these results, by row and test."""
    pairs = sorted((row, name) for name, rows in named().items() for row in rows)
    return HEAD + "".join(
        f"| {row} | {FAULTS[row]} | `{name.removeprefix('tests/')}` |"
        f" {results.get(name, NOT_RUN)} |\n"
        for row, name in pairs
    )


class Results:
    """A plugin of pytest: keeps the tests that name a row, and notes how they end."""

    def __init__(self) -> None:
        self._named = named()
        self._ends: defaultdict[str, set[str]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid.partition("[")[0] in self._named]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("[")[0]
        if hasattr(report, "wasxfail") and report.skipped:
            self._ends[name].add("expected to fail")
        elif report.skipped:
            self._ends[name].add("skipped")
        elif report.failed:
            self._ends[name].add("failed" if report.when == "call" else "error")
        elif report.when == "call":
            self._ends[name].add("passed")

    def told(self) -> dict[str, str]:
        """The worst of each test's cases; skipped only if no case was run."""
        found = {}
        for name, ends in self._ends.items():
            shown = ends - {"skipped"} or ends
            found[name] = next(word for word in WORST if word in shown)
        return found


def main(arguments: Sequence[str]) -> int:
    write = "--write" in arguments
    given = [argument for argument in arguments if argument != "--write"]
    folders = sorted({name.partition("::")[0] for name in named()})
    plugin = Results()
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main(["-q", *(given or folders)], plugins=[plugin])
    text = page({**kept(), **plugin.told()})
    if write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text)
    else:
        print(text, end="")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
