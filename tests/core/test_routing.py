"""The scenarios of `routing.yaml` on the pure core.

Adapter: hosts → candidates (a refused or silent host is dead), request → `Request`; what
unfolds in time runs through `core.topology`.  What needs I/O says so.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_sim import A, B, endpoint, primary, replica
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.model import Endpoint, EndpointView, FailureKind, Health, Role, Topology
from resilient.core.routing import (
    Balance,
    Candidate,
    Request,
    Search,
    Target,
    choose,
    explain,
    fitting,
    read_request,
)
from resilient.core.topology import (
    Evidence,
    Observed,
    ProbeFailed,
    ProbeSent,
    Resolved,
    State,
    step,
)

FILE = Path(__file__).with_name("routing.yaml")
SCENARIOS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["scenarios"]
NEEDS_IO = {
    "R21": "a connect time-out is the shell's; in the core a silent host is a dead one",
}
ROLES = {"primary": Role.PRIMARY, "standby": Role.REPLICA}


def view_of(host: dict[str, Any], number: int) -> EndpointView:
    state = host.get("state", "up")
    health, role = Health.UP, ROLES[host["role"]]
    if state in ("refused", "silent"):
        health, role = Health.DEAD, Role.UNKNOWN
    elif state == "unknown":
        health, role = Health.UNKNOWN, Role.UNKNOWN
    return EndpointView(
        endpoint(host["name"], number),
        zone=host.get("zone"),
        role=role,
        health=health,
        lag_s=host.get("lag_s"),
        read_only=host.get("read_only", False),
        reason=state if health is Health.DEAD else "",
    )


def candidates(hosts: list[dict[str, Any]]) -> list[Candidate]:
    return [
        Candidate(
            view_of(host, number),
            in_flight=host.get("in_flight", 0),
            rtt_s=host["rtt_ms"] / 1000 if "rtt_ms" in host else None,
            avoid=host.get("avoid", False),
            tags=tuple(sorted(host.get("tags", {}).items())),
        )
        for number, host in enumerate(hosts, 1)
    ]


def request_of(wanted: dict[str, Any]) -> Request:
    window_ms = wanted.get("window_ms")
    zones = wanted.get("zones", [None])
    return Request(
        Target(wanted["target"]),
        tuple(tuple(sorted(z.items())) if isinstance(z, dict) else z for z in zones),
        max_lag_s=wanted.get("max_lag_s"),
        window_s=None if window_ms is None else window_ms / 1000,
        balance=Balance(wanted.get("balance", "order")),
    )


def draw(found: list[Candidate], request: Request, times: int) -> Counter[str | None]:
    rng = random.Random(1)
    chosen = (choose(found, request, rng) for _ in range(times))
    return Counter(item.view.name.removesuffix(".test") if item else None for item in chosen)


@pytest.mark.parametrize(
    "scenario", [item for item in SCENARIOS if "steps" not in item], ids=lambda item: item["id"]
)
def test_scenario(scenario: dict[str, Any]) -> None:
    if scenario["id"] in NEEDS_IO:
        pytest.skip(NEEDS_IO[scenario["id"]])
    found, request = candidates(scenario["hosts"]), request_of(scenario["request"])
    expect = scenario["expect"]
    counts = draw(found, request, expect.get("draws", 40))
    if "error" in expect:
        assert set(counts) == {None}
        topology = Topology(1, tuple(item.view for item in found))
        reasons = explain(topology, request)
        assert len(reasons) == len(found)
        assert all(reasons.values())
    elif "host" in expect:
        assert set(counts) == {expect["host"]}
    elif "any_of" in expect:
        assert set(counts) == set(expect["any_of"])
    else:
        total = counts.total()
        shares = {name: counts[name] / total for name in expect["frequencies"]}
        assert set(counts) == set(expect["frequencies"])
        assert shares == pytest.approx(expect["frequencies"], abs=expect["tolerance"])


def start() -> State:
    state = State()
    for event in (
        Resolved("a", (A,)),
        Resolved("b", (B,)),
        Observed(A, primary()),
        Observed(B, replica()),
    ):
        state = step(state, event, 1.0)
    return state


def look(state: State, item: Endpoint) -> EndpointView:
    view = state.topology.find(item)
    assert view is not None
    return view


def take(state: State, request: Request) -> Endpoint | None:
    found = [Candidate(view) for view in state.topology.endpoints]
    chosen = choose(found, request, random.Random(1))
    return chosen.view.endpoint if chosen else None


def r51() -> None:
    before = start()
    evidence = Evidence(A, FailureKind.SHUTDOWN, look(before, A).generation)
    state = step(before, evidence, 2.0)
    assert look(state, A).health is Health.SUSPECT
    state = step(state, ProbeFailed(A, 1, FailureKind.SHUTDOWN), 2.01)
    # the idle connections of a are ruled out, those of b are not
    assert not state.topology.live(A, look(before, A).generation)
    assert state.topology.live(B, look(before, B).generation)
    assert look(state, B).role is Role.REPLICA
    assert state.topology.writer is None


def r53() -> None:
    state = step(start(), Evidence(A, FailureKind.REJECTED, 0), 2.0)
    state = step(state, ProbeFailed(A, 1, FailureKind.REJECTED, "28P01"), 2.0)
    assert look(state, A).health is Health.UP


def r55() -> None:
    before = start()
    old = look(before, A).generation
    state = step(before, ProbeFailed(A, 1, FailureKind.REFUSED), 2.0)
    state = step(state, Observed(A, primary(1, "restarted")), 3.0)
    assert step(state, Evidence(A, FailureKind.LOST, old), 4.0).topology == state.topology
    assert look(state, A).role is Role.PRIMARY


def r57() -> None:
    state = step(start(), ProbeSent(B, 7), 2.0)
    state = step(state, Resolved("b", ()), 2.1)
    state = step(state, Observed(B, replica(), 7), 2.2)
    assert take(state, Request(Target.STANDBY)) is None


def r59() -> None:
    state = step(start(), Observed(B, replica(lag_s=0.0)), 3600.0)
    assert take(state, Request(Target.STANDBY, max_lag_s=5)) == B


@pytest.mark.parametrize("steps", [r51, r53, r55, r57, r59], ids=lambda steps: steps.__name__)
def test_scenario_in_time(steps: Callable[[], None]) -> None:
    steps()


def test_every_scenario_in_time_is_played() -> None:
    in_time = {item["id"] for item in SCENARIOS if "steps" in item}
    assert in_time == {"R51", "R53", "R55", "R57", "R59"}


# -- beyond the scenarios

VIEWS = st.builds(
    EndpointView,
    endpoint=st.sampled_from([endpoint(name, n) for n, name in enumerate("abcdef", 1)]),
    zone=st.sampled_from([None, "az1", "az2"]),
    role=st.sampled_from(Role),
    health=st.sampled_from(Health),
    lag_s=st.one_of(st.none(), st.floats(0, 100)),
    fenced=st.booleans(),
)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        VIEWS,
        in_flight=st.integers(0, 9),
        rtt_s=st.one_of(st.none(), st.floats(0, 1)),
        avoid=st.booleans(),
    ),
    unique_by=lambda item: item.view.endpoint,
)
REQUESTS = st.builds(
    Request,
    target=st.sampled_from(Target),
    zones=st.sampled_from([(None,), ("az1",), ("az1", None), ("az2", "az1")]),
    max_lag_s=st.one_of(st.none(), st.floats(0, 100)),
    window_s=st.one_of(st.none(), st.floats(0, 1)),
    balance=st.sampled_from(Balance),
)


@given(CANDIDATES, REQUESTS, st.randoms(use_true_random=False))
def test_what_is_chosen_fits(found: list[Candidate], request: Request, rng: random.Random) -> None:
    chosen = choose(found, request, rng)
    left = fitting(found, request)
    assert set(left) <= set(found)
    assert (chosen is None) == (not left)
    if chosen is None:
        return
    assert chosen in left
    view = chosen.view
    assert view.usable
    assert view.role is not Role.UNKNOWN
    if request.max_lag_s is not None and view.role is Role.REPLICA:
        assert view.lag_s is not None
        assert view.lag_s <= request.max_lag_s
    if None not in request.zones:
        assert view.zone in request.zones
    if request.target is Target.READ_WRITE:
        assert view.role is Role.PRIMARY


@given(CANDIDATES, st.sampled_from(["az1", None]))
def test_reads_take_the_primary_last(found: list[Candidate], zone: str | None) -> None:
    chosen = choose(found, read_request(zone, None), random.Random(1))
    usable = [item for item in found if item.view.usable]
    replicas = [item for item in usable if item.view.role is Role.REPLICA]
    primaries = [item for item in usable if item.view.role is Role.PRIMARY]
    if replicas:
        assert chosen in replicas
    elif primaries:
        assert chosen in primaries
    else:
        assert chosen is None


def test_an_excluded_endpoint_is_not_taken_again() -> None:
    state = start()
    request = read_request(None, None, frozenset({B}))
    assert take(state, request) == A
    assert explain(state.topology, request)[str(B)] == "failed in this call"


def test_a_search_comes_back_in_rounds_that_double() -> None:
    search = Search(frozenset({"avoided"}), 0.5)
    assert search.patience_s(30.0) == 30.0  # nobody else to look at
    search.passes("full")
    assert search.passed == {"avoided", "full"}
    assert search.patience_s(30.0) == 0.5
    assert search.patience_s(0.1) == 0.1
    search.again()
    assert search.passed == {"avoided"}
    assert Search(frozenset(), 0.5, frozenset({"late"})).passed == {"late"}
    search.passes("full")
    assert search.patience_s(30.0) == 1.0
