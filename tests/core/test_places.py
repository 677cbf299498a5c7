"""Which cluster is meant, whose names may write, and addresses that aren't servers."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from cluster_sim import A, B, C, endpoint, primary, replica
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.intent import Wanted, refused
from resilient.core.model import Endpoint, FailureKind, Intent, Observation, Role
from resilient.core.schedule import due
from resilient.core.topology import (
    Event,
    Evidence,
    Fenced,
    Observed,
    ProbeFailed,
    Resolved,
    State,
    Tick,
    step,
)
from resilient.core.topology_writer import ALONE_S, FAIR_S

D = endpoint("d", 4)
OTHER = {"incarnation": "j", "system_id": "s2"}


def after(*events: Event, state: State | None = None, now: float = 10.0) -> State:
    return reduce(lambda s, event: step(s, event, now), events, state or State())


def named(*items: Endpoint) -> list[Resolved]:
    return [Resolved(item.name, (item,)) for item in items]


def writer(state: State) -> Endpoint | None:
    return state.topology.writer.endpoint if state.topology.writer else None


def generation(state: State, item: Endpoint) -> int:
    view = state.topology.find(item)
    assert view is not None
    return view.generation


# -- one strict name that moves to another cluster


def moved(old: Observation = primary(5)) -> State:  # noqa: B008
    """`db` was A's, is B's now, and B is the primary of another cluster."""
    state = after(Resolved("db", (A,)), Observed(A, old))
    state = after(Resolved("db", (B,)), state=state)
    return after(Observed(B, primary(1, **OTHER)), state=state)


def test_the_name_says_which_cluster_is_meant_though_the_old_one_lives() -> None:
    before = after(Resolved("db", (A,)), Observed(A, primary(5)))
    state = moved()
    assert writer(state) == B
    assert (state.topology.system_id, state.topology.timeline) == ("s2", 1)
    assert not state.topology.live(A, generation(before, A))


def test_before_the_other_cluster_answers_the_old_one_serves() -> None:
    state = after(Resolved("db", (A,)), Observed(A, primary(5)))
    state = after(Resolved("db", (B,)), state=state)
    assert writer(state) == A
    assert writer(after(Observed(B, replica(1, **OTHER)), state=state)) == A


def test_the_old_clusters_readers_are_used_no_more() -> None:
    readers = Resolved("reader", (C,), reader=True)
    state = after(Resolved("db", (A,)), readers, Observed(A, primary(5)))
    state = after(Observed(C, replica(5, "i-c")), state=state)
    state = after(Resolved("db", (B,)), Observed(B, primary(1, **OTHER)), state=state)
    assert writer(state) == B
    view = state.topology.find(C)
    assert view is not None
    assert view.fenced
    assert "s1" in view.reason
    assert "s2" in view.reason
    # and though the old one is gone, or read-only, at the moment when the name moves
    gone = after(Resolved("db", (A,)), readers, Observed(A, replace(primary(5), read_only=True)))
    gone = after(Observed(C, replica(5, "i-c")), Resolved("db", (B,)), state=gone)
    assert writer(after(Observed(B, primary(1, **OTHER)), state=gone)) == B


def test_a_rollback_works_the_same_way_and_remembers_the_fence() -> None:
    state = after(Resolved("db", (A,)), state=moved())
    state = after(Observed(A, primary(5, "i-a2")), state=state)
    assert writer(state) == A
    assert (state.topology.system_id, state.topology.timeline) == ("s1", 5)
    zombie = after(Resolved("db", (C,)), Observed(C, primary(4, "i-c")), state=moved())
    assert writer(zombie) is None or writer(zombie) == B


def test_a_list_with_a_foreign_server_stays_refused() -> None:
    state = after(*named(A, B), Observed(A, primary(5)), Observed(B, primary(9, **OTHER)))
    assert writer(state) == A
    state = after(Observed(A, replica(5, "i-a")), state=state)
    assert writer(state) is None


def test_a_rotating_name_doesnt_say_which_cluster() -> None:
    state = after(Resolved("db", (A,), rotating=True), Observed(A, primary(5)))
    state = after(Resolved("db", (B,), rotating=True), state=state)
    assert writer(after(Observed(B, primary(1, **OTHER)), state=state)) == A


# -- readers' names


def with_reader(seen: Observation) -> State:
    state = after(Resolved("db", (A,)), Resolved("reader", (B,), reader=True))
    return after(Observed(A, primary(1)), Observed(B, replica(1)), Observed(B, seen), state=state)


def test_a_promoted_readers_name_gives_no_writer_and_raises_no_fence() -> None:
    state = with_reader(primary(2, "i-b"))
    assert writer(state) == A
    assert state.topology.timeline == 1
    view = state.topology.find(B)
    assert view is not None
    assert view.reader
    assert view.astray
    assert "reader's name" in view.refusal(Intent.WRITE)


def test_a_reader_on_a_higher_timeline_stops_nobody_also_in_a_fresh_process() -> None:
    assert writer(with_reader(replica(2, "i-b"))) == A
    fresh = after(Resolved("reader", (B,), reader=True), Resolved("db", (A,)))
    fresh = after(Observed(B, replica(2, "i-b")), Observed(A, primary(1)), state=fresh)
    assert writer(fresh) == A
    view = fresh.topology.find(B)
    assert view is not None
    assert view.astray
    assert view.lag_s is None


def test_a_reader_alone_is_nobodys_writer() -> None:
    state = after(Resolved("db", (A,)), Resolved("reader", (B,), reader=True))
    state = after(ProbeFailed(A, 1, FailureKind.REFUSED), Observed(B, primary(1)), state=state)
    assert writer(state) is None
    assert state.topology.conflict == ""


def test_a_readers_server_that_is_one_of_the_writers_as_well_counts() -> None:
    both = after(Resolved("db", (A,)), Resolved("reader", (A,), reader=True))
    assert writer(after(Observed(A, primary(1)), state=both)) == A
    # under another address
    state = after(Resolved("db", (A,)), Resolved("reader", (B,), reader=True))
    state = after(Observed(A, primary(1)), Observed(B, primary(1, "i-a")), state=state)
    view = state.topology.find(B)
    assert view is not None
    assert not view.reader
    # the writer's name follows the promotion: from then on it counts
    state = after(Resolved("db", (B,)), state=with_reader(primary(2, "i-b")))
    assert writer(state) == B
    assert state.topology.timeline == 2


# -- the fence of others in this process


def test_a_fence_that_others_raised_holds_here() -> None:
    state = after(*named(A, B), Observed(A, primary(1)), Observed(B, replica(1)))
    state = after(Fenced("s1", 2), state=state)
    assert writer(state) is None
    assert state.topology.timeline == 2
    view = state.topology.find(A)
    assert view is not None
    assert view.fenced
    assert writer(after(Fenced("s2", 9), Observed(B, primary(2, "i-b")), state=state)) == B


# -- the first primary


def test_the_first_primary_waits_for_what_the_others_say() -> None:
    state = after(*named(A, B), Observed(A, primary(1)))
    assert writer(state) is None
    assert str(B) in state.topology.doubt
    assert state.topology.reasons(Intent.WRITE)[str(A)] == state.topology.doubt
    assert writer(after(Observed(B, replica(1)), state=state)) == A
    assert writer(after(Observed(B, primary(2, "i-b")), state=state)) == B
    assert writer(after(ProbeFailed(B, 1, FailureKind.REFUSED), state=state)) == A


def test_and_for_names_that_lead_nowhere_yet() -> None:
    state = after(Resolved("a", (A,)), Resolved("late", ()), Resolved("reports", (), reader=True))
    doubted = "late: no answer yet"
    assert state.topology.doubt == doubted
    why, _ = refused(Wanted(), state.topology, A, primary(1))
    assert "haven't answered" in why
    state = after(Observed(A, primary(1)), state=state)
    assert writer(state) is None
    assert "late" in state.topology.doubt
    found = after(Resolved("late", (B,)), Observed(B, primary(2, "i-b")), state=state)
    assert writer(found) == B
    assert writer(after(Tick(), state=state, now=10.0 + FAIR_S)) == A
    alone = after(Resolved("a", (A,)), Resolved("reports", (), reader=True))
    assert writer(after(Observed(A, primary(1)), state=alone)) == A


def test_for_a_fair_time_and_no_longer() -> None:
    state = after(*named(A, B), Observed(A, primary(1)))
    _, again = due(state, 10.0, 0.5)
    assert again <= 10.0 + FAIR_S
    assert writer(step(state, Tick(), 10.0 + FAIR_S / 2)) is None
    assert writer(step(state, Tick(), 10.0 + FAIR_S)) == A


def test_alone_it_waits_for_nobody() -> None:
    assert writer(after(*named(A), Observed(A, primary(1)))) == A
    readers = Resolved("reader", (B,), reader=True)
    assert writer(after(*named(A), readers, Observed(A, primary(1)))) == A


def test_later_ones_wait_for_nobody() -> None:
    state = after(*named(A, B), Observed(A, primary(1)), Observed(B, replica(1)))
    state = after(*named(C), Observed(B, primary(2, "i-b")), state=state)
    assert writer(state) == B


# -- servers that don't tell


PLAIN = Observation(Role.PRIMARY)


def test_servers_that_tell_no_timeline_all_write() -> None:
    state = after(*named(A, B), Observed(B, PLAIN), Observed(A, PLAIN))
    assert state.topology.conflict == ""
    assert writer(state) == A
    state = after(ProbeFailed(A, 1, FailureKind.REFUSED), state=state)
    assert writer(state) == B
    assert writer(after(Observed(A, PLAIN), state=state)) == B  # it stays where it is


@pytest.mark.parametrize("told", [primary(1), replica(1)])
def test_beside_one_that_tells_it_isnt_written_to(told: Observation) -> None:
    for events in (
        (Observed(A, PLAIN), Observed(B, told)),
        (Observed(B, told), Observed(A, PLAIN)),
    ):
        state = after(*named(A, B), *events)
        assert writer(state) == (B if told.role is Role.PRIMARY else None)


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        (Endpoint("a.test", "10.0.0.1", 5432), "10.0.0.1:5432"),
        (Endpoint("a.test", "::1", 5432), "[::1]:5432"),
        (Endpoint("/run/postgresql", "", 5432), "/run/postgresql:5432"),
        (Endpoint("", "", 5432), "[local]:5432"),
    ],
)
def test_what_is_said_of_where_it_is(endpoint: Endpoint, place: str) -> None:
    assert endpoint.place == place


# -- replicas only


def test_a_list_of_replicas_whose_primary_is_elsewhere() -> None:
    streams = replace(replica(), streams=True)
    state = after(*named(A, B), Observed(A, streams))
    assert not state.topology.replicas_only
    state = after(Observed(B, streams), state=state)
    assert state.topology.replicas_only
    assert state.topology.calm
    assert state.burst_at is None
    promoted = after(Observed(B, primary(2, "i-b")), state=state)
    assert writer(promoted) == B
    assert not promoted.topology.replicas_only
    # and then it is a cluster that has lost its primary
    lost = after(ProbeFailed(B, 1, FailureKind.REFUSED), state=promoted)
    assert not lost.topology.replicas_only


def test_where_none_streams_a_primary_may_be_about_to_come() -> None:
    state = after(*named(A, B), Observed(A, replica()), Observed(B, replica()))
    assert not state.topology.replicas_only
    _, again = due(state, 10.0, 0.5)
    assert again <= 10.0 + ALONE_S
    assert step(state, Tick(), 10.0 + ALONE_S).topology.replicas_only


def test_a_dead_one_among_them_may_be_the_primary() -> None:
    streams = replace(replica(), streams=True)
    state = after(*named(A, B), ProbeFailed(A, 1, FailureKind.REFUSED), Observed(B, streams))
    assert not state.topology.replicas_only
    assert step(state, Tick(), 10.0 + ALONE_S).topology.replicas_only


def test_a_primary_that_was_there_comes_again() -> None:
    streams = replace(replica(), streams=True)
    state = after(*named(A, B), Observed(A, primary()), Observed(B, streams))
    state = after(Observed(A, replace(streams, incarnation="i-a2")), state=state)
    state = step(state, Tick(), 10.0 + 2 * ALONE_S)
    assert not state.topology.replicas_only


def test_25006_of_one_that_is_known_to_be_read_only_is_no_news() -> None:
    state = after(*named(A), Observed(A, replace(primary(), read_only=True)))
    assert after(Evidence(A, FailureKind.READ_ONLY, 0), state=state).topology == state.topology
    state = after(*named(A), Observed(A, replica()))
    assert after(Evidence(A, FailureKind.READ_ONLY, 0), state=state).topology == state.topology


# -- lag


def test_the_lag_behind_somebody_else_is_not_known() -> None:
    state = after(*named(A, B, C), Observed(A, primary(1)), Observed(C, replica(1, "i-c")))
    state = after(Observed(B, primary(2, "i-b")), state=state)
    view = state.topology.find(C)
    assert view is not None
    assert view.lag_s is None  # it may follow the old one, which lives
    view = after(Observed(C, replica(2, "i-c", lag_s=0.5)), state=state).topology.find(C)
    assert view is not None
    assert view.lag_s == 0.5


# -- several strict names that move to another cluster


def test_several_names_say_it_together() -> None:
    """Two of `db`'s servers, by a name each; the other cluster has C and D."""
    state = after(Resolved("one", (A,)), Resolved("two", (B,)))
    state = after(Observed(A, primary(5)), Observed(B, replica(5)), state=state)
    state = after(Resolved("one", (C,)), Observed(C, primary(1, **OTHER)), state=state)
    assert writer(state) == A  # the other name still leads to its replica
    state = after(Resolved("two", (D,)), state=state)
    assert writer(state) == A  # whose server D is, isn't known
    state = after(Observed(D, replica(1, **OTHER)), state=state)
    assert writer(state) == C
    back = (Resolved("one", (A,)), Resolved("two", (B,)))
    state = after(*back, Observed(A, primary(5)), Observed(B, replica(5)), state=state)
    assert writer(state) == A


