"""Refilling after a loss: the first connections go first, and a quick server is filled at once."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from cluster_sim import A, B
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.core.pace import (
    HOLD,
    HOLD_MOST_S,
    LOOK_S,
    PACED_S,
    QUICK_S,
    STUCK_S,
    Pacing,
)

QUICK, SLOW = 0.004, 1.0
HIGH_RATE_S = 1e6


@dataclass
class Process:
    """So many workers that dial B until the pool is full; `dial_s(now)`: how long one takes."""

    dial_s: Callable[[float], float]
    size: int = 4
    rate_s: float = HIGH_RATE_S
    pacing: Pacing = field(default_factory=lambda: Pacing().lost(0.0).promoted(0.0))
    began: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    most_flying: int = 0
    asked: int = 0

    def run(self, workers: int = 3, draw: float = 0.5) -> Process:
        numbers = itertools.count()
        events = [(0.0, next(numbers), 0.0) for _ in range(workers)]
        left, flying = self.size, 0
        while events:
            now, _, took_s = heapq.heappop(events)
            if took_s:
                flying -= 1
                self.done.append(now)
                self.pacing = self.pacing.ended(B, took_s, True, now, draw)
            if not left:
                continue
            self.asked += 1
            self.pacing, wait_s = self.pacing.ask(B, self.rate_s, self.size, now, not self.began)
            if wait_s > 0:
                heapq.heappush(events, (now + wait_s, next(numbers), 0.0))
                continue
            left, flying = left - 1, flying + 1
            self.most_flying = max(self.most_flying, flying)
            self.began.append(now)
            took_s = self.dial_s(now)
            heapq.heappush(events, (now + took_s, next(numbers), took_s))
        return self


def test_without_a_loss_nobody_waits() -> None:
    assert Pacing().ask(A, 1.0, 1, 0.0, False) == (Pacing(), 0.0)


def test_the_first_dial_goes_at_once_and_alone() -> None:
    told = Process(lambda now: 0.5).run()
    assert told.began[0] == 0.0
    assert told.began[1] >= 0.5


def test_a_quick_server_fills_the_pool_within_a_few_dials_time() -> None:
    told = Process(lambda now: QUICK).run()
    assert max(told.done) < 5 * QUICK
    assert told.most_flying > 1
    large = Process(lambda now: QUICK, size=50).run()
    assert max(large.done) < 0.15


def test_a_slow_server_is_dialled_once_at_a_time_with_pauses() -> None:
    told = Process(lambda now: SLOW).run()
    assert told.most_flying == 1
    pause_s = HOLD * (SLOW - QUICK_S)
    for early, late in pairwise(told.began):
        assert late - early == pytest.approx(SLOW + min(pause_s, HOLD_MOST_S), abs=0.01)


def test_a_server_that_recovers_is_filled_quickly() -> None:
    told = Process(lambda now: SLOW if now < 1 else QUICK, size=10).run()
    assert max(told.done) < SLOW + HOLD * SLOW + 20 * QUICK


def test_a_far_server_is_not_taken_for_a_loaded_one() -> None:
    calm = Pacing().ended(B, 0.1, True, 0.0, 0.5).lost(0.0).promoted(0.0)
    assert calm.usual_s(B) == 0.2
    told = Process(lambda now: 0.1, pacing=calm).run()
    assert max(told.done) <= 0.35


def test_the_slow_do_not_become_the_usual() -> None:
    pacing = Process(lambda now: SLOW).run().pacing
    assert pacing.usual_s(B) == QUICK_S


def test_a_dial_without_an_end_holds_back_for_a_while_only() -> None:
    told = Process(lambda now: 100.0 if now == 0 else QUICK).run()
    assert told.began[1] == pytest.approx(STUCK_S, abs=STUCK_S / 2 + LOOK_S)
    assert told.asked < 60


def test_each_pools_first_dial_goes_at_once() -> None:
    pacing, wait_s = Pacing().lost(0.0).ask(B, 10, 4, 0.0, True)
    assert wait_s == 0
    assert pacing.ask(B, 10, 4, 0.001, True)[1] == 0
    assert pacing.ask(B, 10, 4, 0.001, False)[1] > 0


def test_endpoints_do_not_wait_for_each_other() -> None:
    pacing, _ = Pacing().lost(0.0).ask(A, 10, 4, 0.0, True)
    assert pacing.ask(B, 10, 4, 0.0, False)[1] == 0


def test_dials_under_way_when_somebody_is_promoted_still_count() -> None:
    pacing, _ = Pacing().lost(0.0).ask(B, 10, 4, 0.0, True)
    pacing = pacing.promoted(0.1)
    assert pacing.losses == 1
    assert pacing.ask(B, 10, 4, 0.1, False)[1] > 0


def test_a_promotion_without_a_loss_counts_as_one() -> None:
    assert Pacing().follow(["suspected", "promoted"], 1.0) == Pacing().lost(1.0).promoted(1.0)
    assert Pacing().follow(["suspected", "lost", "promoted"], 1.0).losses == 1
    assert Pacing().follow(["suspected", "recovered"], 1.0) == Pacing()


def test_a_failed_dial_frees_its_place() -> None:
    pacing, _ = Pacing().lost(0.0).ask(B, 10, 4, 0.0, True)
    pacing = pacing.ended(B, QUICK, False, QUICK, 0.5)
    assert pacing.ask(B, 10, 4, QUICK, False)[1] == 0
    assert pacing.least_s == {}


def test_it_is_over_some_time_after_the_last_slow_answer() -> None:
    pacing, _ = Pacing().lost(0.0).ask(B, 10, 4, 0.0, True)
    pacing = pacing.ended(B, 20.0, True, 20.0, 0.5)
    pacing, _ = pacing.ask(B, 10, 4, PACED_S + 1, False)
    assert pacing.ask(B, 10, 4, PACED_S + 1, False)[1] > 0
    assert pacing.ask(B, 10, 4, PACED_S + 21, False)[1] == 0


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 30),
    rate_s=st.floats(1, 100),
    slowest_s=st.floats(0.001, 2.0),
)
def test_connect_rate_is_never_exceeded(
    seed: int, size: int, rate_s: float, slowest_s: float
) -> None:
    rng = random.Random(seed)
    told = Process(lambda now: rng.random() * slowest_s + 1e-4, size, rate_s).run(workers=8)
    assert len(told.began) == size  # everybody gets there
    for early, late in itertools.combinations(range(size), 2):
        span_s = told.began[late] - told.began[early]
        if told.began[late] < PACED_S:
            assert late - early + 1 <= size + rate_s * span_s + 1e-6


def crowd(processes: int, size: int, service_s: float, late_at: float) -> tuple[float, float]:
    """Closed loop on one accept queue; (wait of a first dial at `late_at`, all done).

    One worker per process suffices: a loaded server is dialled once at a time.
    """
    rng = random.Random(7)
    numbers = itertools.count()
    free_at = 0.0
    all_of = [Pacing().lost(0.0).promoted(0.0) for _ in range(processes)]
    left = [size] * processes
    events = [(rng.random() * 0.2, next(numbers), who, 0.0) for who in range(processes)]
    events.append((late_at, next(numbers), -1, 0.0))
    heapq.heapify(events)
    late_s = done_at = 0.0
    while events:
        now, _, who, took_s = heapq.heappop(events)
        if who < 0:
            free_at = max(free_at, now) + service_s
            late_s = free_at - now
            continue
        if took_s:
            all_of[who] = all_of[who].ended(B, took_s, True, now, rng.random())
            left[who] -= 1
            done_at = now
        if not left[who]:
            continue
        all_of[who], wait_s = all_of[who].ask(B, HIGH_RATE_S, size, now, left[who] == size)
        if wait_s > 0:
            heapq.heappush(events, (now + wait_s, next(numbers), who, 0.0))
            continue
        free_at = max(free_at, now) + service_s
        heapq.heappush(events, (free_at, next(numbers), who, free_at - now))
    return late_s, done_at


def test_who_comes_later_does_not_queue_behind_everybodys_refill() -> None:
    processes, size, service_s = 200, 8, 0.01
    late_s, done_at = crowd(processes, size, service_s, late_at=6.0)
    assert late_s < 1.3 * processes * service_s / (1 + HOLD)
    # and the server was hardly ever idle
    assert done_at < 1.3 * processes * size * service_s
