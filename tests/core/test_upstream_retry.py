"""Again, or why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.upstream_retry import (
    LOOKUP_S,
    LULL_S,
    Again,
    Failure,
    GiveUp,
    Kind,
    Wait,
    decide,
    is_idempotent,
    retry_after_s,
)


def failure(**changes: Any) -> Failure:
    facts: dict[str, Any] = {
        "kind": Kind.LOST, "sent": True, "idempotent": True, "replayable": True,
        "attempt": 1, "attempts": 3, "left_s": 10.0, "others": 1,
    }  # fmt: skip
    return Failure(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Again(0.0)),
        ({"idempotent": False}, GiveUp.NOT_IDEMPOTENT),
        ({"replayable": False}, GiveUp.NOT_REPLAYABLE),
        ({"kind": Kind.CONNECT, "sent": False, "idempotent": False}, Again(0.0)),
        ({"kind": Kind.CONNECT, "sent": False, "replayable": False}, Again(0.0)),
        (
            {"kind": Kind.CONNECT, "sent": False, "nobody": True, "others": 0},
            Wait(LOOKUP_S + 0.025),
        ),
        (
            {"kind": Kind.CONNECT, "sent": False, "nobody": True, "attempt": 3},
            Wait(LOOKUP_S + 0.025),
        ),
        ({"kind": Kind.CONNECT, "sent": False, "nobody": True, "lulls": 9}, Wait(LULL_S)),
        ({"kind": Kind.CONNECT, "sent": False, "nobody": True, "idempotent": False}, Again(0.0)),
        ({"kind": Kind.FINAL, "nobody": True}, GiveUp.FINAL),
        ({"kind": Kind.FINAL}, GiveUp.FINAL),
        ({"kind": Kind.FINAL, "sent": False}, GiveUp.FINAL),
        ({"attempt": 3}, GiveUp.ATTEMPTS),
        ({"left_s": 0.0}, GiveUp.DEADLINE),
        ({"timed_out": True}, Again(0.0)),
        ({"timed_out": True, "others": 0}, GiveUp.NOWHERE),
        ({"others": 0}, Again(0.025)),
        ({"attempt": 2, "others": 1}, Again(0.05)),
        ({"kind": Kind.STATUS, "status": 503, "retry_after_s": 5.0}, Again(0.0)),
        ({"kind": Kind.STATUS, "status": 503, "retry_after_s": 5.0, "others": 0}, Again(5.0)),
        ({"kind": Kind.STATUS, "status": 429, "retry_after_s": 5.0}, Again(5.0)),
        ({"kind": Kind.STATUS, "status": 429, "retry_after_s": 50.0}, GiveUp.DEADLINE),
        ({"kind": Kind.STATUS, "status": 503, "idempotent": False}, GiveUp.NOT_IDEMPOTENT),
    ],
)
def test_decisions(changes: dict[str, Any], expected: object) -> None:
    assert decide(failure(**changes), 0.5, lambda: True) == expected


def test_the_budget_is_asked_last_and_only_once() -> None:
    asked: list[bool] = []

    def withdraw() -> bool:
        asked.append(True)
        return False

    assert decide(failure(), 0.5, withdraw) is GiveUp.BUDGET
    assert decide(failure(attempt=3), 0.5, withdraw) is GiveUp.ATTEMPTS
    assert decide(failure(idempotent=False), 0.5, withdraw) is GiveUp.NOT_IDEMPOTENT
    assert len(asked) == 1


@given(
    st.builds(
        failure,
        kind=st.sampled_from(Kind),
        idempotent=st.booleans(),
        replayable=st.booleans(),
        attempt=st.integers(1, 5),
        others=st.integers(0, 3),
        left_s=st.floats(-5, 5),
    )
)
def test_what_was_sent_is_never_repeated_unless_it_may_be(given: Failure) -> None:
    verdict = decide(given, 0.5, lambda: True)
    if isinstance(verdict, Again):
        assert given.idempotent
        assert given.replayable
        assert 0 <= verdict.delay_s < given.left_s


@pytest.mark.parametrize(
    ("method", "marked", "headers", "expected"),
    [
        ("GET", None, {}, True),
        ("put", None, {}, True),
        ("POST", None, {}, False),
        ("PATCH", None, {}, False),
        ("POST", True, {}, True),
        ("GET", False, {}, False),
        ("POST", None, {"idempotency-key": "k"}, True),
    ],
)
def test_idempotence(method: str, marked: object, headers: dict[str, str], expected: bool) -> None:
    assert is_idempotent(method, marked, headers) is expected


def test_retry_after() -> None:
    assert retry_after_s("7", lambda date: None) == 7.0
    assert retry_after_s(" 7 ", lambda date: None) == 7.0
    assert retry_after_s("a date", lambda date: 3.0) == 3.0
    assert retry_after_s("a date gone by", lambda date: -3.0) == 0.0
    assert retry_after_s("nonsense", lambda date: None) is None
    assert retry_after_s(None, lambda date: 1.0) is None