def test_names_that_lead_to_one_server_of_it_say_it_too() -> None:
    state = after(Resolved("one", (A,)), Resolved("two", (B,)))
    state = after(Observed(A, primary(5)), Observed(B, replica(5)), state=state)
    state = after(Resolved("one", (C,)), Resolved("two", (C,)), state=state)
    assert writer(after(Observed(C, primary(1, **OTHER)), state=state)) == C


def test_names_that_lead_to_two_other_clusters_say_nothing() -> None:
    state = after(Resolved("one", (A,)), Resolved("two", (B,)))
    state = after(Observed(A, primary(5)), Observed(B, replica(5)), state=state)
    state = after(Resolved("one", (C,)), Resolved("two", (D,)), state=state)
    third = {"incarnation": "k", "system_id": "s3"}
    state = after(Observed(C, primary(1, **OTHER)), state=state)
    assert writer(after(Observed(D, primary(1, **third)), state=state)) == A


# -- groups


def met(item: Endpoint, seen: Observation, at: float) -> tuple[float, Observed]:
    """A new session met this server."""
    return at, Observed(item, replace(seen, begun_at=at))


def play(state: State, *events: tuple[float, Event]) -> State:
    return reduce(lambda s, pair: step(s, pair[1], pair[0]), events, state)


def behind(*names: str, start: State | None = None, at: float = 10.0) -> State:
    """New sessions to B meet these servers, one after the other."""
    state = start or after(*named(B))
    return play(state, *(met(B, replica(1, n), at + i) for i, n in enumerate(names)))


