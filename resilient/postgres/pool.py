"""The thread pools: psycopg_pool's, dialling whatever the topology names.

`public` gives these their constructors.  Queue, statistics and sizes are psycopg_pool's.
What is decided is in `base`, what sync and async do alike in `shell`; here is the waiting.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cached_property
from typing import Any, TypeVar, cast

import psycopg
import psycopg_pool
import tenacity

from ..core import connect
from ..core.model import Endpoint, Topology
from . import fork
from ._upstream import (
    CT,
    AddConnection,
    MaintenanceTask,
)
from .attempts import Attempts
from .base import PoolCore, remaining
from .connection import Dial, dialling
from .reader import Reader
from .shell import Shell, deadline_in, gave_up_at, is_condemned
from .target import dial_params

T = TypeVar("T")

#: (conninfo, kwargs) that the dial under way uses: callables are called once per attempt
_resolved: ContextVar[tuple[str, dict[str, Any]] | None] = ContextVar("resolved", default=None)


class Discard(MaintenanceTask):
    """Close connections that are ruled out, on a worker, and have them replaced."""

    def __init__(self, pool: Any, conns: list[Any], replace: bool = True) -> None:
        super().__init__(pool)
        self.conns = conns
        self.replace = replace

    def run(self) -> None:
        pool = self.pool()
        if pool is not None and not pool.closed:
            super().run()
            return
        for conn in self.conns:  # the pool was closed meanwhile
            conn._pool = None
            conn.close()

    def _run(self, pool: Any) -> None:
        for conn in self.conns:
            pool._close_connection(conn)
            if self.replace:
                pool.run_task(AddConnection(pool))


class Arrange(MaintenanceTask):
    """Open pools for new replicas, close those of endpoints that are replicas no more."""

    def _run(self, pool: Any) -> None:
        pool._arrange_replicas()


class SyncShell(Shell, psycopg_pool.ConnectionPool[CT]):
    """A thread pool whose `_connect` asks the topology."""

    _add_task = AddConnection
    _discard_task = Discard
    _arrange_task = Arrange

    def _fresh_lock(self) -> None:
        self._lock = threading.RLock()

    def _start_workers(self) -> None:
        if not callable(self.conninfo) and not callable(self.kwargs):
            # A conninfo that can't be parsed surfaces where psycopg_pool lets it: in a worker.
            with suppress(psycopg.ProgrammingError):
                self._core.attach(self.conninfo or "", self.kwargs or {})
        super()._start_workers()
        fork.follow(self)

    # -- connecting

    def _resolve_conninfo(self) -> str:
        resolved = _resolved.get()
        return resolved[0] if resolved else super()._resolve_conninfo()

    def _resolve_kwargs(self) -> dict[str, Any]:
        resolved = _resolved.get()
        return resolved[1] if resolved else super()._resolve_kwargs()

    def _commands(self, patient: bool) -> Any:
        return connect.connecting(patient) if self._bound is None else connect.bound(self._bound)

    def _connect(self, timeout: float | None = None) -> CT:
        core = self._core
        limit_s = timeout if timeout is not None else core.settings.deadline_s
        deadline_at = deadline_in(limit_s)
        conninfo, kwargs = self._resolve_conninfo(), self._resolve_kwargs()
        core.attach(conninfo, kwargs)
        commands = self._commands(timeout is not None)
        answer: object = None
        failure: BaseException | None = None
        while True:
            try:
                command = commands.send(answer)
            except StopIteration:
                gave_up_at.set(core.topology.version)
                if failure is not None and timeout is None:
                    raise failure from None
                raise core.nobody(self._intent, timeout) from failure
            answer = None
            if isinstance(command, connect.Look):
                warm = self._from_stock()
                if warm is not None:
                    warm._pool = self
                    core.cluster.reconnected(warm._link.endpoint)
                    return cast(CT, warm)
                answer = core.topology, remaining(deadline_at)
            elif isinstance(command, connect.Await):
                self._await(command)
            else:
                pause_s = 0.0 if timeout else core.pause_before(command.endpoint, self._max_size)
                if pause_s > 0:
                    time.sleep(pause_s)
                dial = core.dial(command.endpoint, self._intent, deadline_at)
                try:
                    return self._dial(dial, conninfo, kwargs, timeout)
                except Exception as exc:
                    failure, answer = exc, False
                    core.dial_failed(dial, exc)
                    if timeout is not None and core.final(exc):
                        raise

    def _dial(self, dial: Dial, conninfo: str, kwargs: dict[str, Any], timeout: float | None) -> CT:
        token = _resolved.set((conninfo, {**kwargs, **dial_params(dial.endpoint)}))
        try:
            with dialling(dial):
                conn = super()._connect(None if timeout is None else remaining(dial.deadline_at))
        finally:
            _resolved.reset(token)
        self._core.connected(conn, dial)
        return conn

    def _await(self, command: connect.Await) -> None:
        event = threading.Event()
        self._core.cluster.wake(command.version, event.set)
        event.wait(command.seconds)
        self._core.cluster.forget(event.set)

    def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        if isinstance(task, AddConnection) and not self._closed:
            if self._park(task):
                self.run_task(task)
                return
            delay = self._paced(delay)
        super().schedule_task(task, delay)

    # -- the topology

    def _topology_changed(self, old: Topology, new: Topology) -> None:
        if self._closed:
            return
        with self._lock:
            stale = self._take_stale()
        self._apply(old, new, stale)

    def release(self) -> list[Any]:
        with self._lock:
            return super().release()

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        conn = super()._get_ready_connection(timeout)
        while conn is not None and not self._fit(conn):
            self.run_task(Discard(self, [conn]))
            conn = super()._get_ready_connection(timeout)
        return conn

    def _return_connection(self, conn: CT, from_getconn: bool) -> None:
        self._restore(conn)
        if is_condemned(conn):
            conn._expire_at = 0.0
        super()._return_connection(conn, from_getconn)


class ReplicaPool(SyncShell[CT]):
    """The warm connections of one replica, for the pool that owns it."""

    def __init__(self, owner: Any, endpoint: Endpoint, core: PoolCore, **kwargs: Any) -> None:
        self.owner = weakref.ref(owner)
        self._bound = endpoint
        self._start_core(core.settings)
        self._core.share(core)
        super().__init__(owner.conninfo, open=False, **kwargs)

    def _start_workers(self) -> None:
        psycopg_pool.ConnectionPool._start_workers(self)
        self._core.cluster.listen(self._core)

    def putconn(self, conn: CT) -> None:
        self._restore(conn)
        super().putconn(conn)


class ResilientPool(SyncShell[CT]):
    """What both public pools add: routing, `run`, `reader`, and their own errors."""

    @cached_property
    def _arranging(self) -> threading.Lock:
        return threading.Lock()

    def _arrange_replicas(self) -> None:
        with self._arranging:  # several workers may be told at once
            self._arrange_replicas_alone()

    def _arrange_replicas_alone(self) -> None:
        core = self._core
        wanted = core.wanted_replicas()
        for endpoint in [known for known in core.replicas if known not in wanted]:
            gone = core.replicas.pop(endpoint)
            gone.close(timeout=1.0)
        for endpoint in wanted - set(core.replicas):
            if self._closed:
                return
            pool: ReplicaPool[CT] = ReplicaPool(
                self, endpoint, core, **self._replica_arguments(endpoint)
            )
            core.replicas[endpoint] = pool
            pool.open()

    def _replica_arguments(self, endpoint: Endpoint) -> dict[str, Any]:
        warm = self._core.settings.standby_min_size
        return {
            "connection_class": self.connection_class,
            "kwargs": self.kwargs,
            "min_size": warm,
            "max_size": max(warm, self._max_size, 1),
            "configure": self._configure,
            "check": self._check,
            "reset": self._reset,
            "name": f"{self.name}-{endpoint.address or endpoint.name}",
            "close_returns": self.close_returns,
            "timeout": self.timeout,
            "max_lifetime": self.max_lifetime,
            "max_idle": self.max_idle,
            "reconnect_timeout": self.reconnect_timeout,
            "num_workers": 1,
        }

    def close(self, timeout: float = 5.0) -> None:
        was_open = not self._closed
        super().close(timeout)
        if was_open:
            while self._core.replicas:
                self._core.replicas.popitem()[1].close(timeout)
            while self._core.stock:
                self._close_connection(self._core.stock.popleft())
            self._core.detach()

    def __del__(self) -> None:
        super().__del__()
        if getattr(self, "_core", None) is not None:
            while self._core.replicas:
                self._core.replicas.popitem()[1].close(timeout=1.0)
            self._core.detach(wait=False)

    # -- checkouts

    def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool = False,
        max_staleness_s: float | None = None,
        after: object = None,
    ) -> CT:
        """Obtain a connection: for writing, or with `read_only` for reading.

        `max_staleness_s` bounds a replica's lag; `after`, a token of `causal_token`, makes
        the read see that commit.  Raises `PoolTimeout`; its subclass `NoEndpointAvailable`
        when no endpoint fits.  Pair with `putconn`.
        """
        if self._core.reopen:
            self._core.reopen = False
            self.open()
        if read_only and after is None:
            return self._getconn_reader(timeout, max_staleness_s)
        try:
            conn = super().getconn(timeout)
        except psycopg_pool.PoolTimeout as exc:
            error = self._core.explain(exc, self.timeout if timeout is None else timeout)
            if error is exc:
                raise
            raise error from self._core.last_failure or exc
        return self._make_read_only(conn) if read_only else conn

    def _getconn_reader(self, timeout: float | None, max_staleness_s: float | None) -> CT:
        limit_s = self.timeout if timeout is None else timeout
        deadline_at = deadline_in(limit_s)
        failed: frozenset[object] = frozenset()
        while True:
            view = self._core.reader(max_staleness_s, failed)
            if view is None or view.endpoint not in self._core.replicas:
                # Nobody else: the primary, waited for if need be.
                left_s = remaining(deadline_at)
                conn = ResilientPool.getconn(self, left_s)
                return cast(CT, self._make_read_only(conn))
            pool = self._core.replicas[view.endpoint]
            try:
                share_s = min(remaining(deadline_at), self._core.settings.probe_timeout_s)
                return cast(CT, self._make_read_only(pool.getconn(share_s)))
            except (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed):
                failed |= {view.endpoint}

    def putconn(self, conn: CT) -> None:
        home = getattr(conn, "_pool", None)
        if isinstance(home, ReplicaPool) and home.owner() is self:
            home.putconn(conn)
        else:
            super().putconn(conn)

    @contextmanager
    def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool = False,
        max_staleness_s: float | None = None,
        after: object = None,
    ) -> Iterator[CT]:
        """A connection for a `with` block: committed at its end, rolled back on an error.

        The arguments are those of `getconn`.
        """
        conn = self.getconn(
            timeout, read_only=read_only, max_staleness_s=max_staleness_s, after=after
        )
        try:
            start = time.monotonic()
            with conn:
                yield conn
        except psycopg.Error as exc:
            self._core.raise_for(conn, exc)
            raise
        finally:
            self.putconn(conn)
            self._stats[self._USAGE_MS] += int(1000.0 * (time.monotonic() - start))

    @property
    def reader(self) -> Reader[CT]:
        """This pool for code that only reads: every checkout goes to a replica."""
        return Reader(self)

    def run(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        read_only: bool = False,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T:
        """`fn(conn, *args, **kwargs)` in a transaction, rerun as a whole on a failover, a
        serialization failure (40001) or a deadlock (40P01).

        `timeout`: seconds for everything but a statement that makes progress, default
        `DEADLINE_S`.  Raises what `fn` raises; `CommitOutcomeUnknown` when the reply to the
        COMMIT was lost, and then never runs it again by guess.
        """
        attempts = Attempts(self._core, timeout)
        try:
            return self._run_once(attempts, fn, args, kwargs, read_only)
        except psycopg.Error as exc:
            if not attempts.again(exc):
                raise
        time.sleep(attempts.pause_s)
        for attempt in attempts.drive(tenacity.Retrying):
            with attempt:
                return self._run_once(attempts, fn, args, kwargs, read_only)
        raise AssertionError("the last attempt returns or raises")

    def _run_once(
        self, attempts: Attempts, fn: Callable[..., T], args: Any, kwargs: Any, read_only: bool
    ) -> T:
        conn = self.getconn(attempts.left_s(), read_only=read_only)
        try:
            with conn.transaction():
                return fn(conn, *args, **kwargs)
        except psycopg.Error as exc:
            attempts.kind = self._core.raise_for(conn, exc)
            raise
        finally:
            self.putconn(conn)
