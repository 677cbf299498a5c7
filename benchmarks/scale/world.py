"""Virtual time, and servers in it.

    dial ── half a round trip ──► accept queue (1 / accept_rate_s each) ── handshake ──► connected
    probe ── half a round trip ──► 1 / answer_rate_s each ── half a round trip ──► answered

A server that is dead refuses at once; one that is full refuses after the handshake (53300).

    a name ── the zone's own server, or one of the caches before it ──► where it points, TTL
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from resilient.core.model import Endpoint, FailureKind, Health, Observation, Role, Topology

__all__ = ["Machine", "Params", "Server", "World", "possible"]

#: round trips of a handshake after the accept (start-up, authentication, ready)
HANDSHAKES = 2
SYSTEM = "s1"


@dataclass(frozen=True, slots=True)
class Params:
    """Times in seconds, rates per second.

    `caches`: resolving caches that the clients share evenly; 0: they ask the zone's own server.
    `cores` and the costs (processor time, both ends) describe one machine that clients and
    servers share, as in the real measurement; 0 cores: everybody has a machine of its own.
    """

    clients: int
    size: int = 4
    accept_rate_s: float = 500.0
    answer_rate_s: float = 20_000.0
    max_connections: int = 1_000_000
    rtt_near_s: float = 0.0005
    rtt_far_s: float = 0.0015
    ops_rate_s: float = 2.0
    promote_after_s: float = 1.0
    dns_after_s: float = 0.5
    ttl_s: float = 0.0
    caches: int = 0
    cores: int = 0
    probe_cost_s: float = 0.0
    op_cost_s: float = 0.0
    dial_cost_s: float = 0.0
    seed: int = 1


class Machine:
    """Cores that work is queued for, in order of arrival."""

    def __init__(self, cores: int) -> None:
        self._free_at = [float("-inf")] * cores

    def work(self, now: float, cost_s: float) -> float:
        """When it will be done."""
        if not self._free_at or cost_s <= 0:
            return now
        start = max(now, heapq.heappop(self._free_at))
        heapq.heappush(self._free_at, start + cost_s)
        return start + cost_s


@dataclass(slots=True)
class Server:
    """One database server.  Counts by whole tenths of a second since the start."""

    endpoint: Endpoint
    zone: int
    role: Role
    clients: int
    timeline: int = 1
    alive: bool = True
    open: int = 0
    sides: int = 0
    sides_peak: int = 0
    free_at: float = float("-inf")
    answers_at: float = float("-inf")
    dials: Counter[int] = field(default_factory=Counter)
    accepted: Counter[int] = field(default_factory=Counter)
    probes: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    full: int = 0

    def side(self, left: int) -> None:
        """A dedicated connection of a monitor's came (0), or went (-1)."""
        self.open += left
        self.sides += left or 1
        self.sides_peak = max(self.sides_peak, self.sides)

    def observation(self) -> Observation:
        """What it says of itself."""
        lag_s = 0.0 if self.role is Role.REPLICA else None
        told = (self.role, SYSTEM, self.timeline, f"i-{self.zone}")
        return Observation(*told, lag_s=lag_s, clients=self.clients)


@dataclass(slots=True)
class NameCache:
    """A resolving cache's copy of the one name."""

    target: Server | None = None
    ends_at: float = float("-inf")


