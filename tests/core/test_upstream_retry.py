"""Again, or why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.upstream_retry import (
    LOOKUP_S,
    NOBODY_BACK_OFF_S,
    Again,
    Failure,
    GiveUp,
    Kind,
    Wait,
    decide,
    has_precondition,
    may_pass_on,
    may_repeat,
)


def failure(**changes: Any) -> Failure:
    facts: dict[str, Any] = {
        "kind": Kind.LOST, "repeatable": True, "replayable": True, "begun": True,
        "attempt": 1, "attempts": 3, "left_s": 10.0, "others": 1,
    }  # fmt: skip
    return Failure(**{**facts, **changes})


UNSENT: dict[str, Any] = {"kind": Kind.UNSENT, "begun": False}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Again(0.0)),
        ({"repeatable": False}, GiveUp.UNSAFE),
        ({"replayable": False}, GiveUp.NOT_REPLAYABLE),
        ({**UNSENT, "repeatable": False}, Again(0.0)),
        ({**UNSENT, "replayable": False}, Again(0.0)),
        # told by the server that it wasn't processed, but the body is gone
        ({**UNSENT, "begun": True, "replayable": False}, GiveUp.NOT_REPLAYABLE),
        ({**UNSENT, "begun": True, "repeatable": False}, Again(0.0)),
        ({**UNSENT, "nobody": True, "others": 0}, Wait(LOOKUP_S + 0.025)),
        ({**UNSENT, "nobody": True, "attempt": 3}, Wait(LOOKUP_S + 0.025)),
        ({**UNSENT, "nobody": True, "back_offs": 9}, Wait(NOBODY_BACK_OFF_S)),
        ({**UNSENT, "nobody": True, "repeatable": False}, Wait(LOOKUP_S + 0.025)),
        ({"kind": Kind.FINAL, "nobody": True}, GiveUp.FINAL),
        ({"kind": Kind.FINAL}, GiveUp.FINAL),
        ({"attempt": 3}, GiveUp.ATTEMPTS),
        ({"left_s": 0.0}, GiveUp.DEADLINE),
        ({"timed_out": True}, GiveUp.TIMEOUT),
        ({"timed_out": True, "proved": True}, Again(0.0)),
        ({"timed_out": True, "proved": True, "repeatable": False}, GiveUp.UNSAFE),
        ({**UNSENT, "timed_out": True}, Again(0.0)),
        ({**UNSENT, "timed_out": True, "others": 0}, GiveUp.TIMEOUT),
        ({"others": 0}, Again(0.025)),
        ({"attempt": 2, "others": 1}, Again(0.05)),
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
    assert decide(failure(repeatable=False), 0.5, withdraw) is GiveUp.UNSAFE
    assert len(asked) == 1


@given(
    st.builds(
        failure,
        kind=st.sampled_from(Kind),
        repeatable=st.booleans(),
        replayable=st.booleans(),
        begun=st.booleans(),
        timed_out=st.booleans(),
        proved=st.booleans(),
        attempt=st.integers(1, 5),
        others=st.integers(0, 3),
        left_s=st.floats(-5, 5),
    )
)
def test_what_was_sent_is_never_repeated_unless_it_may_be(given: Failure) -> None:
    verdict = decide(given, 0.5, lambda: True)
    if isinstance(verdict, Again):
        assert given.kind is Kind.UNSENT or (
            given.repeatable and (given.proved or not given.timed_out)
        )
        assert given.replayable or not given.begun
        assert 0 <= verdict.delay_s < given.left_s


@pytest.mark.parametrize(
    ("method", "marked", "headers", "expected"),
    [
        ("GET", None, {}, True),
        ("get", None, {"if-match": "x"}, True),
        ("OPTIONS", None, {}, True),
        ("PUT", None, {}, False),
        ("DELETE", None, {}, False),
        ("POST", None, {}, False),
        ("POST", True, {}, True),
        ("PUT", True, {"if-none-match": "*"}, False),
        ("GET", False, {}, False),
        ("POST", None, {"idempotency-key": "k"}, True),
        ("POST", None, {"idempotency-key": "k", "if-match": "x"}, False),
        ("POST", False, {"idempotency-key": "k"}, False),
    ],
)
def test_what_may_be_repeated(
    method: str, marked: object, headers: dict[str, str], expected: bool
) -> None:
    assert may_repeat(method, marked, headers) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("If-Match", True),
        ("if-unmodified-since", True),
        ("If", True),
        ("x-goog-if-generation-match", True),
        ("x-amz-copy-source-if-match", True),
        ("if-schedule-tag-match", True),
        ("x-wifi-name", False),
        ("notify-id", False),
    ],
)
def test_preconditions(name: str, expected: bool) -> None:
    assert has_precondition(["host", name]) is expected


@pytest.mark.parametrize(
    ("status", "method", "marked", "headers", "expected"),
    [
        (503, "GET", None, {}, True),
        (502, "HEAD", None, {}, True),
        (504, "OPTIONS", True, {}, True),
        (503, "GET", False, {}, False),
        (503, "PUT", True, {}, False),
        (503, "POST", None, {"idempotency-key": "k"}, False),
        (429, "GET", None, {}, False),
        (500, "GET", None, {}, False),
        (503, "GET", None, {"x-stainless-retry-count": "0"}, False),
    ],
)
def test_answers_that_go_elsewhere(
    status: int, method: str, marked: object, headers: dict[str, str], expected: bool
) -> None:
    assert may_pass_on(status, method, marked, headers) is expected
