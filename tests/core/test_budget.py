"""The retry budget and the back-off, on an injected clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.budget import BACKOFF_CAP_S, RetryBudget, backoff_s


def outage(calls: int, per_s: float, budget: RetryBudget, attempts: int = 3) -> int:
    """Attempts that `calls` calls make when every attempt fails."""
    made, now = 0, 0.0
    for _ in range(calls):
        made += 1
        budget = budget.deposit(1, now)
        for _ in range(attempts - 1):
            budget, granted = budget.try_withdraw()
            made += granted
        now += 1 / per_s
    return made


@given(st.integers(1, 2000), st.floats(1.0, 5000.0))
def test_a_full_outage_sends_at_most_a_fifth_more_beyond_the_floor(
    calls: int, per_s: float
) -> None:
    made = outage(calls, per_s, RetryBudget.full(0.2, 10.0, 0.0))
    seconds = calls / per_s
    assert made <= calls + max(0.2 * calls, 10.0 * seconds) + 10.0 + 1


def test_at_high_rates_the_floor_adds_only_its_first_second() -> None:
    made = outage(10_000, 1000.0, RetryBudget.full(0.2, 10.0, 0.0))
    assert made <= 12_010


def test_a_quiet_service_may_retry() -> None:
    assert outage(10, 1.0, RetryBudget.full(0.2, 10.0, 0.0)) == 30


def test_without_share_and_floor_nothing_is_granted() -> None:
    assert outage(100, 10.0, RetryBudget.full(0.0, 0.0, 0.0)) == 100


def test_calm_hours_save_up_no_storm() -> None:
    budget = RetryBudget.full(0.2, 10.0, 0.0)
    for second in range(3600):
        budget = budget.deposit(100, float(second))
    assert budget.balance < 0.2 * 100 * 3 + 10


def test_an_account_is_a_value() -> None:
    budget = RetryBudget.full(0.2, 10.0, 0.0)
    after, granted = budget.try_withdraw()
    assert granted
    assert budget.balance == 10.0
    assert after.balance == pytest.approx(9.0)


def test_a_clock_that_stands_still_or_goes_back_earns_nothing() -> None:
    budget = RetryBudget.full(0.2, 10.0, 100.0)
    for _ in range(10):
        budget, _ = budget.try_withdraw()
    assert budget.deposit(0, 50.0).balance == pytest.approx(0.0)


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_back_off_is_drawn_below_a_growing_cap(retry: int, draw: float) -> None:
    assert 0 <= backoff_s(retry, draw) <= min(BACKOFF_CAP_S, 0.05 * 2 ** (retry - 1))
