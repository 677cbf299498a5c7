"""A cluster in virtual time: the monitor's loop around the pure core, and nothing else.

`Network` says after how many seconds (None: never) a probe is answered and with what; the
simulation drives `due` and `step` as the monitor does, at simulated moments.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from resilient.core.health import MAX_OUTSTANDING, ProbeConfig
from resilient.core.model import Endpoint, FailureKind, Health, Observation, Role
from resilient.core.schedule import due, hold_s
from resilient.core.topology import (
    Event,
    Evidence,
    Observed,
    ProbeFailed,
    ProbeSent,
    Resolved,
    State,
    Tick,
    step,
)

RTT_S = 0.005
Reply = tuple[float, Observation | FailureKind] | None
Network = Callable[[Endpoint, float], Reply]


def endpoint(name: str, number: int = 1) -> Endpoint:
    return Endpoint(f"{name}.test", f"10.0.{number}.10", 5432)


A, B, C = (endpoint(name, number) for number, name in enumerate("abc", 1))


def primary(timeline: int = 1, incarnation: str = "i-a", system_id: str = "s1") -> Observation:
    return Observation(Role.PRIMARY, system_id, timeline, incarnation)


def replica(
    timeline: int | None = 1,
    incarnation: str = "i-b",
    system_id: str = "s1",
    lag_s: float | None = 0.0,
) -> Observation:
    return Observation(Role.REPLICA, system_id, timeline, incarnation, lag_s=lag_s)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A probe that was sent."""

    at: float
    endpoint: Endpoint


class Simulation:
    """Runs one cluster.  `deaths`: when an endpoint was declared dead, `suspicions`: when one came
    under suspicion.  In the `pauses` (from, to) the process doesn't run; after one it looks at its
    timer before it reads what has come."""

    def __init__(
        self,
        network: Network,
        endpoints: tuple[Endpoint, ...],
        seed: int = 0,
        start: float = 100.0,
        pauses: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.network = network
        #: servers keep an answer back, and look whether they were promoted this often; 0: none does
        self.step_s = 0.0
        self.pauses = pauses
        self.rng = random.Random(seed)
        self.now = start
        self.state = State(ProbeConfig())
        self.sent: list[Dispatch] = []
        self.deaths: list[tuple[float, Endpoint]] = []
        self.suspicions: list[tuple[float, Endpoint]] = []
        self._replies: list[tuple[float, int, Event]] = []
        self._under_way: dict[Endpoint, list[int]] = {}
        self._probe = 0
        self.most_outstanding = 0
        for item in endpoints:
            self.apply(Resolved(item.name, (item,)))

    def apply(self, event: Event) -> None:
        old = self.state.topology
        self.state = step(self.state, event, self.now)
        for view in self.state.topology.endpoints:
            before = old.find(view.endpoint)
            if before is not None and before.health is view.health:
                continue
            if view.health is Health.DEAD:
                self.deaths.append((self.now, view.endpoint))
            elif view.health is Health.SUSPECT:
                self.suspicions.append((self.now, view.endpoint))

    def run_until(self, end: float) -> None:
        while True:
            probes, again = due(self.state, self.now, self.rng.random())
            if probes:
                self._tick(probes)
                continue
            arrival = self._replies[0][0] if self._replies else end
            planned = min(again, arrival)
            moment = next((to for at, to in self.pauses if at <= planned < to), planned)
            if moment >= end:
                self.now = end
                return
            self.now = moment
            if arrival <= moment and (again > moment or moment == planned):
                self._deliver()
            else:
                self._tick(None, moment - again)

    def _tick(self, probes: list[Endpoint] | None, late_s: float = 0.0) -> None:
        self.apply(Tick(late_s))
        if probes is None:
            probes, _ = due(self.state, self.now, self.rng.random())
        for item in probes:
            self._send(item)

    def _deliver(self) -> None:
        _, number, event = heapq.heappop(self._replies)
        assert isinstance(event, Observed | ProbeFailed)
        under_way = self._under_way[event.endpoint]
        if number in under_way:  # else it was cancelled to make room
            under_way.remove(number)
            self.apply(event)

    def _send(self, item: Endpoint) -> None:
        self._probe += 1
        self.sent.append(Dispatch(self.now, item))
        self.apply(ProbeSent(item, self._probe))
        under_way = self._under_way.setdefault(item, [])
        while len(under_way) >= MAX_OUTSTANDING:
            under_way.pop(0)
        under_way.append(self._probe)
        self.most_outstanding = max(self.most_outstanding, len(under_way))
        reply, held_s = self._asked(item)
        if reply is None:
            return
        delay, what = reply
        event: Event
        if isinstance(what, FailureKind):
            event = ProbeFailed(item, self._probe, what)
        else:
            event = Observed(item, what, self._probe, held_s)
        heapq.heappush(self._replies, (self.now + delay, self._probe, event))

    def _asked(self, item: Endpoint) -> tuple[Reply, float]:
        """The reply, and for how long it was kept back: its delay includes that."""
        keep_s = hold_s(self.state, item) if self.step_s else -1.0
        held_s = 0.0
        while True:
            reply = self.network(item, self.now + held_s)
            if reply is None or isinstance(reply[1], FailureKind):
                return reply, 0.0
            delay, what = reply
            if what.role is not Role.REPLICA or held_s > keep_s - self.step_s:
                return (delay + held_s, what), held_s
            held_s += self.step_s

    def evidence(self, item: Endpoint, kind: FailureKind) -> None:
        view = self.state.topology.find(item)
        assert view is not None
        self.apply(Evidence(item, kind, view.generation))
