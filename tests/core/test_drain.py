"""Keep, drain or abort: a connection's fate under a new snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilient.core import drain
from resilient.core.drain import Fate, Phase, fate
from resilient.core.model import Endpoint, EndpointView, Health, Observation, Role, Topology

A, B = Endpoint("a", "192.0.2.1", 5432), Endpoint("b", "192.0.2.2", 5432)
PRIMARY = EndpointView(A, role=Role.PRIMARY, health=Health.UP, timeline=1)
REPLICA = EndpointView(B, role=Role.REPLICA, health=Health.UP, timeline=1)
PROMOTED = replace(REPLICA, role=Role.PRIMARY, timeline=2)
BEFORE = Topology(1, (PRIMARY, REPLICA), PRIMARY, 1)


def _after(*views: EndpointView, writer: EndpointView | None = None, timeline: int = 1) -> Topology:
    return Topology(2, views, writer, timeline)


DEAD = replace(PRIMARY, role=Role.UNKNOWN, health=Health.DEAD, generation=1)
FENCED = replace(PRIMARY, fenced=True, generation=1)
SUSPECT = replace(PRIMARY, health=Health.SUSPECT)
SHUTTING = replace(PRIMARY, role=Role.UNKNOWN, generation=1)


@pytest.mark.parametrize(
    ("after", "connecting", "expected"),
    [
        (_after(PRIMARY, REPLICA, writer=PRIMARY), False, Fate.KEEP),
        (_after(SUSPECT, REPLICA, writer=SUSPECT), False, Fate.KEEP),
        (_after(SUSPECT, REPLICA, writer=SUSPECT), True, Fate.KEEP),
        # silence alone kills no call, but a dial to the silent one is given up for a better
        (_after(SUSPECT, PROMOTED, writer=PROMOTED, timeline=2), True, Fate.ABORT),
        (_after(DEAD, REPLICA), False, Fate.HOLD),
        (_after(DEAD, REPLICA), True, Fate.ABORT),
        (_after(DEAD, PROMOTED, writer=PROMOTED, timeline=2), False, Fate.ABORT),
        (_after(FENCED, PROMOTED, writer=PROMOTED, timeline=2), False, Fate.ABORT),
        (_after(FENCED, REPLICA), False, Fate.ABORT),
        # a smart shutdown lets sessions finish
        (_after(SHUTTING, REPLICA), False, Fate.DRAIN),
        # gone from DNS while healthy: finish; gone and outranked: at once
        (_after(REPLICA), False, Fate.DRAIN),
        (_after(PROMOTED, writer=PROMOTED, timeline=2), False, Fate.ABORT),
    ],
)
def test_the_primarys_connections(after: Topology, connecting: bool, expected: Fate) -> None:
    assert fate(BEFORE, after, A, 0, connecting=connecting) is expected


def test_a_replica_that_leaves_its_name_finishes_its_reads() -> None:
    after = _after(PRIMARY, writer=PRIMARY)
    assert fate(BEFORE, after, B, 0) is Fate.DRAIN
    assert fate(after, after, B, 0) is Fate.DRAIN


def test_an_older_generation_is_never_kept() -> None:
    reborn = replace(PRIMARY, generation=3)
    assert fate(BEFORE, _after(reborn, writer=reborn), A, 2) is Fate.DRAIN


def test_a_call_held_on_a_dead_server_is_cut_when_there_is_somewhere_to_go() -> None:
    """The name moves before the new address was ever probed: dead, gone, then replaced."""
    dead = _after(DEAD)
    assert fate(BEFORE, dead, A, 0) is Fate.HOLD
    unknown = EndpointView(B)
    moved = _after(unknown)
    assert fate(dead, moved, A, 0, held=True) is Fate.HOLD
    assert fate(dead, moved, A, 0) is Fate.HOLD
    replaced = _after(PROMOTED, writer=PROMOTED, timeline=2)
    assert fate(moved, replaced, A, 0, held=True) is Fate.ABORT


def test_behind_one_address_an_outlived_primary_is_cut_with_whom_nothing_is_lost() -> None:
    """Sessions that may be cut at any time (`connecting`) are judged by their own server too."""
    group = replace(PRIMARY, group=True, timeline=2)
    after = _after(group, writer=group, timeline=2)
    old = Observation(Role.PRIMARY, timeline=1)
    for connecting in (False, True):
        assert fate(BEFORE, after, A, 0, connecting=connecting, seen=old) is Fate.ABORT
        assert fate(BEFORE, after, A, 0, connecting=connecting) is Fate.KEEP


def test_the_phases_are_as_the_header_says() -> None:
    header = (drain.__doc__ or "").partition("phase ")[2].partition("\n\n")[0].splitlines()
    columns = header[0].split()
    for line in header[1:]:
        name, *there = line.split()
        here = Phase(name)
        ends = {"made": here.made()} | {end.name.lower(): here.under(end) for end in Fate}
        assert [ends[column].value for column in columns] == there
    assert {line.split()[0] for line in header[1:]} == {phase.value for phase in Phase}