class World:
    """Clock, servers, and what happens when."""

    def __init__(self, params: Params, start_s: float) -> None:
        self.params = params
        self.now = start_s
        self.rng = random.Random(params.seed)
        self.machine = Machine(params.cores)
        self.servers = tuple(
            Server(
                Endpoint(f"{name}.test", f"10.0.{zone + 1}.10", 5432),
                zone,
                Role.PRIMARY if zone == 0 else Role.REPLICA,
                params.clients,
            )
            for zone, name in enumerate("abc")
        )
        self.at_endpoint = {server.endpoint: server for server in self.servers}
        #: what the one name points to
        self.named = self.servers[0]
        self.name_caches = [NameCache() for _ in range(params.caches)]
        #: questions of all clients, those of them while nobody could write, and what of all came
        #: to the zone's own server
        self.queries: Counter[int] = Counter()
        self.queries_lost: Counter[int] = Counter()
        self.queries_own: Counter[int] = Counter()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call it then."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._numbers), call))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let time pass."""
        heap, count = self._heap, 0
        while heap and heap[0][0] <= until:
            self.now, _, call = heapq.heappop(heap)
            call()
            count += 1
            if count % 1024 == 0 and done():
                return
        self.now = min(until, self.now) if heap else until

    def bin(self) -> int:
        """The tenth of a second that it is."""
        return int(self.now * 10)

    def rtt_s(self, zone: int, server: Server) -> float:
        """Between a client in the zone and the server, with some noise."""
        near = zone == server.zone
        base = self.params.rtt_near_s if near else self.params.rtt_far_s
        return base * (0.8 + 0.4 * self.rng.random())

    def ask_name(self, number: int, questions: int, lost: bool) -> tuple[Server, int]:
        """Where the name points for this client, and the TTL that it is told."""
        tenth, ttl_s = self.bin(), int(self.params.ttl_s)
        self.queries[tenth] += questions
        if lost:
            self.queries_lost[tenth] += questions
        if not self.name_caches:
            self.queries_own[tenth] += questions
            return self.named, ttl_s
        cache = self.name_caches[number % len(self.name_caches)]
        if self.now >= cache.ends_at:
            self.queries_own[tenth] += questions
            cache.target, cache.ends_at = self.named, self.now + ttl_s
        assert cache.target is not None
        return cache.target, int(cache.ends_at - self.now)

    # -- what a client asks for; the answer comes later

    def dial(self, zone: int, server: Server, answer: Callable[[FailureKind | None], None]) -> None:
        """`answer(None)`: connected; the caller must count it in `server.open`."""
        params, rtt_s = self.params, self.rtt_s(zone, server)
        server.dials[self.bin()] += 1
        # Who refuses has no session to make.
        cost_s = params.dial_cost_s if server.alive else params.probe_cost_s
        arrives = self.machine.work(self.now, cost_s) + rtt_s / 2
        if not server.alive:
            server.refused += 1
            self.at(arrives + rtt_s / 2, lambda: answer(FailureKind.REFUSED))
            return
        server.free_at = max(server.free_at, arrives) + 1 / params.accept_rate_s
        ready = server.free_at + rtt_s * (HANDSHAKES + 0.5)
        self.at(ready, lambda: answer(self._welcome(server)))

    def _welcome(self, server: Server) -> FailureKind | None:
        if not server.alive:
            return FailureKind.REFUSED
        if server.open >= self.params.max_connections:
            server.full += 1
            return FailureKind.CROWDED
        server.open += 1
        server.accepted[self.bin()] += 1
        return None

    def probe(
        self, zone: int, server: Server, answer: Callable[[Observation | FailureKind], None]
    ) -> None:
        """One question on a connection that is there; a dead server's kernel refuses."""
        server.probes[self.bin()] += 1
        params, rtt_s = self.params, self.rtt_s(zone, server)
        arrives = self.machine.work(self.now, params.probe_cost_s) + rtt_s / 2
        server.answers_at = max(server.answers_at, arrives) + 1 / params.answer_rate_s
        done = server.answers_at + rtt_s / 2
        self.at(done, lambda: answer(server.observation() if server.alive else FailureKind.LOST))

    # -- the failover

    def crash(self) -> None:
        """The primary is gone, with all its connections."""
        self.servers[0].alive = False
        self.servers[0].open = self.servers[0].sides = 0

    def promote(self) -> None:
        """The second one takes writes; the third follows."""
        self.servers[1].role, self.servers[1].timeline = Role.PRIMARY, 2
        self.servers[2].timeline = 2


def possible(topology: Topology) -> bool:
    """As the pool's shell: is there anybody whom a worker that gave up might dial?"""
    return topology.writer is not None or any(
        view.role is Role.UNKNOWN and view.health in (Health.UP, Health.UNKNOWN)
        for view in topology.endpoints
    )
