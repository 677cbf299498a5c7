"""The judge finds out each kind of lie."""

from __future__ import annotations

from typing import Any

import pytest

from .judge import Rows, judge
from .work import ACCOUNTS, BALANCE, ITEMS, Record


def rows(**given: Any) -> Rows:
    """Those of a server on which nothing was done, but what is given."""
    accounts = dict.fromkeys(range(1, ACCOUNTS + 1), BALANCE)
    nothing: dict[str, Any] = {"soak": [], "transfers": [], "parents": [], "children": []}
    nothing |= {"accounts": accounts, "items": set(range(1, ITEMS + 1)), "taken": []}
    return Rows(**{**nothing, **given})


def record(kind: str, told: str, value: Any = None) -> Record:
    return Record(7, kind, "pool", 0.0, told, value=value)


LIES = {
    "lost": (record("block", "done"), rows()),
    "twice": (record("block", "done"), rows(soak=[(7, 0, 1), (7, 0, 1)])),
    "counted twice": (record("block", "unknown"), rows(soak=[(7, 0, 2)])),
    "torn": (record("executemany", "cancelled"), rows(soak=[(7, 0, 1), (7, 1, 1)])),
    "half a block": (record("block", "done"), rows(soak=[(7, 0, 0)])),
    "ghost": (record("block", "failed"), rows(soak=[(7, 0, 1)])),
    "rolled back": (record("rollback", "done"), rows(soak=[(7, 0, 0)])),
    "money": (record("transfer", "failed"), rows(accounts={1: BALANCE + 1})),
    "a child alone": (record("serials", "unknown"), rows(children=[(7, 1)])),
    "another serial": (
        record("serials", "done", 1),
        rows(parents=[(7, 2)], children=[(7, 2)]),
    ),
    "taken and there": (record("take", "done", 3), rows(taken=[(3, 7)])),
    "stale": (record("token_read", "done", 0), rows(soak=[(7, 0, 1)])),
    "own read": (record("own_read", "done", (5, 0)), rows()),
}
TRUTHS = [
    (record("block", "done"), rows(soak=[(7, 0, 1)])),
    (record("block", "unknown"), rows(soak=[(7, 0, 1)])),
    (record("block", "unknown"), rows()),
    (record("copy", "failed"), rows()),
    (record("executemany", "cancelled"), rows(soak=[(7, n, 1) for n in range(3)])),
    (record("serials", "done", 2), rows(parents=[(7, 2)], children=[(7, 2)])),
    (
        record("take", "done", 3),
        rows(items=set(range(1, ITEMS + 1)) - {3}, taken=[(3, 7)]),
    ),
    (record("token_read", "done", 1), rows(soak=[(7, 0, 1)])),
    (record("token_read", "done", None), rows(soak=[(7, 0, 1)])),  # cancelled behind its write
]


@pytest.mark.parametrize("name", list(LIES))
def test_a_lie_is_found(name: str) -> None:
    told, there = LIES[name]
    verdict = judge([told], there)
    assert verdict.wrong or verdict.lost


@pytest.mark.parametrize(("told", "there"), TRUTHS)
def test_the_truth_is_left_alone(told: Record, there: Rows) -> None:
    verdict = judge([told], there)
    assert not verdict.wrong, verdict.wrong
    assert not verdict.lost
