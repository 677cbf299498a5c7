"""One client in virtual time: the monitor's loop and the pool's, around the real core.

What decides is `resilient.core`'s own: `topology.step` and `due`, `connect.connecting`,
`pace.Pacing`, `budget.RetryBudget`, `dns_cache.Cache`, `dns_pace`.  What is written here are the
shells, as thin as they can be: connections are counted, not made.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Generator
from functools import partial
from typing import Any

from resilient.core import connect, dns_pace, failover
from resilient.core.budget import RetryBudget, backoff_s
from resilient.core.chance import Chances
from resilient.core.dns import Found
from resilient.core.dns_cache import Cache, CacheLimits
from resilient.core.health import ProbeConfig
from resilient.core.model import Endpoint, FailureKind, Health, Observation, Topology
from resilient.core.pace import Pacing
from resilient.core.schedule import due
from resilient.core.topology import (
    Event,
    Evidence,
    Observed,
    ProbeFailed,
    ProbeSent,
    Resolved,
    State,
    Tick,
    key_of,
    step,
)

from .tally import ROUND_TRIPS, Operation, Tally
from .world import Server, World, possible

__all__ = ["Client"]

#: defaults of the settings that matter here
CONNECT_RATE_S, RETRY_BUDGET, RETRY_FLOOR_S, ATTEMPTS = 10.0, 0.2, 10.0, 3
DEADLINE_S, WORKERS, RETRY_DELAY_S = 30.0, 3, 1.0
#: a name that all is well with is asked for no oftener
MIN_PAUSE_S = 1.0
NAME = "db.test"
#: a dedicated connection that nobody needs closes after this long
SIDE_S = 5.0


class Client:
    """A process with one pool of `size` connections for writing, one warm on each replica."""

    def __init__(self, world: World, number: int, tally: Tally) -> None:
        self.world, self.zone, self.tally = world, number % len(world.servers), tally
        self.number = number
        self.rng = random.Random(number)
        self.state = State(ProbeConfig())
        self.ready_at: float | None = None
        self.full_at: float | None = None
        self._where: Server | None = None
        self._idle = self._lent = 0
        self._generation = 0
        self._warm: dict[Endpoint, int] = {}
        self._missing = 0
        self._busy_workers = 0
        self._retry_at: float | None = None
        self._waiting: deque[Operation] = deque()
        self._story = failover.Tracker()
        self._pacing = Pacing()
        self._chances = Chances()
        self._losses = 0
        self._sides: dict[Endpoint, float] = {}
        self._flying: Counter[Endpoint] = Counter()
        self._later: list[tuple[Server, int]] = []
        self._probe = self._timer = 0
        self._budget = RetryBudget.full(RETRY_BUDGET, RETRY_FLOOR_S, world.now)
        self._cache = Cache(CacheLimits(), self.rng.random)
        self._named: Endpoint | None = None
        self._heard: dns_pace.Heard | None = None
        #: since when nobody may write
        self._troubled_at: float | None = None
        self._crowd = 0
        self._first_at = self._asked_at = -math.inf
        self._name_timer = 0
        world.at(world.now + self.rng.random(), self._begin)

    # -- the beginning: all is well, everything is connected

    def _begin(self) -> None:
        world, params = self.world, self.world.params
        if params.ttl_s:
            servers = world.servers[:1]
            self._named = servers[0].endpoint
            self.apply(Resolved(NAME, (self._named,)))
            world.at(world.now + self.rng.random() * params.ttl_s, self._follow_name)
        else:
            servers = world.servers
            for server in servers:
                self.apply(Resolved(server.endpoint.name, (server.endpoint,)))
        for server in servers:
            self.apply(Observed(server.endpoint, server.observation()))
            if server is not world.servers[0]:
                self._warm[server.endpoint] = 1
                server.open += 1
        self._where, self._idle = world.servers[0], params.size
        self._where.open += params.size
        self._missing = 0
        self._tick()
        for _ in range(params.size):
            self._think()

    # -- the monitor

    def apply(self, event: Event) -> None:
        """Fold an event, act on a new snapshot, look when to look again."""
        self._fold(event)
        self._schedule()

    def _fold(self, event: Event) -> None:
        old = self.state.topology
        self.state = step(self.state, event, self.world.now)
        new = self.state.topology
        if new.version != old.version:
            self._published(old, new)

    def _schedule(self) -> None:
        probes, again = due(self.state, self.world.now, self.rng.random())
        self._timer += 1
        number = self._timer
        when = self.world.now if probes else again
        self.world.at(when, lambda: self._tick() if number == self._timer else None)

    def _tick(self) -> None:
        self._fold(Tick())
        probes, _ = due(self.state, self.world.now, self.rng.random())
        for endpoint in probes:
            self._probe += 1
            self.state = step(self.state, ProbeSent(endpoint, self._probe), self.world.now)
            self._ask(self.world.at_endpoint[endpoint], self._probe)
        self._schedule()

    def _ask(self, server: Server, probe: int) -> None:
        """Over an idle connection of the pool's, or a dedicated one that may have to be made."""
        where, now = server.endpoint, self.world.now
        view = self.state.topology.find(where)
        if view is not None and view.health is Health.UNKNOWN and self._flying[where]:
            self._later.append((server, probe))  # a pool's dial will tell
            return
        if self._flying[where] and not self._in_band(server):
            late_at = now + self.state.config.miss_s
            self.world.at(late_at, partial(self._ask_itself, server, probe))
            return
        self._ask_itself(server, probe)

    def _in_band(self, server: Server) -> bool:
        return bool(self._warm.get(server.endpoint)) or (server is self._where and self._idle > 0)

    def _ask_itself(self, server: Server, probe: int) -> None:
        where, now = server.endpoint, self.world.now
        known = self.state.get(where)
        if known is None or not known.detector.awaits(probe):
            return  # told meanwhile
        in_band = self._in_band(server)
        used_at = self._sides.get(where)
        if used_at is not None and (not server.alive or (in_band and now - used_at > SIDE_S)):
            del self._sides[where]
            server.side(-1)
            used_at = None
        if server.alive and (in_band or used_at is not None):
            if not in_band:
                self._sides[where] = now
            self.world.probe(self.zone, server, partial(self._answered, where, probe))
        else:
            self.world.dial(self.zone, server, partial(self._beside, server, probe))

    def _answered(self, endpoint: Endpoint, probe: int, what: Observation | FailureKind) -> None:
        if isinstance(what, FailureKind):
            self.apply(ProbeFailed(endpoint, probe, what))
        else:
            self.apply(Observed(endpoint, what, probe))

    def _ask_now(self) -> None:
        later, self._later = self._later, []
        for server, probe in later:
            view = self.state.topology.find(server.endpoint)
            if view is not None and view.health is Health.UNKNOWN:
                self._ask(server, probe)

    def _beside(self, server: Server, probe: int, failure: FailureKind | None) -> None:
        if failure is not None:
            self._answered(server.endpoint, probe, failure)
            return
        if server.endpoint in self._sides:  # two were under way
            server.open -= 1
        else:
            self._sides[server.endpoint] = self.world.now
            server.side(0)
        self._answered(server.endpoint, probe, server.observation())

    def _published(self, old: Topology, new: Topology) -> None:
        where = self._where
        if where is not None and not new.live(where.endpoint, self._generation):
            self._lose()
        self._story, steps = failover.follow(self._story, old, new, self.world.now)
        self._pacing = self._pacing.follow((item.name for item in steps), self.world.now)
        if new.writer is not None and self._where is None:
            self._move(self.world.at_endpoint[new.writer.endpoint], new.writer.generation)
        elif self._missing and possible(new):
            self._work()
        self._note_trouble()

    def _lose(self) -> None:
        """All connections to the writer are gone; who used one finds out by itself."""
        self._missing += self._idle
        self._idle, self._where = 0, None

    def _move(self, server: Server, generation: int) -> None:
        """Another writer: a promoted replica's warm connections are there at once."""
        self._where, self._generation = server, generation
        warm = self._warm.pop(server.endpoint, 0)
        self._missing -= warm
        self._idle += warm
        self._story, _ = failover.reconnected(self._story, server.endpoint, self.world.now)
        self._serve()
        self._work()

    # -- names

    def _follow_name(self) -> None:
        """As the monitor follows a name: when its TTL is nearly over, or as `dns_pace` says."""
        world, now = self.world, self.world.now
        lost = self._troubled_at is not None
        if lost:
            self._asked_at = now
        target, ttl_s = world.ask_name(self.number, dns_pace.QUESTIONS, lost)
        chain = (NAME, target.endpoint.name)
        self._heard = dns_pace.hear(self._heard, chain, ttl_s, now)
        self._cache.store_found(NAME, 4, Found(chain, (target.endpoint.address,), ttl_s), now)
        self._cache.hit(NAME, 4, now)  # a use: what is used is refreshed ahead
        if target.endpoint != self._named:
            self._named = target.endpoint
            self.apply(Resolved(NAME, (self._named,)))
        self._ask_name_in(self._name_pause_s())

    def _name_pause_s(self) -> float:
        now = self.world.now
        if self._troubled_at is not None:
            clients, draw = self._clients(), self.rng.random()
            return dns_pace.pause_s(self._heard, now, now - self._troubled_at, clients, draw)
        return max(MIN_PAUSE_S, (self._cache.next_refresh() or now) - now)

    def _ask_name_in(self, pause_s: float) -> None:
        self._name_timer += 1
        number = self._name_timer
        self.world.at(
            self.world.now + pause_s,
            lambda: self._follow_name() if number == self._name_timer else None,
        )

    def _note_trouble(self) -> None:
        writer = self.state.topology.writer
        troubled = writer is None or writer.health is not Health.UP
        if troubled and self._troubled_at is None and self._named is not None:
            self._troubled_at = self.world.now
            now = self.world.now
            if self._first_at <= now:  # else it was calm for a moment
                draw, ago_s = self.rng.random(), now - self._asked_at
                self._first_at = now + dns_pace.first_s(self._clients(), draw, ago_s)
            self._ask_name_in(self._first_at - now)
        elif not troubled and self._troubled_at is not None:
            self._troubled_at, self._crowd = None, self._told_clients() or self._crowd

    def _clients(self) -> int:
        """Remembered while in trouble: who comes anew tells nothing at first."""
        self._crowd = max(self._crowd, self._told_clients())
        return self._crowd

    def _told_clients(self) -> int:
        return max((known.clients for _, known in self.state.known), default=0)

    # -- the pool's workers

    def _work(self) -> None:
        while self._missing > self._busy_workers and self._busy_workers < WORKERS:
            self._busy_workers += 1
            self._drive(connect.connecting(patient=False), None)

    def _drive(self, commands: Generator[connect.Command, Any, None], answer: Any) -> None:
        """Until the generator is done, or waits for something that takes time."""
        try:
            command = commands.send(answer)
            while not isinstance(command, connect.Await | connect.Dial):
                answer = (
                    self._may_dial(command)
                    if isinstance(command, connect.Ask)
                    else (self.state.topology, DEADLINE_S)
                )
                command = commands.send(answer)
        except StopIteration:
            self._busy_workers -= 1
            return
        if isinstance(command, connect.Await):
            then = partial(self._drive, commands, None)
            self.world.at(self.world.now + command.seconds, then)
            return
        self._dial(commands, command.endpoint)

    def _may_dial(self, asked: connect.Ask) -> float:
        endpoint = asked.endpoint
        if asked.by_chance is not None:
            key, draw, now = key_of(endpoint), self.rng.random(), self.world.now
            clients = self._clients()
            self._chances, wait_s = self._chances.ask(key, asked.by_chance, clients, now, draw)
            return wait_s
        first, self._losses = self._losses != self._pacing.losses, self._pacing.losses
        size, now = self.world.params.size, self.world.now
        self._pacing, wait_s = self._pacing.ask(endpoint, CONNECT_RATE_S, size, now, first)
        return wait_s

    def _dial(self, commands: Generator[connect.Command, Any, None], endpoint: Endpoint) -> None:
        server = self.world.at_endpoint[endpoint]
        self._flying[endpoint] += 1
        answer = partial(self._dialled, commands, server, self.world.now)
        self.world.dial(self.zone, server, answer)

    def _dialled(
        self,
        commands: Generator[connect.Command, Any, None],
        server: Server,
        began_at: float,
        failure: FailureKind | None,
    ) -> None:
        now, draw = self.world.now, self.rng.random()
        self._pacing = self._pacing.ended(
            server.endpoint, now - began_at, failure is None, now, draw
        )
        self._flying[server.endpoint] -= 1
        if failure is None:
            self.apply(Observed(server.endpoint, server.observation()))
        if failure is None and server is self._where:
            self._busy_workers -= 1
            self._missing -= 1
            self._give_back()
            self._work()
            self._ask_now()
            return
        if failure is None:  # the world moved on meanwhile
            server.open -= 1
        elif failure is not FailureKind.CROWDED:
            view = self.state.topology.find(server.endpoint)
            if view is not None:
                self.apply(Evidence(server.endpoint, failure, view.generation))
        self._ask_now()
        self._drive(commands, False)
        if self._missing and self._retry_at is None:
            self._retry_at = self.world.now + RETRY_DELAY_S * self.rng.random()
            self.world.at(self._retry_at, self._retry)

    def _retry(self) -> None:
        self._retry_at = None
        self._work()

    def _give_back(self) -> None:
        self._idle += 1
        self._serve()
        if not self._missing and self.full_at is None and self._where is not self.world.servers[0]:
            self.full_at = self.world.now

    # -- the sessions

    def _think(self) -> None:
        params = self.world.params
        pause_s = self.rng.expovariate(params.ops_rate_s / params.size)
        self.world.at(self.world.now + pause_s, self._operate)

    def _operate(self) -> None:
        self.tally.operations += 1
        self._budget = self._budget.deposit(1, self.world.now)
        self._waiting.append(Operation(self.world.now))
        self._serve()

    def _serve(self) -> None:
        """Idle connections go to those who wait, in order."""
        if self._idle and self.ready_at is None and self._where is not self.world.servers[0]:
            self.ready_at = self.world.now
        while self._waiting and self._idle and self._where is not None:
            if not self._where.alive:
                # an idle connection's socket says so before anything is sent
                self._evidence(self._where)
                return
            self._idle -= 1
            self._lent += 1
            operation = self._waiting.popleft()
            operation.attempts += 1
            self.tally.attempts += 1
            world, server = self.world, self._where
            over = world.machine.work(world.now, world.params.op_cost_s)
            done = partial(self._finished, operation, server)
            world.at(over + world.rtt_s(self.zone, server) * ROUND_TRIPS, done)

    def _evidence(self, server: Server) -> None:
        view = self.state.topology.find(server.endpoint)
        if view is not None:
            self.apply(Evidence(server.endpoint, FailureKind.LOST, view.generation))
        if self._where is server:
            self._lose()

    def _finished(self, operation: Operation, server: Server) -> None:
        self._lent -= 1
        if server.alive:
            promoted_at = self.world.params.promote_after_s
            self.tally.done(operation.began_at, self.world.now, promoted_at)
            if server is self._where:
                self._give_back()
            else:
                self._missing += 1
                self._work()
            self._think()
            return
        self._missing += 1
        self._evidence(server)
        self._again(operation)

    def _again(self, operation: Operation) -> None:
        """It broke in the middle: retried as the budget allows."""
        self._budget, granted = self._budget.try_withdraw()
        if not granted or operation.attempts >= ATTEMPTS:
            self.tally.failed += 1
            self._think()
            return
        self._waiting.append(operation)
        pause_s = min(0.01, backoff_s(operation.attempts, self.rng.random()))
        self.world.at(self.world.now + pause_s, self._serve)
