"""Each part of `resolve` is needed: left out, there is a history that makes it lie.

Histories are played on the model of `commit_model`; in each, our COMMIT is in no surviving WAL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from commit_model import Cluster, Record, Server, believing, insert_position

from resilient.core.outcome import Mark, Outcome, ServerFacts, Verdict, XidStatus, resolve

Rule = Callable[[Mark, ServerFacts, int], Verdict]


@dataclass(frozen=True, slots=True)
class Case:
    """A COMMIT that is in no surviving WAL, and what the client knows and is told."""

    cluster: Cluster
    mark: Mark
    seen: ServerFacts
    flushed: int

    @staticmethod
    def of(cluster: Cluster, mark: Mark, flushed: int) -> Case:
        assert cluster.committed("ours") == 0, "the history was to lose it"
        return Case(cluster, mark, cluster.leader.server_facts(mark.xid), flushed)


def reused_after_a_crash() -> Case:
    """The tail with our records is lost in a crash, the id given again, then a failover."""
    cluster = Cluster(sync=False)
    old, new, _ = cluster.servers
    xid = old.begin("ours")
    flushed = old.flushed
    mark = old.mark(xid)
    old.commit(xid)
    old.crash()
    old.restart()
    assert cluster.others_work(old) == xid
    old.flush()
    new.stream()
    cluster.promote(new)
    return Case.of(cluster, mark, flushed)


def reused_after_the_promotion() -> Case:
    """Our records were flushed, but not streamed."""
    cluster = Cluster(sync=False)
    old, new, _ = cluster.servers
    xid = old.begin("ours")
    mark = old.mark(xid)
    old.commit(xid)
    old.flush()
    cluster.promote(new)
    assert cluster.others_work(new) == xid
    return Case.of(cluster, mark, old.flushed)


def reused_and_crashed() -> Case:
    """The same, and the new primary goes through a crash: its recovery ended further on."""
    case = reused_after_the_promotion()
    case.cluster.others_work(case.cluster.leader)
    case.cluster.leader.flush()
    case.cluster.leader.crash()
    case.cluster.leader.restart()
    return Case.of(case.cluster, case.mark, case.flushed)


def reused_and_promoted_again() -> Case:
    """The same, and a second failover, further on."""
    case = reused_after_the_promotion()
    case.cluster.others_work(case.cluster.leader)
    case.cluster.leader.flush()
    third = case.cluster.servers[2]
    third.stream()
    case.cluster.promote(third)
    return Case.of(case.cluster, case.mark, case.flushed)


def reused_in_place() -> Case:
    """A backend's crash: the same postmaster, the same timeline, and the tail is lost."""
    cluster = Cluster(sync=False)
    old = cluster.leader
    xid = old.begin("ours")
    mark = old.mark(xid)
    old.commit(xid)
    old.crash()
    old.restart(same_postmaster=True)
    assert cluster.others_work(old) == xid
    return Case.of(cluster, mark, mark.lsn)


def without_a_trace() -> Case:
    """An unlogged first write, and only the insert position was looked at."""
    cluster = Cluster(sync=False)
    old, new, _ = cluster.servers
    cluster.others_work(old)
    xid = old.begin("ours")
    mark = insert_position(old, xid)
    old.flush()
    flushed = old.flushed
    old.commit(xid)
    new.stream()
    cluster.promote(new)
    assert cluster.others_work(new) == xid
    return Case.of(cluster, mark, flushed)


def by_status_only(mark: Mark, seen: ServerFacts, flushed: int) -> Verdict:
    outcome = Outcome.COMMITTED if seen.status is XidStatus.COMMITTED else Outcome.NOT_COMMITTED
    return Verdict(outcome, "by status only")


def without_flush(mark: Mark, seen: ServerFacts, flushed: int) -> Verdict:
    return resolve(mark, seen, mark.lsn)


def without_switch_point(mark: Mark, seen: ServerFacts, flushed: int) -> Verdict:
    return resolve(mark, believing(seen, recovered_lsn=mark.lsn), flushed)


def without_received(mark: Mark, seen: ServerFacts, flushed: int) -> Verdict:
    return resolve(mark, replace(seen, received=True), flushed)


def without_timelines(mark: Mark, seen: ServerFacts, flushed: int) -> Verdict:
    return resolve(mark, believing(seen, timeline=mark.incarnation.timeline + 1), flushed)


def without_recovered(mark: Mark, seen: ServerFacts, flushed: int) -> Verdict:
    """The start time alone for an incarnation."""
    return resolve(mark, believing(seen, recovered_lsn=mark.incarnation.recovered_lsn), flushed)


@pytest.mark.parametrize(
    ("history", "weaker"),
    [
        (reused_after_a_crash, without_flush),
        (reused_after_a_crash, by_status_only),
        (reused_after_the_promotion, without_switch_point),
        (reused_after_the_promotion, by_status_only),
        (reused_and_crashed, without_received),
        (reused_and_promoted_again, without_timelines),
        (reused_in_place, without_recovered),
    ],
)
def test_every_part_of_the_rule_is_needed(history: Callable[[], Case], weaker: Rule) -> None:
    case = history()
    assert weaker(case.mark, case.seen, case.flushed).outcome is Outcome.COMMITTED
    assert resolve(case.mark, case.seen, case.flushed).outcome is not Outcome.COMMITTED


def test_the_message_is_needed() -> None:
    """With all guards in place, a position without a record of ours proves nothing."""
    case = without_a_trace()
    assert resolve(case.mark, case.seen, case.flushed).outcome is Outcome.COMMITTED


def test_an_acknowledgement_is_no_flush() -> None:
    """With synchronous_commit=off an answered COMMIT may be lost: who takes its position for
    flushed believes another transaction's id."""
    case = reused_after_a_crash()
    acknowledged = case.mark.lsn + 1
    assert resolve(case.mark, case.seen, acknowledged).outcome is Outcome.COMMITTED
    assert resolve(case.mark, case.seen, case.flushed).outcome is Outcome.UNKNOWN


def test_committed_wants_an_acknowledgement_of_its_own() -> None:
    """A second failover may lose what the first one's primary had: only once a follower
    has what lies behind it may it be called committed."""
    cluster = Cluster(sync=True)
    old, new, third = cluster.servers
    xid = old.begin("ours")
    mark = old.mark(xid)
    old.commit(xid)
    old.flush()
    new.stream()
    cluster.promote(new)
    third.stream(0)  # it has found the new primary, and received nothing yet
    seen = new.server_facts(xid)
    assert resolve(mark, seen, old.flushed).outcome is Outcome.COMMITTED
    assert not cluster.durable(new, len(new.wal))
    cluster.promote(third)
    assert cluster.committed("ours") == 0


def test_the_rule_rests_on_timelines_that_chain() -> None:
    """What no guard excludes: two servers promoted to the same number, one after the other,
    the second without a word from the first, and then a failover of the second."""
    cluster = Cluster(sync=False)
    _, twin, last = cluster.servers
    lost = Server("D", primary=True, timeline=2, recovered=0)
    xid = lost.begin("ours")
    mark = lost.mark(xid)
    lost.commit(xid)
    lost.flush()
    cluster.promote(twin)
    assert (twin.timeline, twin.recovered) == (lost.timeline, lost.recovered)
    while cluster.others_work(twin) != xid:
        pass
    twin.insert(Record("write"))
    twin.flush()
    last.stream()
    cluster.promote(last)
    case = Case.of(cluster, mark, lost.flushed)
    assert resolve(case.mark, case.seen, case.flushed).outcome is Outcome.COMMITTED
