"""The state machine of an origin's endpoints: observations → what is published."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.model import Endpoint, Health
from resilient.core.upstream import UpstreamConfig, UpstreamSnapshot, step
from resilient.core.upstream_events import (
    Answered,
    EndpointAdded,
    EndpointBack,
    EndpointEjected,
    EndpointLost,
    EndpointRetired,
    Failed,
    Gone,
    Input,
    Lost,
    Probed,
    Succeeded,
    TrialStarted,
    Trouble,
)
from resilient.core.upstream_select import (
    due,
    least_of_two,
    next_dial,
    ramp,
    ranked,
    ready,
    ready_until,
)

A, B, C = (Endpoint("svc", f"10.0.0.{n}", 80) for n in (1, 2, 3))
CONFIG = UpstreamConfig()
GONE = Gone()


class World:
    """A snapshot, and the names of what happened."""

    def __init__(self, *endpoints: Endpoint, config: UpstreamConfig = CONFIG) -> None:
        self.config = config
        self.told: list[str] = []
        self.snapshot = UpstreamSnapshot("svc", 80)
        if endpoints:
            self(0.0, Answered(tuple(endpoint.address for endpoint in endpoints)))
            self.told.clear()

    def __call__(self, now: float, *events: Input) -> World:
        for event in events:
            self.snapshot, told = step(self.snapshot, event, self.config, now)
            self.told += [f"{type(item).__name__} {item.endpoint.address[-1]}" for item in told]
        return self

    def ready(self, now: float, zone: str | None = None) -> list[Endpoint]:
        return [view.endpoint for view in ready(self.snapshot, zone)]

    def view(self, endpoint: Endpoint) -> Any:
        view = self.snapshot.find(endpoint)
        assert view is not None
        return view


def refused(endpoint: Endpoint) -> Lost:
    return Lost(endpoint, Trouble.REFUSED)


def silent(endpoint: Endpoint) -> Lost:
    return Lost(endpoint, Trouble.SILENT)


def test_an_answer_makes_endpoints() -> None:
    world = World()(0.0, Answered((A.address, B.address), ("az1", "az2")))
    assert world.ready(0.0) == [A, B]
    assert world.told == ["EndpointAdded 1", "EndpointAdded 2"]
    assert world.view(A).zone == "az1"


def test_the_same_answer_changes_nothing() -> None:
    world = World(A, B)
    before = world.snapshot
    assert world(5.0, Answered((A.address, B.address))).snapshot is before


def test_refused_is_out_at_once_and_soon_due() -> None:
    world = World(A, B)(1.0, refused(A))
    assert world.ready(1.0) == [B]
    assert world.told == ["EndpointLost 1"]
    assert [view.endpoint for view in due(world.snapshot, 2.0)] == [A]
    assert world.ready(2.0) == [B]  # due, not ready: one trial first


def test_each_refusal_in_a_row_doubles_the_pause() -> None:
    world = World(A, B)
    pauses, now = [], 0.0
    for _ in range(7):
        world(now, refused(A))
        pauses.append(world.view(A).ejected_until_s - now)
        now = world.view(A).ejected_until_s
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert world.told == ["EndpointLost 1"]


def test_silence_is_out_for_eject_s_times_count() -> None:
    world = World(A, B)(0.0, silent(A))
    assert world.view(A).ejected_until_s == 30.0
    world(30.0, TrialStarted(A))
    assert not due(world.snapshot, 30.5)
    world(30.5, silent(A))
    assert world.view(A).ejected_until_s == 30.5 + 60.0


def test_a_trial_that_is_answered_brings_it_back() -> None:
    world = World(A, B)(0.0, silent(A))(30.0, TrialStarted(A), Succeeded(A, 30.0))
    assert world.ready(30.0) == [A, B]
    assert world.told == ["EndpointLost 1", "EndpointBack 1"]


def test_an_answer_to_an_older_request_proves_nothing() -> None:
    world = World(A, B)(1.0, silent(A))(1.5, Succeeded(A, 0.5))
    assert world.ready(1.5) == [B]


@pytest.mark.parametrize("lost", [refused, silent])
def test_the_last_one_stays(lost: Any) -> None:
    world = World(A, B)(0.0, lost(A), lost(B))
    assert world.ready(0.0) == [B]
    assert world.view(B).health is Health.SUSPECT


def test_failures_in_a_row_eject() -> None:
    world = World(A, B)(0.0, *[Failed(A, "HTTP 500")] * 4, Succeeded(A, 0.0))
    assert world(0.0, *[Failed(A, "HTTP 500")] * 4).ready(0.0) == [A, B]
    assert world(0.0, Failed(A, "HTTP 500")).ready(0.0) == [B]
    assert world.told == ["EndpointEjected 1"]


def test_at_least_half_stays_when_all_fail() -> None:
    world = World(A, B, C)
    for endpoint in (A, B, C):
        world(0.0, *[Failed(endpoint, "HTTP 500")] * 5)
    assert len(world.ready(0.0)) == 2


def test_a_failed_trial_stays_out() -> None:
    world = World(A, B)(0.0, *[Failed(A)] * 5)(30.0, TrialStarted(A), Failed(A))
    assert world.view(A).ejected_until_s == 30.0 + 60.0


def test_calm_forgives() -> None:
    world = World(A, B)(0.0, silent(A))(30.0, Succeeded(A, 30.0))
    world(1000.0, silent(A))
    assert world.view(A).ejected_until_s == 1030.0


def test_probes_take_out_and_bring_back() -> None:
    config = UpstreamConfig(active=True, failure_threshold=2, success_threshold=2)
    world = World(A, B, config=config)(0.0, Probed(A, False))
    assert world.ready(0.0) == [A, B]
    assert world(1.0, Probed(A, False, "HTTP 503")).ready(1.0) == [B]
    assert world.view(A).ejected_until_s == inf
    assert world(2.0, Probed(A, True)).ready(2.0) == [B]
    assert world(3.0, Probed(A, True)).ready(3.0) == [A, B]
    assert world.told == ["EndpointLost 1", "EndpointBack 1"]


def test_a_probe_that_succeeds_makes_known() -> None:
    world = World(A, B, config=UpstreamConfig(active=True))(0.0, Probed(A, True))
    assert world.view(A).health is Health.UP
    before = world.snapshot
    assert world(1.0, Probed(A, True)).snapshot is before
    assert world(2.0, GONE).ready(2.0) == [A]


def test_strict_retires_at_once_and_takes_back() -> None:
    world = World(A)(1.0, Answered((B.address,)))
    assert world.ready(1.0) == [B]
    assert world.told == ["EndpointRetired 1", "EndpointAdded 2"]
    assert world(2.0, Answered((A.address, B.address))).ready(2.0) == [A, B]


def test_a_moved_alias_is_strict() -> None:
    world = World()(0.0, Answered((A.address, B.address), canonical="old"))
    assert world(1.0, Answered((B.address, C.address), canonical="new")).ready(1.0) == [B, C]


def test_rotating_keeps_for_several_refreshes() -> None:
    world = World(A, B, C)
    for now in (1.0, 2.0):
        assert world(now, Answered((A.address, B.address))).ready(now) == [A, B, C]
    assert world(3.0, Answered((A.address, B.address))).ready(3.0) == [A, B]


def test_rotating_drops_what_is_absent_and_out() -> None:
    world = World(A, B, C)(0.5, refused(C))(1.0, Answered((A.address, B.address)))
    assert world.view(C).retired
    assert world.told == ["EndpointLost 3", "EndpointRetired 3"]


def test_the_configured_mode_wins() -> None:
    world = World(A, B, C, config=UpstreamConfig(mode="strict"))
    assert world(1.0, Answered((A.address, B.address))).ready(1.0) == [A, B]
    world = World(A, B, config=UpstreamConfig(mode="rotating"))
    assert world(1.0, Answered((A.address,))).ready(1.0) == [A, B]


def test_a_name_that_is_gone_keeps_who_answers() -> None:
    world = World(A, B, C)(1.0, Succeeded(A, 1.0), Succeeded(B, 1.0), refused(B))
    assert world(2.0, GONE).ready(2.0) == [A]
    assert world.told == ["EndpointLost 2", "EndpointRetired 2", "EndpointRetired 3"]
    before = world.snapshot
    assert world(3.0, GONE).snapshot is before
    assert world(3.0, Failed(A), Succeeded(A, 3.0)).ready(3.0) == [A]
    assert world.snapshot.resolved


@pytest.mark.parametrize(
    "failure",
    [refused(A), silent(A), *[Lost(A, trouble) for trouble in Trouble]],
    ids=str,
)
def test_a_name_that_is_gone_loses_even_the_last_one(failure: Lost) -> None:
    world = World(A)(1.0, Succeeded(A, 1.0))(2.0, GONE)(3.0, failure)
    assert world.ready(3.0) == []
    assert not ranked(world.snapshot, None, 3.0)
    assert not world.snapshot.resolved
    # Nothing but DNS brings it back.
    world(4.0, Succeeded(A, 4.0), Probed(A, True), GONE)
    assert world.view(A).retired
    assert world(5.0, Answered((A.address,))).ready(5.0) == [A]
    assert world.snapshot.resolved
    assert not world.snapshot.gone


def test_a_name_that_is_gone_forgives_single_failures() -> None:
    world = World(A)(1.0, Succeeded(A, 1.0))(2.0, GONE)
    assert world(3.0, *[Failed(A, "slow")] * 4).ready(3.0) == [A]
    assert world(3.0, Failed(A)).ready(3.0) == []
    assert world.told == ["EndpointEjected 1", "EndpointRetired 1"]


def test_most_endpoints_stay_however_slow_they_are() -> None:
    world = World(A, B, C)
    for endpoint in (A, B, C):
        world(0.0, *[Failed(endpoint, "slow")] * 5)
    assert len(world.ready(0.0)) == 2


def test_dials_alternate_between_the_families() -> None:
    six = [Endpoint("svc", f"2001:db8::{n}", 80) for n in (1, 2)]
    world = World(A, B, C, *six)(0.0, refused(B))
    left = list(ranked(world.snapshot, None, 0.0))
    order, last = [], A
    while left:
        left = [view for view in left if view.endpoint != last]
        order.append(last)
        view = next_dial(tuple(left), last)
        last = view.endpoint if view is not None else last
    assert order == [A, six[0], C, six[1], B]


def test_the_family_that_dns_puts_first_is_preferred_while_one_of_it_works() -> None:
    six = Endpoint("svc", "2001:db8::1", 80)
    world = World(six, A, B)
    assert world.ready(0.0) == [six]
    assert world(0.0, refused(six)).ready(0.0) == [A, B]
    world(1.0, Succeeded(six, 1.0))
    assert world.ready(1.0) == [six]
    # The resolver changed its mind: there is no IPv6 route any more.
    assert world(2.0, Answered((A.address, B.address, six.address))).ready(2.0) == [A, B]


def test_the_zone_comes_before_the_family() -> None:
    six = Endpoint("svc", "2001:db8::1", 80)
    world = World()(0.0, Answered((six.address, A.address), ("az2", "az1")))
    assert world.ready(0.0, "az1") == [A]
    assert world.ready(0.0, "az2") == [six]


def test_a_family_that_is_out_gets_no_turn() -> None:
    six = Endpoint("svc", "2001:db8::1", 80)
    world = World(A, B, six)(0.0, refused(six))
    left = tuple(view for view in ranked(world.snapshot, None, 0.0) if view.endpoint != A)
    assert next_dial(left, A) is world.view(B)


def test_the_retired_are_forgotten_in_the_end() -> None:
    world = World(A)
    for now in range(10):
        world(float(now), Answered((B.address,)))
    assert [view.endpoint for view in world.snapshot.endpoints] == [B]


def test_zones() -> None:
    world = World()(0.0, Answered((A.address, B.address, C.address), ("az1", "az2", "az2")))
    assert world.ready(0.0, "az1") == [A]
    assert world.ready(0.0, "az9") == [A, B, C]
    assert world(0.0, refused(A)).ready(0.0, "az1") == [B, C]
    assert ranked(world.snapshot, "az1", 0.0)[-1].endpoint == A


def test_ready_until_is_the_next_moment_that_something_falls_due() -> None:
    world = World(A, B)
    assert ready_until(world.snapshot, 0.0) == inf
    assert ready_until(world(0.0, refused(A)).snapshot, 0.0) == 1.0


def test_two_draws_are_two_endpoints() -> None:
    load = {"a": 3, "b": 1, "c": 2}
    picked = {
        least_of_two("abc", load.__getitem__, (i / 9, j / 9)) for i in range(9) for j in range(9)
    }
    assert picked == {"b", "c"}  # the busiest one of three never wins
    assert least_of_two("a", load.__getitem__, (0.9, 0.9)) == "a"


EVENTS = st.one_of(
    st.builds(
        Answered,
        st.lists(st.sampled_from([A.address, B.address, C.address]), min_size=1, max_size=3)
        .map(set)
        .map(sorted)
        .map(tuple),
    ),
    st.builds(Lost, st.sampled_from([A, B, C]), st.sampled_from(Trouble)),
    st.builds(Failed, st.sampled_from([A, B, C]), st.just("")),
    st.builds(Succeeded, st.sampled_from([A, B, C]), st.just(inf)),
    st.builds(Probed, st.sampled_from([A, B, C]), st.booleans()),
    st.builds(TrialStarted, st.sampled_from([A, B, C])),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 40)), max_size=40), st.booleans())
def test_whatever_happens_somebody_can_be_asked(
    history: list[tuple[Input, float]], active: bool
) -> None:
    world, now = World(A, B, C, config=UpstreamConfig(active=active)), 0.0
    for event, pause_s in history:
        before = world.snapshot
        world(now, event)
        after = world.snapshot
        assert (after.version > before.version) is (after is not before)
        assert ranked(after, None, now)
        assert any(not view.retired for view in after.endpoints)
        now += pause_s


@given(st.lists(st.tuples(st.one_of(EVENTS, st.just(GONE)), st.floats(0, 40)), max_size=40))
def test_whoever_went_while_the_name_was_gone_stays_away(
    history: list[tuple[Input, float]],
) -> None:
    world, now = World(A, B, C), 0.0
    for event, pause_s in history:
        before = world.snapshot
        world(now, event)
        after = world.snapshot
        assert after.resolved is any(not view.retired for view in after.endpoints)
        if after.gone and before.gone:
            back = [view.endpoint for view in before.endpoints if view.retired]
            assert all(world.view(endpoint).retired for endpoint in back)
            assert all(not view.retired for view in ranked(after, None, now))
        if isinstance(event, Answered):
            assert not after.gone
        now += pause_s


def test_events_carry_what_people_ask_for() -> None:
    config = UpstreamConfig()
    snapshot, told = step(UpstreamSnapshot("svc", 80), Answered((A.address,), ("z",)), config, 3.0)
    assert told == (EndpointAdded(3.0, A, "z", ""),)
    for kind in (EndpointLost, EndpointEjected, EndpointBack, EndpointRetired):
        assert kind(1.0, A).reason == ""
    assert snapshot.reasons() == {"10.0.0.1:80 (svc)": "unknown"}


def test_panic_takes_back_who_only_answered_badly_never_the_dead() -> None:
    world = World(A, B, C)(0.0, *[Failed(A, "HTTP 500")] * 5)
    assert world.ready(0.0) == [B, C]
    world(1.0, Lost(B, Trouble.SILENT))
    assert world.ready(1.0) == [A, C]
    world(2.0, Lost(A, Trouble.REFUSED))
    assert world.ready(2.0) == [C]


def test_who_comes_back_gets_its_share_little_by_little() -> None:
    shares = [ramp(seconds) for seconds in (0.0, 1.0, 5.0, 10.0, 99.0)]
    assert shares == [0.1, 0.1, 0.5, 1.0, 1.0]
