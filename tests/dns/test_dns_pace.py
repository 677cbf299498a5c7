"""Who gives a name's answers, and how soon it is asked again while nobody may write."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.dns_pace import (
    ASKED_MOST,
    BUSY_S,
    LONG_S,
    LOOK_S,
    QUESTIONS,
    UNKNOWN_S,
    Heard,
    first_s,
    hear,
    pause_s,
)

CHAIN = ("db.test", "a.db.test")

#: the TTL that a cache tells, for the seconds that its record has left
ROUNDINGS: dict[str, Callable[[float], int]] = {"down": math.floor, "up": math.ceil, "near": round}


class Authority:
    """Tells the TTL that it was given; `moved_at`: when its record moves."""

    def __init__(self, ttl_s: int, moved_at: float) -> None:
        self.ttl_s, self.moved_at = ttl_s, moved_at

    def ask(self, now: float) -> tuple[bool, int]:
        return now >= self.moved_at, self.ttl_s


class CacheOf:
    """Asks the authority when it is asked and has nothing."""

    def __init__(self, authority: Authority, rounding: Callable[[float], int]) -> None:
        self.authority, self.rounding = authority, rounding
        self.ends, self.moved = -math.inf, False

    def ask(self, now: float) -> tuple[bool, int]:
        if now >= self.ends:
            self.moved, ttl_s = self.authority.ask(now)
            self.ends = now + ttl_s
        return self.moved, max(0, self.rounding(self.ends - now))


def asked(server: Authority | CacheOf, calm_s: float, until: float) -> tuple[list[float], Heard]:
    """When a client asks that lost its writer at 0, until it is told that the record moved."""
    now, heard = -calm_s, None
    while now < 0:
        _, told = server.ask(now)
        heard = hear(heard, CHAIN, told, now)
        now += max(1.0, 0.8 * told)
    now, at, moved = 0.0, [], False
    while now < until and not moved:
        at.append(now)
        moved, told = server.ask(now)
        heard = hear(heard, CHAIN, told, now)
        now += pause_s(heard, now, now, 0, 0.5)
    assert heard is not None
    return at, heard


@pytest.mark.parametrize("ttl_s", [1, 2, 5, 30, 300])
def test_the_zones_own_server_is_asked_every_50_ms(ttl_s: int) -> None:
    at, heard = asked(Authority(ttl_s, 5.0), 3.0 * ttl_s, 10.0)
    assert not heard.cached
    assert 5.0 <= at[-1] <= 5.0 + BUSY_S
    assert len(at) == pytest.approx(5.0 / BUSY_S, abs=2)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("ttl_s", [1, 2, 5, 30])
@given(phase=st.floats(0, 1), moved_s=st.floats(0, 8))
def test_a_cache_is_asked_as_soon_as_its_record_is_over(
    ttl_s: int, rounding: str, phase: float, moved_s: float
) -> None:
    """Other clients keep the cache busy, too: it has nothing but for a moment."""
    server = CacheOf(Authority(ttl_s, moved_s), ROUNDINGS[rounding])
    at, heard = asked(server, 3.0 * ttl_s + phase, moved_s + 3 * ttl_s + 1)
    assert heard.cached or ttl_s <= 2
    assert at[-1] <= moved_s + ttl_s + 0.06, "TTL + 60 ms"
    gaps = [b - a for a, b in pairwise(at)]
    assert max(gaps, default=0.0) <= LOOK_S + 1e-9
    quick = sum(gap < 2 * BUSY_S for gap in gaps)
    records = 2 + (moved_s + ttl_s) / ttl_s
    assert ttl_s <= 2 or quick <= records * (2 / BUSY_S + 2), "only around the ends of records"


def test_a_ttl_that_an_operator_lowers_is_no_cache_for_long() -> None:
    heard = hear(None, CHAIN, 60, 0.0)
    heard = hear(heard, CHAIN, 5, 48.0)
    assert heard.cached
    assert pause_s(heard, 48.0, 0.0, 0, 0.5) == LOOK_S
    heard = hear(heard, CHAIN, 5, 49.1)
    assert not heard.cached


def test_several_caches_behind_one_address() -> None:
    """Their TTLs jump up and down: none stands still."""
    heard, now = None, 0.0
    for ttl_s in (60, 12, 55, 48, 3, 60, 41):
        heard = hear(heard, CHAIN, ttl_s, now)
        now += 1.0
    assert heard is not None
    assert heard.cached
    assert pause_s(heard, now, 0.0, 0, 0.5) <= LOOK_S


def test_another_alias_is_another_record() -> None:
    heard = hear(hear(None, CHAIN, 60, 0.0), ("db.test", "b.db.test"), 1, 10.0)
    assert not heard.cached


def test_who_tells_no_ttl() -> None:
    assert pause_s(None, 0.0, 0.0, 1, 0.5) == UNKNOWN_S


@pytest.mark.parametrize(("since_s", "least", "most"), [(9, 0.05, 0.05), (60, LONG_S, LONG_S)])
def test_a_long_trouble_slows_down(since_s: float, least: float, most: float) -> None:
    heard = hear(None, CHAIN, 60, 0.0)
    assert least <= pause_s(heard, 0.0, since_s, 1, 0.5) <= most


@pytest.mark.parametrize("clients", [1, 10, 40])
def test_up_to_forty_clients_needn_t_wait(clients: int) -> None:
    heard = hear(None, CHAIN, 60, 0.0)
    assert first_s(clients, 0.99) == 0.0
    assert max(pause_s(heard, 0.0, 0.0, clients, draw / 10) for draw in range(10)) <= 0.052


@pytest.mark.parametrize("clients", [100, 1000, 3000])
@pytest.mark.parametrize("ttl_s", [1, 5, 300])
def test_a_crowd_asks_two_thousand_times_a_second(clients: int, ttl_s: int) -> None:
    rng, at = random.Random(2), []
    for _ in range(clients):
        now, heard = first_s(clients, rng.random()), None
        while now < 6.0:
            at.append(now)
            heard = hear(heard, CHAIN, ttl_s, now)
            now += pause_s(heard, now, now, clients, rng.random())
    seconds = [sum(s <= a < s + 1 for a in at) * QUESTIONS for s in (0, 1, 2, 3, 4)]
    assert max(seconds) <= ASKED_MOST
