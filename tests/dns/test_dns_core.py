"""The pure core: properties over any sequence of events, and decisions one by one."""

from __future__ import annotations

import random
from collections.abc import Generator
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient.core.dns import (
    Absent,
    Answer,
    Failed,
    Family,
    Found,
    Record,
    Reply,
    Soa,
    merge,
    restrict,
    rotations,
)
from resilient.core.dns_cache import Cache, CacheLimits, Slot
from resilient.core.dns_query import (
    Ask,
    Broken,
    Malformed,
    Policy,
    Question,
    ServerHealth,
    Silence,
    Turn,
    follow,
    question,
)

LIMITS = CacheLimits(size=3, floor_s=1, ceiling_s=30, negative_ceiling_s=20, stale_s=40)
NAMES = st.sampled_from(["a.test", "b.test", "c.test", "d.test"])
FAMILIES = st.sampled_from([4, 6, "any"])
ADDRESSES = st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)


class CacheMachine(RuleBasedStateMachine):
    """No sequence of answers, failures and times serves an expired record outside the stale
    rule, or an address that the last answer did not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache(LIMITS, random.Random(1).random)
        self.now = 100.0
        #: key → (addresses, until) of the last answer; None after an absence
        self.last: dict[Any, tuple[set[str], float] | None] = {}
        self.failed: dict[Any, float] = {}

    @rule(name=NAMES, family=FAMILIES, numbers=ADDRESSES, ttl=st.integers(0, 60))
    def found(self, name: str, family: Family, numbers: list[int], ttl: int) -> None:
        data = tuple(f"192.0.2.{n}" for n in numbers)
        slot = self.cache.store_found(name, family, Found((name,), data, ttl), self.now)
        assert set(slot.take().addresses) == set(data)
        self.last[name, family] = (set(data), self.now + max(1, min(ttl, 30)))
        self.failed.pop((name, family), None)

    @rule(name=NAMES, family=FAMILIES, exists=st.booleans(), ttl=st.integers(0, 60))
    def absent(self, name: str, family: Family, exists: bool, ttl: int) -> None:
        self.cache.store_absent(name, family, Absent(exists, ttl), self.now)
        self.last[name, family] = None
        self.failed.pop((name, family), None)

    @rule(name=NAMES, family=FAMILIES, timeout=st.booleans())
    def fails(self, name: str, family: Family, timeout: bool) -> None:
        until = self.cache.store_failed(name, family, Failed(timeout, "x"), self.now)
        assert 0.999 < until - self.now < 5.001  # sums of floats
        self.failed[name, family] = until

    @rule(by=st.floats(0, 60))
    def passes(self, by: float) -> None:
        self.now += by

    @rule(name=NAMES)
    def invalidated(self, name: str) -> None:
        self.cache.invalidate(name)
        for family in (4, 6, "any"):
            self.last.pop((name, family), None)
            self.failed.pop((name, family), None)

    @rule(number=st.integers(1, 5))
    def dead(self, number: int) -> None:
        self.cache.report_dead(f"192.0.2.{number}", self.now, 30)

    @rule()
    def refresh_begins(self) -> None:
        assert all(key in self.last for key in self.cache.due(self.now))

    @rule(name=NAMES, family=FAMILIES)
    def looked_up(self, name: str, family: Family) -> None:
        hit = self.cache.hit(name, family, self.now)
        known = self.cache.known(name, family, self.now)
        if hit is not None:
            assert isinstance(known, Slot)
            self._check(name, family, hit)
        if isinstance(known, Slot):
            self._check(name, family, known.take())
            self.cache.touch(name, family, self.now)
        if isinstance(known, Failed):
            assert self.now < self.failed[name, family]

    def _check(self, name: str, family: Family, answer: Answer) -> None:
        last = self.last.get((name, family))
        assert last is not None
        addresses, until = last
        assert set(answer.addresses) == addresses
        assert answer.expires_at == until
        if answer.stale:
            assert (name, family) in self.failed
            assert until <= self.now < until + LIMITS.stale_s
        else:
            assert self.now < until

    @invariant()
    def bounded(self) -> None:
        assert len(self.cache) <= LIMITS.size

    @precondition(lambda self: self.cache.next_refresh() is not None)
    @invariant()
    def scheduled_before_expiry_or_when_a_failure_is_over(self) -> None:
        at = self.cache.next_refresh()
        assert at is not None
        expiries = (last[1] for last in self.last.values() if last)
        assert at <= max(*expiries, *self.failed.values(), 0.0)


CacheMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestCache = CacheMachine.TestCase


def _run(
    script: Generator[Turn, Any, Any], outcomes: dict[int, list[Any]], step_s: float = 0.01
) -> tuple[Any, list[Ask]]:
    """Play a question against outcomes by server; silence is none, noise comes at once."""
    asks: list[Ask] = []
    now, heard = 0.0, []
    try:
        turn = next(script)
        while True:
            for ask in turn.asks:
                asks.append(ask)
                left = outcomes[ask.server]
                outcome = left.pop(0) if len(left) > 1 else left[0]
                if not isinstance(outcome, Silence):
                    heard.append((ask, outcome))
            if heard:
                now += step_s
                turn = script.send((heard.pop(0), now))
            else:
                now = turn.until
                turn = script.send((None, now))
    except StopIteration as stop:
        return stop.value, asks


RECORDS = st.builds(
    Record,
    owner=st.sampled_from(["q.test", "x.test", "y.test", "other.test", ""]),
    rdtype=st.sampled_from(["A", "CNAME"]),
    ttl=st.integers(0, 2**32 - 1),
    data=st.sampled_from(["q.test", "x.test", "y.test", "192.0.2.1", "192.0.2.2", ""]),
)
REPLIES = st.builds(
    Reply,
    rcode=st.sampled_from(["NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", "FORMERR"]),
    records=st.lists(RECORDS, max_size=5).map(tuple),
    soa=st.lists(st.builds(Soa, st.just("test"), st.integers(0, 99), st.integers(0, 99))).map(
        tuple
    ),
    truncated=st.booleans(),
    recursive=st.booleans(),
)
OUTCOMES = st.one_of(REPLIES, st.just(Silence()), st.just(Malformed()), st.just(Broken("refused")))


@given(
    first=st.lists(OUTCOMES, min_size=1, max_size=6),
    second=st.lists(OUTCOMES, min_size=1, max_size=6),
    tries=st.integers(1, 3),
)
@settings(max_examples=300, deadline=None)
def test_a_question_ends_and_gives_only_what_was_answered(
    first: list[Any], second: list[Any], tries: int
) -> None:
    heard = [o for o in (*first, *second) if isinstance(o, Reply)]
    script = question(
        Question("q.test", "A"), ["s0", "s1"], ServerHealth(), Policy(1, tries, 5), now=0, dated=0
    )
    result, asks = _run(script, {0: first, 1: second})
    assert len(asks) <= 17 * 2 * tries * 3
    assert all(ask.until <= 5 for ask in asks)
    if isinstance(result, Found):
        given_data = {r.data for reply in heard for r in reply.records if r.rdtype == "A"}
        aliases = {
            (r.owner, r.data) for reply in heard for r in reply.records if r.rdtype == "CNAME"
        }
        assert result.chain[0] == "q.test"
        assert set(result.data) <= given_data
        assert set(pairwise(result.chain)) <= aliases
        assert 0 <= result.ttl_s <= 0x7FFFFFFF
    elif isinstance(result, Absent):
        assert any(reply.rcode in ("NOERROR", "NXDOMAIN") for reply in heard)


def _ask(*outcomes: list[Any], tries: int = 1, health: ServerHealth | None = None) -> Any:
    names = [f"s{i}" for i in range(len(outcomes))]
    script = question(
        Question("q.test", "A"),
        names,
        health or ServerHealth(),
        Policy(1, tries, 60),
        now=0,
        dated=0,
    )
    return _run(script, dict(enumerate(outcomes)))


OK = Reply("NOERROR", (Record("q.test", "A", 60, "192.0.2.1"),))


def test_edns_is_dropped_for_the_server_that_refuses_it_and_remembered() -> None:
    health = ServerHealth()
    _, asks = _ask([Reply("FORMERR"), OK], health=health)
    assert [ask.edns for ask in asks] == [True, False]
    _, asks = _ask([OK], health=health)
    assert [ask.edns for ask in asks] == [False]


def test_truncation_goes_to_tcp_on_the_same_server() -> None:
    result, asks = _ask([Reply("NOERROR", truncated=True), OK], [OK])
    assert [(ask.server, ask.tcp) for ask in asks] == [(0, False), (0, True)]
    assert isinstance(result, Found)


def test_servfail_is_asked_again_in_the_next_round_and_refused_is_not() -> None:
    _, asks = _ask(
        [Reply("SERVFAIL")], [Reply("REFUSED")], [Reply("NOERROR", recursive=False)], tries=2
    )
    assert [ask.server for ask in asks] == [0, 1, 2, 0]


def test_a_failing_server_is_last_for_a_while() -> None:
    health = ServerHealth()
    health.failed("s0", 0)
    assert health.order(["s0", "s1"], 29, False) == (1, 0)
    assert health.order(["s0", "s1"], 31, False) == (0, 1)
    health.failed("s0", 31)
    assert health.order(["s0", "s1"], 90, False) == (1, 0)
    health.worked("s0")
    assert health.order(["s0", "s1"], 90, False) == (0, 1)


def test_records_that_were_not_asked_for_are_passed_over() -> None:
    reply = Reply("NOERROR", (Record("evil.test", "A", 60, "192.0.2.6"),))
    result, asks = _ask([reply], [OK])
    assert result.data == ("192.0.2.1",)
    assert len(asks) == 2


def _chain(links: int) -> tuple[Record, ...]:
    names = ["q.test", *(f"n{i}.test" for i in range(links))]
    aliases = [Record(a, "CNAME", 60, b) for a, b in pairwise(names)]
    return (*aliases, Record(names[-1], "A", 60, "192.0.2.1"))


def test_long_chains_are_bounded() -> None:
    assert isinstance(follow(Reply("NOERROR", _chain(16)), ("q.test",), "A"), Found)
    assert isinstance(follow(Reply("NOERROR", _chain(17)), ("q.test",), "A"), Failed)
    assert isinstance(follow(Reply("NOERROR", _chain(100)), ("q.test",), "A"), Failed)


def test_negative_ttl_needs_an_soa_of_a_zone_above() -> None:
    def ttl(soa: Soa) -> float:
        result = follow(Reply("NXDOMAIN", soa=(soa,)), ("q.test",), "A")
        assert isinstance(result, Absent)
        return result.ttl_s

    assert ttl(Soa("test", 10, 60)) == 10
    assert ttl(Soa("test", 60, 10)) == 10
    assert ttl(Soa("", 2**31, 10)) == 0
    assert ttl(Soa("est", 60, 60)) == 0
    assert ttl(Soa("other.test", 60, 60)) == 0


def test_merge() -> None:
    four, six = Found(("a",), ("192.0.2.1", "192.0.2.2"), 10), Found(("a",), ("2001:db8::1",), 5)
    both = merge(four, six)
    assert both == Found(("a",), ("2001:db8::1", "192.0.2.1", "192.0.2.2"), 5)
    failed, none, gone = Failed(True, ""), Absent(True, 7), Absent(False, 9)
    assert merge(four, gone) is four
    assert merge(failed, six) == six
    assert merge(failed, Found(("a",), ("::1",), 60)) == Found(("a",), ("::1",), 5)
    assert merge(none, failed) is failed
    assert merge(gone, failed) is gone
    assert merge(none, Absent(True, 3)) == Absent(True, 3)


def test_restrict() -> None:
    from ipaddress import ip_network

    found = Found(("a",), ("10.0.0.1", "192.0.2.1", "2001:db8::1"), 10)
    assert restrict(found, ()) is found
    kept = restrict(found, [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
    assert isinstance(kept, Found)
    assert kept.data == ("10.0.0.1", "2001:db8::1")
    assert isinstance(restrict(found, [ip_network("172.16.0.0/12")]), Failed)


@given(
    six=st.lists(st.integers(1, 4), unique=True, max_size=4),
    four=st.lists(st.integers(1, 4), unique=True, max_size=4),
    dead=st.sets(st.sampled_from(["192.0.2.1", "2001:db8::1", "192.0.2.3"])),
)
def test_rotations_lose_nothing_and_are_fair(
    six: list[int], four: list[int], dead: set[str]
) -> None:
    addresses = (*(f"2001:db8::{n}" for n in six), *(f"192.0.2.{n}" for n in four))
    if not addresses:
        return
    answer = Answer(addresses, "a", ("a",), 1, 1)
    turns = rotations(answer, frozenset(dead))
    assert all(sorted(turn.addresses) == sorted(addresses) for turn in turns)
    live = [a for a in addresses if a not in dead]
    if live:
        firsts = [turn.addresses[0] for turn in turns]
        family = [a for a in live if (":" in a) == (":" in firsts[0])]
        assert {firsts.count(a) for a in family} == {len(turns) / len(family)}
        assert all(set(turn.addresses[: len(live)]) == set(live) for turn in turns)
