"""Roles, timelines, fencing, names and generations: examples, then a state machine."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from cluster_sim import A, B, C, Simulation, endpoint, primary, replica
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilient.core.model import Endpoint, FailureKind, Health, Observation, Role, Switch
from resilient.core.topology import (
    Event,
    Evidence,
    Fenced,
    Leased,
    Observed,
    ProbeFailed,
    ProbeSent,
    Promoted,
    Resolved,
    State,
    Tick,
    step,
)

NAMED = tuple(Resolved(item.name, (item,)) for item in (A, B, C))


def after(*events: Event, state: State | None = None, now: float = 10.0) -> State:
    return reduce(lambda s, event: step(s, event, now), events, state or State())


def cluster() -> State:
    """`a` is the primary of timeline 1, `b` and `c` follow."""
    return after(
        *NAMED,
        Observed(A, primary()),
        Observed(B, replica()),
        Observed(C, replica(incarnation="i-c")),
    )


def writer(state: State) -> Endpoint | None:
    return state.topology.writer.endpoint if state.topology.writer else None


def generation(state: State, item: Endpoint) -> int:
    view = state.topology.find(item)
    assert view is not None
    return view.generation


# -- where timelines began


def test_a_switch_point_counts_where_its_parent_is_proved() -> None:
    def told(state: State, timeline: int, incarnation: str = "i-b") -> State:
        return after(Promoted(B, "s1", incarnation, timeline, 700), state=state)

    second = told(after(Observed(B, primary(2, incarnation="i-b")), state=cluster()), 2)
    assert second.topology.switches == ((2, Switch(1, 700)),)
    # another run of it, or another timeline, is no news of this one
    assert told(second, 3).topology.switches == second.topology.switches
    assert told(cluster(), 2).topology.switches == ()
    # three out of what?  Out of two, where the same run has followed it
    third = after(Observed(B, primary(3, incarnation="i-b")), state=cluster())
    assert told(third, 3).topology.switches == ()
    on_two = after(Observed(B, replica(2, incarnation="i-b")), state=cluster())
    third = after(Observed(B, primary(3, incarnation="i-b")), state=on_two)
    assert told(third, 3).topology.switches == ((3, Switch(2, 700)),)
    restarted = after(Observed(B, primary(3, incarnation="i-b2")), state=on_two)
    assert told(restarted, 3, "i-b2").topology.switches == ()


# -- who writes


def test_an_unobserved_endpoint_is_no_writer() -> None:
    assert writer(after(*NAMED)) is None


def test_the_observed_primary_writes() -> None:
    assert writer(cluster()) == A


def test_the_higher_timeline_takes_over_and_fences_the_lower() -> None:
    state = after(Observed(B, primary(2, "i-b")), state=cluster())
    assert writer(state) == B
    old = state.topology.find(A)
    assert old is not None
    assert old.fenced
    assert old.generation == generation(cluster(), A) + 1
    assert not state.topology.live(A, generation(cluster(), A))


def test_a_zombie_that_says_primary_again_stays_fenced() -> None:
    state = after(Observed(B, primary(2, "i-b")), Observed(A, primary()), state=cluster())
    assert writer(state) == B


def test_a_dead_new_primary_does_not_bring_the_old_one_back() -> None:
    state = after(
        Observed(B, primary(2, "i-b")),
        ProbeFailed(B, 1, FailureKind.REFUSED),
        Observed(A, primary()),
        state=cluster(),
    )
    assert writer(state) is None


def test_a_replicas_timeline_is_a_lower_bound_that_fences() -> None:
    state = after(Observed(C, replica(2, "i-c")), state=cluster())
    assert state.topology.timeline == 2
    assert writer(state) is None
    assert after(Observed(B, primary(2)), state=state).topology.writer is not None


def test_two_primaries_on_one_timeline_are_a_conflict() -> None:
    state = after(Observed(B, primary(1, "i-b")), state=cluster())
    assert writer(state) is None
    assert "two primaries on timeline 1" in state.topology.conflict


def test_a_lease_settles_a_tie_and_fences_the_other() -> None:
    tie = after(Observed(B, primary(1, "i-b")), state=cluster())
    open_before = generation(tie, A)
    state = after(Leased((B,)), state=tie)
    assert writer(state) == B
    assert state.topology.conflict == ""
    other = state.topology.find(A)
    assert other is not None
    assert other.fenced
    assert "holds the lease" in other.reason
    again = after(Observed(A, primary()), state=state).topology
    assert again.find(A) == other  # and says so as long as it is
    assert again.version == state.topology.version
    assert not state.topology.live(A, open_before)
    # the lease is known before the tie as well
    early = after(Leased((B,)), Observed(B, primary(1, "i-b")), state=cluster())
    assert writer(early) == B


def test_a_lease_that_moves_or_ends_is_followed() -> None:
    tie = after(Observed(B, primary(1, "i-b")), Leased((B,)), state=cluster())
    back = after(Leased((A,)), state=tie)
    assert writer(back) == A
    assert [v.fenced for v in back.topology.endpoints if v.endpoint in (A, B)] == [False, True]
    nobody = after(Leased(()), state=tie)
    assert writer(nobody) is None
    assert "two primaries" in nobody.topology.conflict
    assert not any(view.fenced for view in nobody.topology.endpoints)


@pytest.mark.parametrize("holders", [(C,), (A, B), (), (endpoint("stranger", 9),)])
def test_a_lease_that_names_none_of_them_or_both_settles_nothing(
    holders: tuple[Endpoint, ...],
) -> None:
    state = after(Observed(B, primary(1, "i-b")), Leased(holders), state=cluster())
    assert writer(state) is None
    assert state.topology.conflict


def test_a_lease_makes_nobody_a_primary() -> None:
    """Roles are observed."""
    state = after(Leased((B,)), state=cluster())
    assert writer(state) == A
    assert writer(after(Leased((B,), 1), state=cluster())) is None  # A isn't the holder


def test_only_the_holder_writes_though_it_cant_be_seen() -> None:
    """The old primary is all that is left to a client that a partition cuts off with it."""
    alone = after(ProbeFailed(B, 1, FailureKind.REFUSED), Leased((B,), 2), state=cluster())
    assert writer(alone) is None
    view = alone.topology.find(A)
    assert view is not None
    assert (view.fenced, view.reason) == (True, "fenced: another server holds the lease")
    tie = after(
        *(Observed(B, primary(1, "i-b")), Leased((B,), 1), ProbeFailed(B, 1, FailureKind.REFUSED)),
        state=cluster(),
    )
    assert writer(tie) is None
    assert writer(after(Leased((A,), 1), state=tie)) == A


def test_a_source_that_is_behind_holds_no_promotion_up() -> None:
    """The new primary is seen before the source has heard of it."""
    state = after(Leased((A,), 1), Observed(B, primary(2, "i-b")), state=cluster())
    assert writer(state) == B
    assert writer(after(Leased((B,), 2), state=state)) == B
    dead = after(ProbeFailed(A, 1, FailureKind.REFUSED), state=state)
    assert writer(dead) == B


def test_a_holder_that_nobody_knows_rules_nobody_out() -> None:
    """Its name in there may be another one than here."""
    assert writer(after(Leased((endpoint("stranger", 9),), 1), state=cluster())) == A


def test_the_holder_behind_two_addresses_is_one_server() -> None:
    both = after(Observed(B, primary(1, "i-a")), Leased((A,), 1), state=cluster())
    assert writer(both) == A
    assert not any(view.fenced for view in both.topology.endpoints)


def test_a_conflict_ends_when_one_of_them_steps_down() -> None:
    state = after(Observed(B, primary(1, "i-b")), Observed(B, replica(1, "i-b2")), state=cluster())
    assert writer(state) == A
    assert state.topology.conflict == ""


def test_one_server_behind_two_addresses_is_no_conflict() -> None:
    state = after(Observed(B, primary(1, "i-a")), state=cluster())
    assert writer(state) == A
    assert state.topology.conflict == ""


def test_a_read_only_primary_is_the_writer_where_there_is_no_other() -> None:
    seen = replace(primary(), read_only=True)
    state = after(*NAMED, Observed(A, seen), Observed(B, replica()), Observed(C, replica()))
    assert writer(state) == A
    assert state.topology.conflict == ""
    assert writer(after(Observed(B, primary(1, "i-b")), state=state)) == B


def test_a_foreign_cluster_is_refused_and_named() -> None:
    state = after(Observed(B, primary(9, "i-b", "s2")), state=cluster())
    assert writer(state) == A
    view = state.topology.find(B)
    assert view is not None
    assert view.fenced
    assert "s1" in view.reason
    assert "s2" in view.reason


def test_a_demoted_primary_is_a_new_generation() -> None:
    state = after(Observed(A, replica(1, "i-a")), state=cluster())
    assert generation(state, A) == generation(cluster(), A) + 1


def test_a_promoted_replica_keeps_its_connections() -> None:
    state = after(Observed(B, primary(2, "i-b")), state=cluster())
    assert generation(state, B) == generation(cluster(), B)


def test_a_restart_is_a_new_generation() -> None:
    state = after(Observed(A, primary(1, "restarted")), state=cluster())
    assert generation(state, A) == generation(cluster(), A) + 1


# -- evidence


@pytest.mark.parametrize("kind", list(FailureKind))
def test_passive_evidence_alone_never_kills(kind: FailureKind) -> None:
    state = cluster()
    for moment in range(100):
        state = step(state, Evidence(A, kind, generation(state, A)), 10.0 + moment)
        state = step(state, Tick(), 10.0 + moment)
    view = state.topology.find(A)
    assert view is not None
    assert view.health is not Health.DEAD


def test_evidence_of_an_older_generation_changes_nothing() -> None:
    state = after(
        ProbeFailed(A, 1, FailureKind.REFUSED), Observed(A, primary(1, "i-2")), state=cluster()
    )
    late = Evidence(A, FailureKind.LOST, generation(cluster(), A))
    assert after(late, state=state).topology == state.topology


def test_events_of_a_removed_endpoint_change_nothing() -> None:
    state = after(Resolved(B.name, ()), state=cluster())
    assert state.topology.find(B) is None
    late: list[Event] = [
        Observed(B, replica(), probe=1),
        ProbeSent(B, 2),
        ProbeFailed(B, 2, FailureKind.SILENT),
        Evidence(B, FailureKind.LOST, 0),
    ]
    for event in late:
        assert after(event, state=state) == state


@pytest.mark.parametrize("kind", [FailureKind.LOCAL, FailureKind.CROWDED, FailureKind.REJECTED])
def test_our_own_troubles_are_no_outage(kind: FailureKind) -> None:
    state = after(ProbeFailed(A, 1, kind), state=cluster())
    assert writer(state) == A
    assert state.topology.writer is not None
    assert state.topology.writer.health is Health.UP


def test_a_server_without_sessions_is_no_writer() -> None:
    assert writer(after(ProbeFailed(A, 1, FailureKind.NOT_READY), state=cluster())) is None


def test_lag_moves_without_a_new_version() -> None:
    state = after(Observed(B, replica(lag_s=3.5)), state=cluster())
    view = state.topology.find(B)
    assert view is not None
    assert view.lag_s == 3.5
    assert state.topology.version == cluster().topology.version


# -- names


def test_a_name_without_news_keeps_its_endpoints() -> None:
    # NXDOMAIN and time-outs make no event: time passes, probes succeed
    state = after(*(Observed(A, primary()) for _ in range(5)), Tick(), state=cluster())
    assert writer(state) == A


def test_a_strict_flip_retires_the_old_address_once_another_writes() -> None:
    state = after(Resolved("db", (A,)), Observed(A, primary()))
    state = after(Resolved("db", (B,)), state=state)
    view = state.topology.find(A)
    assert view is not None
    assert view.retired
    assert writer(state) == A
    state = after(Observed(B, primary(2, "i-b")), state=state)
    assert writer(state) == B
    assert state.topology.find(A) is None


def test_a_retired_replica_goes_at_once() -> None:
    state = after(Resolved("reader", (B,)), Resolved("db", (A,)), Observed(A, primary()))
    state = after(Resolved("reader", (C,)), state=state)
    assert state.topology.find(B) is None


def test_a_rotating_name_keeps_what_is_healthy_for_a_while() -> None:
    state = after(Resolved("db", (A, B), rotating=True), Observed(A, primary()))
    state = after(Observed(B, replica()), state=state)
    for _ in range(2):
        state = after(Resolved("db", (A,), rotating=True), state=state)
        assert state.topology.find(B) is not None
    state = after(Resolved("db", (A,), rotating=True), state=state)
    assert state.topology.find(B) is None


def test_a_rotating_name_lets_go_of_the_dead() -> None:
    state = after(
        Resolved("db", (A, B), rotating=True),
        Observed(A, primary()),
        ProbeFailed(B, 1, FailureKind.REFUSED),
        Resolved("db", (A,), rotating=True),
    )
    assert state.topology.find(B) is None


def test_two_names_for_one_address_are_one_endpoint() -> None:
    alias = replace(A, name="alias.test")
    state = after(Resolved("a", (A,)), Resolved("alias", (alias,)))
    assert len(state.topology.endpoints) == 1


def test_step_changes_no_state_in_place() -> None:
    before = cluster()
    copy = replace(before)
    step(before, Observed(B, primary(2, "i-b")), 11.0)
    assert before == copy


# -- in virtual time


def test_a_failover_is_published_as_soon_as_it_is_observed() -> None:
    def network(item: Endpoint, now: float) -> tuple[float, Observation | FailureKind] | None:
        if item == A:
            return (0.005, primary()) if now < 120 else (0.001, FailureKind.REFUSED)
        return 0.005, primary(2, "i-b") if now >= 123 else replica()

    sim = Simulation(network, (A, B))
    sim.run_until(122)
    assert writer(sim.state) is None
    sim.run_until(123.1)
    assert writer(sim.state) == B


ENDPOINTS = st.sampled_from([A, B, C])
OBSERVATIONS = st.builds(
    Observation,
    role=st.sampled_from(Role),
    system_id=st.sampled_from(["", "s1", "s2"]),
    timeline=st.one_of(st.none(), st.integers(1, 4)),
    incarnation=st.sampled_from(["", "x", "y", "z"]),
    read_only=st.booleans(),
    lag_s=st.one_of(st.none(), st.floats(0, 100)),
    streams=st.booleans(),
    begun_at=st.one_of(st.none(), st.floats(0, 100)),
)


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens, in whatever order, the rules of `core.topology` hold."""

    def __init__(self) -> None:
        super().__init__()
        self.state = after(*NAMED)
        self.now = 10.0
        self.probe = 0
        self.highest: dict[str, int] = {}

    def do(self, event: Event) -> None:
        old, self.state = self.state, step(self.state, event, self.now)
        # What is left out where an event is no news would have changed nothing.
        whole = step(replace(old, settled=False), event, self.now)
        assert replace(self.state, settled=False) == replace(whole, settled=False)
        before, now = old.topology, self.state.topology
        shape = [(v.endpoint, v.role, v.health, v.timeline, v.fenced) for v in before.endpoints]
        new = [(v.endpoint, v.role, v.health, v.timeline, v.fenced) for v in now.endpoints]
        where = before.writer and before.writer.endpoint
        moved = where != (now.writer and now.writer.endpoint)
        assert now.version - before.version in (0, 1)
        if shape != new or moved or before.conflict != now.conflict:
            assert now.version == before.version + 1

    @rule(item=ENDPOINTS, seen=OBSERVATIONS)
    def observe(self, item: Endpoint, seen: Observation) -> None:
        self.do(Observed(item, seen))

    @rule(item=ENDPOINTS)
    def send(self, item: Endpoint) -> None:
        self.probe += 1
        self.do(ProbeSent(item, self.probe))

    @rule(item=ENDPOINTS, kind=st.sampled_from(FailureKind))
    def fail(self, item: Endpoint, kind: FailureKind) -> None:
        self.do(ProbeFailed(item, self.probe, kind))

    @rule(item=ENDPOINTS, kind=st.sampled_from(FailureKind), age=st.integers(0, 2))
    def suspect(self, item: Endpoint, kind: FailureKind, age: int) -> None:
        view = self.state.topology.find(item)
        was = view.health if view else None
        self.do(Evidence(item, kind, (view.generation if view else 0) - age))
        view = self.state.topology.find(item)
        assert (view.health if view else None) is was or was is Health.UP
        assert view is None or view.health is not Health.DEAD or was is Health.DEAD

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 5.0]), share=st.sampled_from([0.0, 0.5]))
    def tick(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.do(Tick(seconds * share))

    @rule(item=ENDPOINTS, there=st.booleans(), rotating=st.booleans(), reader=st.booleans())
    def resolve(self, item: Endpoint, there: bool, rotating: bool, reader: bool) -> None:
        self.do(Resolved(item.name, (item,) if there else (), rotating=rotating, reader=reader))

    @rule(system_id=st.sampled_from(["s1", "s2"]), timeline=st.integers(1, 5))
    def fence(self, system_id: str, timeline: int) -> None:
        self.do(Fenced(system_id, timeline))

    @rule(holders=st.lists(ENDPOINTS, max_size=2), timeline=st.one_of(st.none(), st.integers(1, 4)))
    def lease(self, holders: list[Endpoint], timeline: int | None) -> None:
        self.do(Leased(tuple(holders), timeline))

    @invariant()
    def the_writer_is_a_live_known_unfenced_primary(self) -> None:
        topology = self.state.topology
        if topology.writer is None:
            return
        view = topology.find(topology.writer.endpoint)
        assert view == topology.writer
        assert view.role is Role.PRIMARY
        assert view.usable
        assert not view.reader
        assert topology.conflict == ""
        assert topology.doubt == ""

    @invariant()
    def the_writer_has_the_highest_timeline_ever_seen(self) -> None:
        state, topology = self.state, self.state.topology
        known = self.highest.get(state.system_id, 0)
        if topology.writer is not None and topology.timeline is not None:
            assert topology.writer.timeline == topology.timeline
        if state.highest is not None and self.highest.keys() == {state.system_id}:
            assert state.highest >= known
        self.highest = {state.system_id: state.highest or 0}

    @invariant()
    def the_writer_is_of_this_cluster(self) -> None:
        writer_view = self.state.topology.writer
        if writer_view is not None:
            known = self.state.get(writer_view.endpoint)
            assert known is not None
            assert known.system_id == self.state.system_id

    @invariant()
    def only_replicas_means_that_nobody_writes(self) -> None:
        if self.state.topology.replicas_only:
            assert self.state.topology.writer is None

    @invariant()
    def a_replica_has_a_lag_on_the_writers_timeline_only(self) -> None:
        for view in self.state.topology.endpoints:
            if view.lag_s is not None:
                assert (view.timeline or 0) == (self.state.highest or 0)

    @invariant()
    def at_most_one_server_may_write(self) -> None:
        if self.state.topology.conflict:
            assert self.state.topology.writer is None


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase
