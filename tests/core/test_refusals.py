"""Refused credentials in virtual time."""

from __future__ import annotations

from resilient.core.model import Endpoint
from resilient.core.refusals import LOOK_S, MOST_S, NOT_NOW, STUCK_S, Refusals

A = Endpoint("a", "127.0.0.1", 5432)


def logins(seconds: float, secret_at: object, right: object = None, step_s: float = 0.05) -> int:
    """How many are refused when somebody always wants in."""
    state, refused, now = Refusals(), 0, 0.0
    while now < seconds:
        secret = secret_at(now) if callable(secret_at) else secret_at
        for _ in range(3):  # askers
            state, wait_s = state.ask(A, secret, now)
            if wait_s == 0:
                if secret == right:
                    return refused
                state, refused = state.refused(A, secret, now, 0.5), refused + 1
        now += step_s
    return refused


def test_a_wrong_secret_is_asked_with_growing_pauses() -> None:
    assert logins(60, "wrong") <= 7
    assert logins(3600, "wrong") <= 7 + 3600 / MOST_S


def test_another_secret_each_time_gains_one_login() -> None:
    assert logins(60, lambda now: now) <= 8


def test_a_fresh_secret_is_tried_at_once() -> None:
    assert logins(60, lambda now: "old" if now < 2 else "new", "new") <= 2


def test_one_login_goes_ahead_after_a_loss() -> None:
    state = Refusals().doubted(A)
    state, wait_s = state.ask(A, "s", 0.0)
    assert wait_s == 0
    state, wait_s = state.ask(A, "s", 0.001)
    assert wait_s == LOOK_S
    _, wait_s = state.ask(A, "s", STUCK_S + 0.001)
    assert wait_s == 0
    state = state.over(A, "s", connected=True)
    assert state.ask(A, "s", 0.002)[1] == 0
    assert state == Refusals()


def test_who_is_let_in_by_another_secret_goes_on() -> None:
    state = Refusals().refused(A, "wrong", 0.0, 0.5)
    state, wait_s = state.ask(A, "right", 0.1)
    assert wait_s == 0
    state = state.over(A, "right", connected=True)
    assert [state.ask(A, "right", 0.2)[1] for _ in range(3)] == [0, 0, 0]
    assert state.ask(A, "wrong", 0.2)[1] == NOT_NOW


def test_a_secret_that_was_right_can_be_refused() -> None:
    state = Refusals().refused(A, "wrong", 0.0, 0.5)
    state, _ = state.ask(A, "right", 0.1)
    state = state.over(A, "right", connected=True)
    state = state.refused(A, "right", 5.0, 0.5)
    assert state.ask(A, "right", 5.1)[1] == NOT_NOW