def test_a_one_way_change_drains() -> None:
    assert generation(behind("x", "y", "z"), B) == generation(behind("x"), B) + 2


def test_an_earlier_one_that_answers_again_proves_a_group() -> None:
    state = behind("x", "y", "x")
    view = state.topology.find(B)
    assert view is not None
    assert view.group
    later = behind("y", "z", start=state, at=13.0)
    assert later.topology.version == state.topology.version  # nothing happened
    assert generation(behind("w", "x", "z", start=later, at=20.0), B) == view.generation


def test_an_answer_of_a_session_from_before_proves_nothing() -> None:
    """The address has moved; the old server lives, and so does a session to it."""
    state = behind("x", "y")
    late = step(state, Observed(B, replica(1, "x"), probe=7), 12.0)
    assert late.topology == state.topology
    begun = replace(replica(1, "x"), begun_at=10.5)  # before the other one was heard
    assert step(state, Observed(B, begun), 12.0).topology == state.topology


def test_a_group_lags_as_the_one_that_lags_most() -> None:
    state = behind("x", "y", "x")
    state = play(state, met(B, replica(1, "y", lag_s=7.0), 20.0), met(B, replica(1, "x"), 21.0))
    view = state.topology.find(B)
    assert view is not None
    assert view.lag_s == 7.0
    state = play(state, met(B, replica(1, "y", lag_s=None), 22.0))
    view = state.topology.find(B)
    assert view is not None
    assert view.lag_s is None


