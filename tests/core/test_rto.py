"""The arithmetic, on the numbers that everybody quotes (computed, not copied)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core import rto

DAY_S, HOUR_S, MINUTE_S = 86_400, 3_600, 60


@pytest.mark.parametrize(
    ("availability", "expected_s"),
    [
        (0.99, 3.6525 * DAY_S),
        (0.999, 8.766 * HOUR_S),
        (0.9995, 4.383 * HOUR_S),  # not 26 minutes
        (0.9999, 52.596 * MINUTE_S),
        (0.99999, 5.2596 * MINUTE_S),
        (1.0, 0.0),
        (0.0, 365.25 * DAY_S),
    ],
)
def test_downtime_a_year(availability: float, expected_s: float) -> None:
    assert rto.downtime_s(availability) == pytest.approx(expected_s, rel=1e-9)


@pytest.mark.parametrize(
    ("availability", "expected_s"),
    [
        (0.99, 7.2 * HOUR_S),
        (0.999, 43.2 * MINUTE_S),
        (0.9999, 4.32 * MINUTE_S),
        (0.99999, 25.92),
    ],
)
def test_downtime_a_month(availability: float, expected_s: float) -> None:
    assert rto.downtime_s(availability, rto.MONTH_S) == pytest.approx(expected_s, rel=1e-9)


def test_chains_and_redundancy() -> None:
    assert rto.series([0.999] * 3) == pytest.approx(0.997003, abs=1e-6)
    assert rto.series([]) == 1.0
    assert rto.redundant(0.99, 2) == pytest.approx(0.9999)
    assert rto.redundant(0.99, 1) == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("target", "availability", "expected"),
    [(0.9999, 0.99, 2), (0.99, 0.99, 1), (0.999999, 0.99, 3), (0.99991, 0.99, 3), (0.9, 0.999, 1),
     (0.999, 0.9, 3), (0.99999, 0.9, 5), (0.5, 1.0, 1), (0.0, 0.0, 1)],
)  # fmt: skip
def test_instances(target: float, availability: float, expected: int) -> None:
    assert rto.instances_needed(target, availability) == expected


@given(st.floats(0.5, 0.9999999), st.floats(0.05, 0.9999))
def test_as_many_instances_reach_the_target_and_one_less_does_not(
    target: float, availability: float
) -> None:
    k = rto.instances_needed(target, availability)
    assert rto.redundant(availability, k) >= target - 1e-9
    if k > 1:
        assert rto.redundant(availability, k - 1) < target + 1e-9


def test_incidents_are_whole() -> None:
    assert rto.incidents_per_year(0.9999, 55) == 57
    assert rto.incidents_per_year(0.9999, rto.downtime_s(0.9999)) == 1
    assert rto.incidents_per_year(0.9999, 3156) == 0


def test_the_reference_failover() -> None:
    steps = rto.Rto(5, 3, promotion_s=28, dns_ttl_s=5, reconnect_s=6, decision_s=1)
    assert steps.detection_s == 15
    assert steps.total_s == 55


def test_nines_there_and_back() -> None:
    assert rto.nines(0.9999) == 4
    assert rto.nines(0.9995) == pytest.approx(3.301, abs=1e-3)
    assert math.isinf(rto.nines(1.0))
    assert rto.availability_of_downtime(rto.downtime_s(0.9995)) == pytest.approx(0.9995)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: rto.downtime_s(1.1),
        lambda: rto.downtime_s(-0.1),
        lambda: rto.downtime_s(math.nan),
        lambda: rto.series([0.9, 9]),
        lambda: rto.redundant(0.9, 0),
        lambda: rto.instances_needed(1.0, 0.9),
        lambda: rto.instances_needed(0.9, 0.0),
        lambda: rto.incidents_per_year(0.9, 0),
        lambda: rto.availability_of_downtime(-1),
        lambda: rto.Rto(probe_interval_s=-1),
        lambda: rto.Rto(threshold=0),
    ],
)
def test_nonsense_is_refused(bad: object) -> None:
    assert callable(bad)
    with pytest.raises(ValueError, match=r"must |no number"):
        bad()
