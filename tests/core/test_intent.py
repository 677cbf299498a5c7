"""What a pool's connections are for: the words of libpq against snapshots."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from cluster_sim import A, B, C, primary, replica

from resilient.core.drain import Fate, fate
from resilient.core.fence import Fences, Sight
from resilient.core.intent import Wanted, refused
from resilient.core.model import Endpoint, EndpointView, Health, Intent, Role, Topology
from resilient.core.routing import Balance, Target


def view(item: Endpoint, role: Role = Role.REPLICA, **values: object) -> EndpointView:
    base = EndpointView(item, role=role, health=Health.UP, timeline=1)
    return replace(base, **values)  # type: ignore[arg-type]


WRITER = view(A, Role.PRIMARY)
FULL = Topology(1, (WRITER, view(B), view(C)), WRITER, 1)
REPLICAS = Topology(1, (view(B), view(C)), None, 1, replicas_only=True)
BARRED = replace(WRITER, read_only=True)
MAINTENANCE = Topology(1, (BARRED,), BARRED, 1)


@pytest.mark.parametrize(
    ("target", "full", "replicas", "maintenance"),
    [
        ("any", [A], [B, C], [A]),
        ("prefer-primary", [A], [B, C], [A]),
        ("primary", [A], [], [A]),
        ("read-write", [A], [], []),
        ("standby", [B, C], [B, C], []),
        ("prefer-standby", [B, C], [B, C], [A]),
        ("read-only", [B, C], [B, C], [A]),
    ],
)
def test_where_connections_go(
    target: str, full: list[Endpoint], replicas: list[Endpoint], maintenance: list[Endpoint]
) -> None:
    wanted = Wanted(Target(target))
    for topology, places in ((FULL, full), (REPLICAS, replicas), (MAINTENANCE, maintenance)):
        assert [item.endpoint for item in wanted.places(topology)] == places


def test_order_is_the_lists_and_random_is_even() -> None:
    assert Wanted(Target.STANDBY).to_dial(FULL, set(), None) == view(B)
    evenly = Wanted(Target.STANDBY, Balance.RANDOM)
    rng = random.Random(1)
    drawn = [evenly.to_dial(FULL, set(), rng) for _ in range(40)]
    assert {item.endpoint for item in drawn if item} == {B, C}


def test_one_that_is_listed_before_is_waited_for() -> None:
    unheard = EndpointView(B)
    topology = Topology(1, (unheard, view(C)), None, 1)
    assert not Wanted(Target.STANDBY).content(topology)
    assert Wanted(Target.STANDBY).content(Topology(1, (view(C), unheard), None, 1))
    assert not Wanted(Target.PREFER_STANDBY).content(Topology(1, (unheard, WRITER), WRITER, 1))


def test_a_pool_that_changes_its_mind_moves_its_connections() -> None:
    wanted = Wanted()
    assert wanted.misplaced(FULL, B)  # it was a list of replicas, and one was promoted
    assert not wanted.misplaced(FULL, A)
    assert not wanted.misplaced(REPLICAS, B)
    assert Wanted(Target.PREFER_STANDBY).misplaced(FULL, A)  # a replica is there again


def test_new_connections_are_judged_by_what_they_say() -> None:
    empty = Topology(1, (EndpointView(A), EndpointView(B)))
    early, fenced = refused(Wanted(), empty, A, primary(1))
    assert "haven't answered" in early
    assert not fenced
    assert refused(Wanted(), Topology(1, (EndpointView(A),)), A, primary(1)) == ("", False)
    assert refused(Wanted(), FULL, A, primary(1)) == ("", False)
    assert refused(Wanted(), replace(FULL, timeline=2), A, primary(1))[1]
    assert "no primary" in refused(Wanted(), FULL, B, replica())[0]
    standby = Wanted(Target.STANDBY)
    assert refused(standby, FULL, B, replica()) == ("", False)
    assert "target_session_attrs=standby" in refused(standby, FULL, A, primary())[0]
    plain = replace(primary(), timeline=None)
    told = Topology(1, (EndpointView(A), view(B)), None, None)
    assert "no timeline" in refused(Wanted(), told, A, plain)[0]
    foreign = replace(FULL, system_id="s1")
    assert refused(Wanted(), foreign, B, primary(9, "j", "s2"))[1]


def test_an_errors_text_says_why() -> None:
    assert "default_transaction_read_only" in Wanted(Target.READ_WRITE).refusal(BARRED, MAINTENANCE)
    assert Wanted().refusal(BARRED, MAINTENANCE) == ""
    assert Wanted(Target.STANDBY).refusal(WRITER, FULL).endswith("(target_session_attrs=standby)")
    assert Wanted(Target.STANDBY).intent(FULL) is Intent.READ


# -- a session's own server behind an address with several


def test_in_a_group_a_session_on_a_fenced_timeline_is_cut() -> None:
    group = replace(WRITER, group=True, timeline=2)
    new = Topology(2, (group,), group, 2)
    assert fate(FULL, new, A, 0, seen=primary(1)) is Fate.ABORT
    assert fate(FULL, new, A, 0, seen=primary(2)) is Fate.KEEP
    assert fate(FULL, new, A, 0, seen=replica(1)) is Fate.KEEP
    alone = replace(group, group=False)
    assert fate(FULL, Topology(2, (alone,), alone, 2), A, 0, seen=primary(1)) is Fate.KEEP


# -- the fence of a process


def sight(*servers: str, height: int = 1) -> Sight:
    return Sight(frozenset(("s1", name) for name in servers), (("s1", height),))


def test_a_fence_is_shared_by_those_that_have_met_a_server() -> None:
    fences = Fences().put("one", sight("x")).put("two", sight("x", "y", height=2))
    assert fences.news("two") == [("one", "s1", 2)]
    assert fences.news("one") == [("one", "s1", 2)]
    assert fences.without("two").news("one") == []


def test_a_restored_copy_has_met_nobody() -> None:
    fences = Fences().put("production", sight("x")).put("copy", sight("z", height=9))
    assert fences.news("copy") == []


def test_and_by_those_between() -> None:
    fences = Fences().put("one", sight("x")).put("two", sight("x", "y"))
    fences = fences.put("three", sight("y", height=3))
    assert sorted(map(str, (who for who, _, _ in fences.news("three")))) == ["one", "two"]


def test_a_primary_of_another_branch_has_nothing_to_read() -> None:
    """Behind a reader's address: members are judged one by one."""
    group = view(B, group=True, reader=True)
    topology = Topology(1, (view(A, Role.PRIMARY, timeline=2), group), None, 2, system_id="s1")
    for reading in (Wanted(Target.PREFER_STANDBY), Wanted(Target.READ_ONLY)):
        assert "2 was seen" in refused(reading, topology, B, primary(1))[0]
        assert "2 was seen" in refused(reading, topology, B, primary(3))[0]
    assert refused(Wanted(Target.PREFER_STANDBY), topology, B, primary(2)) == ("", False)
    assert refused(Wanted(Target.PREFER_STANDBY), topology, B, replica(1)) == ("", False)


def test_a_group_that_is_the_writer_is_dialled_again() -> None:
    group = view(A, Role.PRIMARY, group=True)
    led = Topology(1, (group,), group, 1)
    assert Wanted().by_chance(led) == group
    assert Wanted().by_chance(FULL) is None


def test_a_lone_address_that_was_fenced_may_lead_to_another_server() -> None:
    fenced = view(A, Role.PRIMARY, fenced=True)
    assert Wanted().by_chance(Topology(1, (fenced,), None, 2)) == fenced
    assert Wanted().by_chance(Topology(1, (fenced, view(B)), None, 2)) is None
    assert refused(Wanted(), Topology(1, (fenced,), None, 2), A, primary(1))[1]
    assert refused(Wanted(), Topology(1, (fenced,), None, 2), A, primary(2)) == ("", False)
