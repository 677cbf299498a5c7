"""A standby keeps its answer back: its promotion is known a step later, for no more probes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cluster_sim import RTT_S, A, B, C, Network, Reply, Simulation, primary, replica

from resilient.core.health import ASKED_MOST, QUICK_S, ProbeConfig
from resilient.core.model import Endpoint, FailureKind, Health
from resilient.core.schedule import HOLD_MOST_S, WATCHERS_MOST, due, hold_s
from resilient.core.topology import Observed, ProbeFailed, ProbeSent, State, step

STEP_S = 0.01
CRASH_S, PROMOTED_S = 105.0, 106.0


def crashed(promoted_s: float = PROMOTED_S, delay_s: float = RTT_S) -> Network:
    """A refuses from `CRASH_S` on, B takes its place, C stays what it is."""

    def network(item: Endpoint, now: float) -> Reply:
        if item == A:
            gone = now >= CRASH_S
            return (0.001, FailureKind.REFUSED) if gone else (delay_s, primary())
        if item == B and now >= promoted_s:
            return delay_s, primary(2, "i-b")
        return delay_s, replica(incarnation="i-" + item.name[0])

    return network


def known_after_s(promoted_s: float, holding: bool) -> tuple[float, int]:
    """(seconds from the promotion until it is published, probes sent to B meanwhile)."""
    sim = Simulation(crashed(promoted_s), (A, B, C), seed=round(promoted_s * 1000))
    sim.step_s = STEP_S if holding else 0.0
    sim.run_until(CRASH_S)
    while sim.state.topology.writer is None or sim.state.topology.writer.endpoint != B:
        sim.run_until(sim.now + 0.001)
        assert sim.now < promoted_s + 5
    return sim.now - promoted_s, sum(sent.endpoint == B for sent in sim.sent)


def test_a_promotion_is_known_a_step_later() -> None:
    moments = [PROMOTED_S + n * 0.0131 for n in range(60)]
    held = [known_after_s(moment, True) for moment in moments]
    asked = [known_after_s(moment, False) for moment in moments]
    latest = max(late_s for late_s, _ in held)
    assert latest <= STEP_S + 2 * RTT_S + 0.003
    assert max(late_s for late_s, _ in asked) > 2 * latest  # what it is without
    assert sum(count for _, count in held) <= sum(count for _, count in asked)


def test_what_is_kept_back_on_purpose_is_not_slow() -> None:
    sim = Simulation(crashed(), (A, B, C))
    sim.step_s = STEP_S
    sim.run_until(PROMOTED_S)
    known = sim.state.get(C)
    assert known is not None
    assert len(known.detector.took_s) > 1
    assert max(known.detector.took_s) == pytest.approx(RTT_S)
    assert known.view.health is Health.UP
    assert not sim.deaths[1:]


def test_one_at_a_time_is_kept_back() -> None:
    sim = Simulation(crashed(PROMOTED_S + 5), (A, B, C))
    sim.step_s = STEP_S
    sim.run_until(CRASH_S + 0.5)
    sim.most_outstanding = 0
    sim.run_until(PROMOTED_S + 4)
    assert sim.most_outstanding == 1


def state(*events: Observed | ProbeFailed) -> State:
    sim = Simulation(lambda item, now: None, (A, B))
    for event in events:
        sim.apply(event)
    return sim.state


LOST = (Observed(A, primary()), Observed(B, replica()), ProbeFailed(A, 0, FailureKind.REFUSED))


def test_only_while_callers_wait_for_a_primary() -> None:
    calm = state(Observed(A, primary()), Observed(B, replica()))
    assert (hold_s(calm, A), hold_s(calm, B)) == (0.0, 0.0)
    lost = state(*LOST)
    assert (hold_s(lost, A), hold_s(lost, B)) == (0.0, ProbeConfig().burst_interval_s)
    assert hold_s(lost, C) == 0.0


def test_who_does_not_answer_quickly_is_not_asked_to_wait() -> None:
    slow = state(*LOST)
    for probe, at in ((1, 200.0), (2, 201.0)):
        slow = step(slow, ProbeSent(B, probe), at)
        slow = step(slow, Observed(B, replica(), probe), at + (0.001 if probe == 1 else 0.2))
    assert hold_s(slow, B) > 0  # one slow answer is chance
    for probe, at in ((3, 202.0), (4, 203.0)):
        slow = step(slow, ProbeSent(B, probe), at)
        slow = step(slow, Observed(B, replica(), probe), at + 2 * QUICK_S)
    assert hold_s(slow, B) == 0.0


def test_a_standby_with_many_clients_keeps_none_of_their_answers_back() -> None:
    few = state(Observed(B, replace(replica(), clients=WATCHERS_MOST)), *LOST)
    assert hold_s(few, B) > 0  # what was told once is remembered
    many = state(Observed(B, replace(replica(), clients=WATCHERS_MOST + 1)), *LOST)
    assert hold_s(many, B) == 0.0
    assert hold_s(step(many, Observed(B, replace(replica(), clients=2)), 300.0), B) > 0


def test_a_crowd_spaces_its_bursts() -> None:
    def again_s(clients: int) -> float:
        lost = state(Observed(B, replace(replica(), clients=clients)), *LOST)
        asked = step(lost, ProbeSent(B, 1), 100.5)
        asked = step(asked, Observed(B, replica(), 1), 100.501)
        only_b = replace(
            asked, known=tuple(item for item in asked.known if item[0][0] == B.address)
        )
        return due(only_b, 100.501, 0.5)[1] - 100.5

    assert again_s(5) < ProbeConfig().burst_interval_s
    assert again_s(400) == pytest.approx(400 / ASKED_MOST)


def test_no_connection_is_kept_for_long_whatever_the_interval() -> None:
    rare = replace(state(*LOST), config=ProbeConfig(burst_interval_s=1.0))
    assert hold_s(rare, B) == HOLD_MOST_S
