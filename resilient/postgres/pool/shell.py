"""What the sync and the async pool do alike, without waiting for anything.

Mixed in front of a psycopg_pool class.  It keeps three promises:

* a connection whose link is evicted is given to nobody,
* a maintenance task that found nobody to dial is deferred, and runs the moment a topology is
  published under which it can work (psycopg_pool alone would back off by doubling),
* the warm connections of a promoted replica go to those who wait for the writer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg_pool
from psycopg import OperationalError, pq

from ...core import connect
from ...core.intent import Wanted
from ...core.model import Endpoint, FailureKind, Health, Role, Topology
from ...core.routing import Target
from .._psycopg import BaseConnection
from ..commit.knowledge import brief
from ..session.keeper import keeper_of, link_of
from .borrowing import Lending, is_evicted
from .calls import Calls, weakly
from .deadline import RETRY_DELAY_S
from .plainly import LOOK_S, Plainly
from .reserve import was_lent

if TYPE_CHECKING:
    from .base import PoolCore

Conn = BaseConnection[Any]
C = TypeVar("C", bound=BaseConnection[Any])

#: what a replica's own pool takes: whoever tells a role
REPLICA = Wanted(Target.PREFER_STANDBY)

#: a replica's pool has nothing for a reader now
NO_ROOM = (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed, psycopg_pool.TooManyRequests)

#: the topology's version under which this worker's last attempt gave up
gave_up_at: ContextVar[int] = ContextVar("resilient_gave_up_at", default=-1)


class Slot:
    """A place in a Null pool that is taken, before its connection is made."""

    _resilient = None
    _pool: object = None


class Shell(Plainly, Lending):
    """Shared by all pools; `_core` holds what it decides with."""

    _nconns: int
    #: of a replica's pool: the one whose workers and scheduler it uses
    owner: Callable[[], Any]
    #: the public class that it is one of
    _kind: type[Any]
    _add_task: type[Any]

    if TYPE_CHECKING:

        def _arrange_replicas(self) -> Any: ...
        def _renew_soon(self) -> None: ...
        def _try_lend(self, endpoint: Endpoint, answer: Future[Conn | None]) -> bool: ...
        def _try_return(self, conn: Any) -> bool: ...
        def _try_overdue(self, conn: Any) -> bool: ...
        def _fresh_lock(self) -> None: ...

    def _start_core(self, core: PoolCore, from_environment: bool = False) -> None:
        self._core = core
        calls = Calls(
            changed=weakly(self._topology_changed),
            try_lend=weakly(self._try_lend),
            try_return=weakly(self._try_return),
            try_overdue=weakly(self._try_overdue),
            look_up=weakly(self._have_looked_up),
            renew=weakly(self._renew_soon),
            release_idle=weakly(self._release_idle),
            fresh_lock=weakly(self._fresh_lock),
        )
        source = "RESILIENT_DATABASE_URL" if from_environment else None
        core.belongs(self, calls, keeps_idle=self._keeps_idle, source=source)

    @property
    def topology(self) -> Topology:
        """The current snapshot: `version`, `endpoints`, `writer`."""
        return self._core.topology

    @property
    def _wanted(self) -> Wanted:
        return self._core.wanted if self._core.bound is None else REPLICA

    def _commands(
        self, patient: bool, at: Endpoint | None
    ) -> Generator[connect.Command, Any, None]:
        if (only := at or self._core.bound) is not None:
            return connect.bound(only)
        return connect.connecting(patient, self._core.wanted, self._core.rng)

    # -- statistics: what the caller gave for the sizes, sums with the replicas elsewhere

    def get_stats(self) -> dict[str, int]:
        """As psycopg_pool's; counters and present numbers include the replicas' pools."""
        own: dict[str, int] = super().get_stats()  # type: ignore[misc]
        return self._summed(own, [pool.get_stats() for pool in self._replica_pools()])

    def pop_stats(self) -> dict[str, int]:
        """`get_stats`, and all counters back to zero."""
        own: dict[str, int] = super().pop_stats()  # type: ignore[misc]
        return self._summed(own, [pool.pop_stats() for pool in self._replica_pools()])

    def _replica_pools(self) -> list[Any]:
        beside = getattr(self, "_writing", None)
        replicas = [replica.pool for replica in self._core.replicas.values()]
        return [*replicas, *([beside] if beside is not None else [])]

    def _summed(self, own: dict[str, int], others: list[dict[str, int]]) -> dict[str, int]:
        own["pool_available"] += len(self._core.lent)
        for stats in others:
            for name, value in stats.items():
                if name not in ("pool_min", "pool_max"):
                    own[name] = own.get(name, 0) + value
        return own

    # -- connections that may still be used

    def _fit(self, conn: Conn) -> bool:
        """May this idle connection be given out?  No round trip, and not even a look at one that
        was looked at within `LOOK_S`: blocks recover on whatever they get.

        An idle connection has nothing to read: what there is, is a farewell, and then the end
        of the stream.  So it is read twice, by libpq, which doesn't wait and doesn't let other
        threads run meanwhile: the pool's lock is held here.
        """
        link = link_of(conn)
        if link is None:
            return True
        if link.evicted:
            return False
        now = monotonic()
        if now - link.looked_at < LOOK_S:
            return True
        link.looked_at = now
        pgconn = conn.pgconn
        try:
            pgconn.consume_input()
            pgconn.consume_input()
        except OperationalError as exc:
            link.evict("the server closed the connection")
            self._stats["connections_lost"] += 1
            self._core.cluster.report(link, FailureKind.LOST, brief(exc))
            return False
        return bool(pgconn.status == pq.ConnStatus.OK)

    def _from_stock(self) -> Conn | None:
        """A warm connection of the replica that became the writer."""
        stock = self._core.stock
        while stock:
            conn = stock.popleft()
            if self._fit(conn):
                return conn
            self.run_task(self._discard_task(self, [conn], replace=False))
        return None

    # -- the work of the pool's workers

    def run_task(self, task: Any) -> None:
        """Queue a task, unless it is a deferred one that was taken up already."""
        if isinstance(task, self._add_task) and task.attempt is not None:
            try:
                self._core.deferred.remove(task)
            except KeyError:
                return
        core = self._core
        if core.bound is None:
            super().run_task(task)
        elif (owner := self.owner()) is not None and core.replica_tasks is not None:
            core.replica_tasks.add(owner, task)

    def _defer(self, task: Any) -> bool:
        """Remember a task that failed.  True when there is news: it may run at once."""
        self._core.deferred.add(task)
        topology = self._core.topology
        return self._possible(topology) and topology.version != gave_up_at.get()

    def _possible(self, topology: Topology) -> bool:
        if self._core.bound is not None:
            view = topology.find(self._core.bound)
            return view is not None and view.health is Health.UP
        if self._core.wanted.places(topology):
            return True
        return any(
            view.role is Role.UNKNOWN and view.health in (Health.UP, Health.UNKNOWN)
            for view in topology.endpoints
        )

    @property
    def _scheduler(self) -> Any:
        """Who wakes tasks up later; None: the pool that had one is gone."""
        if self._core.bound is None:
            return self._sched  # type: ignore[attr-defined]
        owner = self.owner()
        return None if owner is None else owner._sched

    @staticmethod
    def _paced(delay: float) -> float:
        return min(delay, RETRY_DELAY_S)

    # -- a new topology

    def _topology_changed(self, old: Topology, new: Topology) -> None:
        raise NotImplementedError

    def _take_stale(self) -> list[Conn]:
        """Idle connections that are ruled out, out of the pool.  Under the pool's lock."""
        core, own = self._core, self._core.bound is None
        stale = [c for c in self._pool if is_evicted(c) or (own and core.misplaced(c))]
        for conn in stale:
            self._pool.remove(conn)
        return stale

    def _apply(self, old: Topology, new: Topology, stale: list[Conn]) -> None:
        """What follows from a new topology; `stale` was just taken out of the pool."""
        if stale:
            self.run_task(self._discard_task(self, stale))
        core = self._core
        if core.bound is None and new.writer is not None and not core.reads:
            replica = core.replicas.get(new.writer.endpoint)
            if replica is not None:
                core.stock.extend(replica.core.calls.release_idle() or ())
        if self._possible(new):
            self._take_up()
        arranges = core.arranges and core.bound is None
        if arranges and core.wanted_replicas() != set(core.replicas):
            self.run_task(self._work(self, self._arrange_replicas))

    def _take_up(self) -> None:
        """What was deferred runs."""
        for task in list(self._core.deferred):
            self.run_task(task)

    def _release_idle(self) -> list[Conn]:
        """The idle connections that no caller has had, taken out for good (a replica's pool, on
        promotion).  The others are closed: what their sessions hold is nobody else's."""
        taken = list(self._pool)
        self._pool.clear()
        self._nconns -= len(taken)
        used = [conn for conn in taken if was_lent(conn)]
        if used:
            self.run_task(self._discard_task(self, used, replace=False))
        fresh = [conn for conn in taken if not was_lent(conn)]
        for conn in fresh:
            if (link := link_of(conn)) is not None:
                link.commit_facts = None  # a standby had nothing to tell; its next block asks again
        return fresh

    # -- checkouts

    def _on_checkout(self, conn: C) -> C:
        """The connection goes to a caller: what is done with it can be done again."""
        keeper = keeper_of(conn)
        if keeper is not None:
            keeper.on_checkout(self._core)
        return conn

    def _as_default(self, conn: C) -> C:
        """A checkout that said nothing of its intent.  A replica's session is read-only whatever
        is asked of it: so what its block does can be done again elsewhere."""
        self._on_checkout(conn)
        core = self._core
        return self._make_read_only(conn) if core.read_from and core.on_replica(conn) else conn

    def _on_checkin(self, conn: Conn) -> bool:
        """The connection comes back.  True: its server was told that it is for reading."""
        keeper = keeper_of(conn)
        if keeper is None:
            return False
        keeper.on_checkin(resets=self._reset is not None)
        return keeper.wire.told_read_only

    def _coming_back(self, conn: Conn) -> None:
        """A checkout is over: what nobody should get any more has expired."""
        keeper = keeper_of(conn)
        if keeper is None:
            return
        if keeper.for_reading:
            keeper.end_reading()
        link, bound = keeper.wire.link, self._core.bound
        if link is None:
            return
        if bound is None:
            away = self._core.read_from and self._core.misplaced(conn)
        else:
            away = bound != link.endpoint
        if link.evicted or away or conn._tpc:  # in a two-phase transaction it serves nobody
            conn._expire_at = 0.0

    # -- read-only checkouts

    def _at_home(self, conn: Conn) -> bool:
        """Is it still connected where this pool's connections go?  Replayed elsewhere, it
        isn't."""
        link, bound = link_of(conn), self._core.bound
        return bound is None or link is None or link.endpoint == bound

    @staticmethod
    def _make_read_only(conn: C) -> C:
        keeper = keeper_of(conn)
        if keeper is not None:
            keeper.lend_for_reading()
        return conn

    def _newly_promoted(self, conn: Conn) -> Endpoint | None:
        """A reader is done.  Its server's last answer said so if it was promoted meanwhile:
        `in_hot_standby` is reported with whatever comes next (manual 55.2.7)."""
        link = link_of(conn)
        if link is None or link.promoted or conn.closed or not self._at_home(conn):
            return None
        if conn.pgconn.parameter_status(b"in_hot_standby") != b"off":
            return None
        link.promoted = True  # once is enough
        return self._core.bound

    @staticmethod
    def _end_reading(conn: Conn) -> None:
        keeper = keeper_of(conn)
        if keeper is not None:
            keeper.end_reading()


def check_pauses() -> Iterator[float]:
    """Seconds before another new connection is made where `check=` has refused one."""
    pause_s = 0.05
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, 1.0)