def test_a_mixed_group_serves_reads_and_never_writes() -> None:
    state = behind("x", "y", "x")
    for at, seen in enumerate([primary(1, "p"), replica(1, "x"), primary(1, "p")], 20):
        state = play(state, met(B, seen, float(at)))
        view = state.topology.find(B)
        assert view is not None
        assert view.role is Role.REPLICA
        assert view.generation == generation(behind("x", "y", "x"), B)
        assert writer(state) is None


def test_a_replica_that_tells_its_timeline_late_makes_no_promotion() -> None:
    state = behind("x", "y", "x")
    for at, seen in enumerate([primary(3, "p"), replica(2, "x"), primary(3, "p")], 20):
        state = play(state, met(B, seen, float(at)))
        view = state.topology.find(B)
        assert view is not None
        assert view.role is Role.REPLICA


def test_a_group_that_always_leads_to_the_primary_writes() -> None:
    state = after(*named(B))
    events = [met(B, primary(1, n), 10.0 + i) for i, n in enumerate("pqp")]
    state = play(state, *events)
    assert writer(state) == B
    # one of them is promoted elsewhere: it is the address's primary, the old ones are past
    state = play(state, met(B, primary(2, "r"), 20.0))
    assert writer(state) == B
    assert state.topology.timeline == 2


@given(st.lists(st.sampled_from("xyzw"), min_size=3, max_size=40))
def test_a_group_drains_at_most_once_for_each_member(names: list[str]) -> None:
    assert generation(behind(*names), B) <= len(set(names)) - 1
