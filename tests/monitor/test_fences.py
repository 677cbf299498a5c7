"""The fence that clusters of one process share: who is told, in which order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient.core.model import Endpoint, Observation, Role
from resilient.core.topology import Fenced, Observed, Resolved, State, step
from resilient.monitor.fences import Member

A = Endpoint("a.test", "10.0.1.10", 5432)
B = Endpoint("b.test", "10.0.2.10", 5432)


class Cluster:
    """A cluster's part: applies what it is told, and remembers that it was."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.state = State()
        self.told: list[Fenced] = []
        self.member = Member(self.apply)
        for item in endpoints:
            self.apply(Resolved(item.name, (item,)))
        self.told.clear()

    def apply(self, event: Resolved | Observed | Fenced) -> None:
        if isinstance(event, Fenced):
            self.told.append(event)
        self.state = self.member.follow(
            step(self.state, event, 10.0), lambda state, fence: step(state, fence, 10.0)
        )

    def sees(self, item: Endpoint, timeline: int, incarnation: str, *, primary: bool) -> None:
        role = Role.PRIMARY if primary else Role.REPLICA
        self.apply(Observed(item, Observation(role, "s1", timeline, incarnation)))


@pytest.fixture
def two() -> Iterator[tuple[Cluster, Cluster]]:
    """One that knows the old primary alone, one that knows its successor as well."""
    both = Cluster(A), Cluster(A, B)
    yield both
    for one in both:
        one.member.leave()


def test_one_that_sees_more_tells_the_other(two: tuple[Cluster, Cluster]) -> None:
    alone, both = two
    for one in two:
        one.sees(A, 1, "i-a", primary=True)
    assert alone.state.topology.writer is not None
    both.sees(B, 2, "i-b", primary=True)
    assert alone.told == [Fenced("s1", 2)]
    assert both.told == []
    assert alone.state.topology.writer is None
    assert both.state.topology.writer is not None


def test_one_that_comes_later_takes_in_what_the_others_know(two: tuple[Cluster, Cluster]) -> None:
    alone, both = two
    both.sees(A, 1, "i-a", primary=True)
    both.sees(B, 2, "i-b", primary=True)
    alone.sees(A, 1, "i-a", primary=True)  # the zombie, in the first answer it ever gets
    assert alone.state.topology.timeline == 2
    assert alone.state.topology.writer is None


def test_who_has_left_is_told_nothing(two: tuple[Cluster, Cluster]) -> None:
    alone, both = two
    for one in two:
        one.sees(A, 1, "i-a", primary=True)
    alone.member.leave()
    both.sees(B, 2, "i-b", primary=True)
    assert alone.told == []
