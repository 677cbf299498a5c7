"""A failover of an HTTP origin, told from its events."""

from __future__ import annotations

from resilient.core.model import Endpoint
from resilient.core.upstream import UpstreamConfig, UpstreamSnapshot, step
from resilient.core.upstream_events import (
    Answered,
    EndpointAdded,
    EndpointBack,
    EndpointEjected,
    EndpointLost,
    EndpointRetired,
    Lost,
    Succeeded,
    Trouble,
)
from resilient.core.upstream_failover import answered, follow
from resilient.core.upstream_select import fit, improved, ready

A, B, C = (Endpoint("svc.test", f"10.0.{n}.1", 80) for n in (1, 2, 3))


def test_lost_then_flowing_elsewhere() -> None:
    failover, steps = follow(
        None, [EndpointLost(5.0, A, "az1", "connect: no", "refused")], {A: 4.0, B: 5.0}
    )
    assert [(one.name, one.at_s) for one in steps] == [("suspected", 4.0), ("lost", 5.0)]
    assert failover is not None
    after, over, steps = answered(failover, B, "az2", True, 5.5)
    assert after is None
    assert [one.name for one in steps] == ["reconnected"]
    assert over is not None
    assert over.new is not None
    assert (over.old.endpoint, over.old.zone) == (A, "az1")
    assert (over.new.endpoint, over.new.zone) == (B, "az2")
    assert (over.started_at, over.ended_at, over.cause) == (4.0, 5.5, "refused")
    assert over.phases() == {"detect_s": 1.0, "reconnect_s": 0.5}


def test_what_nobody_used_leaves_without_a_story() -> None:
    assert follow(None, [EndpointLost(5.0, A)], {B: 1.0}) == (None, ())
    assert follow(None, [EndpointAdded(5.0, A), EndpointBack(5.0, B)], {A: 1.0}) == (None, ())


def test_the_names_way_is_part_of_the_story() -> None:
    events = [EndpointRetired(5.0, A, None, "gone"), EndpointAdded(5.0, B)]
    failover, steps = follow(None, events, {A: 7.0})
    assert [one.name for one in steps] == ["suspected", "retired", "resolved"]
    assert [one.at_s for one in steps] == [5.0, 5.0, 5.0]
    failover, steps = follow(failover, [EndpointEjected(6.0, B, None, "HTTP 500")], {B: 6.0})
    assert [one.name for one in steps] == ["ejected"]
    assert failover is not None
    assert failover.old.endpoint == A


def test_one_that_comes_back_is_no_failover() -> None:
    failover, _ = follow(None, [EndpointLost(5.0, A)], {A: 5.0})
    assert failover is not None
    assert follow(failover, [EndpointBack(6.0, B)], {}) == (failover, ())
    after, steps = follow(failover, [EndpointBack(6.0, A)], {})
    assert after is None
    assert [one.name for one in steps] == ["recovered"]
    assert answered(failover, A, None, False, 6.0) == (failover, None, ())  # finishes what it had
    after, over, steps = answered(failover, A, None, True, 6.0)
    assert (after, over) == (None, None)
    assert [one.name for one in steps] == ["recovered"]


def snapshot(*addresses: str) -> UpstreamSnapshot:
    zones = tuple(f"az{n}" for n, _ in enumerate(addresses, 1))
    after, _ = step(
        UpstreamSnapshot("svc.test", 80), Answered(addresses, zones), UpstreamConfig(), 0.0
    )
    return after


def test_the_zone_is_a_preference_of_first_attempts_only() -> None:
    both = snapshot(A.address, B.address)
    assert [view.endpoint for view in ready(both, "az1")] == [A]
    assert [view.endpoint for view in fit(both)] == [A, B]


def test_what_wakes_those_who_had_nobody() -> None:
    config = UpstreamConfig()
    one = snapshot(A.address)
    assert improved(UpstreamSnapshot("svc.test", 80), one)
    assert not improved(one, one)
    lost, _ = step(one, Lost(A, Trouble.REFUSED), config, 1.0)
    assert not improved(one, lost)
    again, _ = step(lost, Lost(A, Trouble.REFUSED), config, 2.0)
    assert not improved(lost, again)
    back, _ = step(again, Succeeded(A, 3.0), config, 3.0)
    assert improved(again, back)
    moved, _ = step(again, Answered((B.address,)), config, 3.0)
    assert improved(again, moved)
    gone, _ = step(moved, Answered((B.address,)), config, 4.0)
    assert not improved(moved, gone)
    returned, _ = step(moved, Answered((A.address,)), config, 5.0)
    assert improved(moved, returned)
