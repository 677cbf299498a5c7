"""What clients without any coordination do, for comparison.

Each session has a connection of its own.  When it breaks, the session tries all hosts in order
until one takes writes, and does so again every 50 ms: libpq's several hosts and a retry loop.
"""

from __future__ import annotations

import random
from functools import partial

from resilient.core.model import FailureKind, Role

from .tally import ROUND_TRIPS, Tally
from .world import Server, World

__all__ = ["Naive"]

PAUSE_S = 0.05


class Naive:
    """A process with `size` sessions."""

    def __init__(self, world: World, number: int, tally: Tally) -> None:
        self.world, self.zone, self.tally = world, number % len(world.servers), tally
        self.rng = random.Random(number)
        self.ready_at: float | None = None
        self.full_at: float | None = None
        self._arrived = 0
        world.servers[0].open += world.params.size
        for _ in range(world.params.size):
            self._think(world.servers[0])

    def _think(self, server: Server) -> None:
        params = self.world.params
        pause_s = self.rng.expovariate(params.ops_rate_s / params.size)
        self.world.at(self.world.now + pause_s, partial(self._operate, server))

    def _operate(self, server: Server) -> None:
        self.tally.operations += 1
        self._attempt(server, self.world.now)

    def _attempt(self, server: Server, began_at: float) -> None:
        self.tally.attempts += 1
        rtt_s = self.world.rtt_s(self.zone, server) * ROUND_TRIPS
        self.world.at(self.world.now + rtt_s, partial(self._finished, server, began_at))

    def _finished(self, server: Server, began_at: float) -> None:
        if server.alive:
            self.tally.done(began_at, self.world.now, self.world.params.promote_after_s)
            self._think(server)
        else:
            self.world.at(self.world.now + PAUSE_S, partial(self._search, 0, began_at))

    def _search(self, host: int, began_at: float) -> None:
        if host == 0:
            self.tally.attempts += 1
        if host == len(self.world.servers):
            self.world.at(self.world.now + PAUSE_S, partial(self._search, 0, began_at))
            return
        server = self.world.servers[host]
        self.world.dial(self.zone, server, partial(self._dialled, host, server, began_at))

    def _dialled(
        self, host: int, server: Server, began_at: float, failure: FailureKind | None
    ) -> None:
        if failure is not None:
            self._search(host + 1, began_at)
        elif server.role is not Role.PRIMARY:
            server.open -= 1
            self._search(host + 1, began_at)
        else:
            self._arrived += 1
            self.ready_at = self.ready_at or self.world.now
            if self._arrived == self.world.params.size:
                self.full_at = self.world.now
            self.tally.attempts -= 1  # counted when the search began
            self._attempt(server, began_at)
