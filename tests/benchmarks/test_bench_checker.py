"""The judge of the benchmarks: every column can be zero, and every column can be not."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.judge
from benchmarks.judge.checker import BROKEN, judge
from benchmarks.judge.history import Op, from_wire, to_wire

FOLDER = Path(benchmarks.judge.__file__).parent


def insert(number: int, outcome: str = "ok", session: str = "a") -> Op:
    return Op(session, "insert", float(number), number + 0.5, outcome, id=number)  # type: ignore[arg-type]


def append(number: int, key: int = 1, outcome: str = "ok", session: str = "a") -> Op:
    return replace(insert(number, outcome, session), kind="append", key=key)


def read(at: float, *items: int, key: int = 1, session: str = "a") -> Op:
    return Op(session, "read", at, at + 0.1, "ok", key=key, items=items)


GOOD = [append(1), append(2), insert(3), insert(4, "error"), insert(5, "unknown"), read(6, 1, 2)]
ROWS, LISTS = [1, 2, 3], {1: [1, 2]}


def test_a_clean_history_breaks_nothing() -> None:
    verdict = judge(GOOD, ROWS, LISTS)
    assert verdict.broken == {}
    assert (verdict.acked, verdict.failed, verdict.unknown, verdict.reads) == (3, 1, 1, 1)


def test_nothing_at_all_breaks_nothing() -> None:
    assert judge([], [], {}).broken == {}


def test_an_honest_unknown_may_be_there_or_not() -> None:
    verdict = judge(GOOD, [*ROWS, 5], LISTS)
    assert verdict.broken == {}
    assert verdict.unknown_present == 1


def test_silence_claims_nothing_but_is_counted() -> None:
    verdict = judge([*GOOD, insert(7, "stuck")], [*ROWS, 7], LISTS)
    assert verdict.broken == {}
    assert verdict.silent == 1


CASES: dict[str, tuple[list[Op], list[int], dict[int, list[int]], set[str]]] = {
    "an acknowledged insert is gone": (GOOD, [1, 2], LISTS, {"lost"}),
    "an acknowledged append is gone": (GOOD[:-1], [1, 3], {1: [1]}, {"lost"}),
    "a row twice": (GOOD, [1, 2, 3, 3], LISTS, {"duplicated"}),
    "a transaction twice": (GOOD[:-1], [1, 2, 2, 3], {1: [1, 2, 2]}, {"duplicated"}),
    "one that failed is there": (GOOD, [*ROWS, 4], LISTS, {"ghosts"}),
    "one that nobody tried": (GOOD, [*ROWS, 99], LISTS, {"strangers"}),
    "a row without its list": (GOOD[:-1], ROWS, {1: [1]}, {"torn"}),
    "a list without its row": (GOOD[:-1], [1, 3], {1: [1, 2]}, {"lost", "torn"}),
    "a read of what was undone": ([*GOOD, read(7, 1, 2, 9)], ROWS, LISTS, {"forked"}),
    "a read of another order": ([*GOOD, read(7, 2, 1)], ROWS, LISTS, {"forked", "backwards"}),
    "a read of the past": ([*GOOD, read(7, 1)], ROWS, LISTS, {"backwards", "unseen"}),
    "a stale first read": ([append(1), append(2), read(3)], [1, 2], LISTS, {"unseen"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_shows(name: str) -> None:
    ops, rows, lists, columns = CASES[name]
    assert set(judge(ops, rows, lists).broken) == columns


def test_every_column_has_a_case() -> None:
    assert set().union(*(columns for *_, columns in CASES.values())) == set(BROKEN)


def test_sessions_and_lists_are_apart() -> None:
    """Another session may see less for a while, and another list has its own length."""
    ops = [append(1), append(2), read(3, 1, 2), read(4, 1, session="b")]
    ops += [append(5, key=2), read(6, 5, key=2), read(7, 1, 2, session="b")]
    assert judge(ops, [1, 2, 5], {1: [1, 2], 2: [5]}).broken == {}


def test_the_order_of_arrival_does_not_matter() -> None:
    assert judge(reversed(GOOD), ROWS, LISTS) == judge(GOOD, ROWS, LISTS)


def test_operations_travel() -> None:
    for op in GOOD:
        assert from_wire(json.loads(json.dumps(to_wire(op)))) == op
    with pytest.raises(ValueError, match="not an operation"):
        from_wire([1, 2])


def test_the_judge_is_independent() -> None:
    """It imports nothing of what it judges, and no client."""
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module == "history"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                first = (node.module if isinstance(node, ast.ImportFrom) else names[0]) or ""
                assert first.partition(".")[0] in {
                    "__future__",
                    "collections",
                    "dataclasses",
                    "typing",
                }
