"""The asyncio pools: psycopg_pool's, dialling whatever the topology names.

`public` gives these their constructors.  Queue, statistics and sizes are psycopg_pool's.
What is decided is in `base`, what sync and async do alike in `shell`; here is the waiting.
A new topology reaches a pool on its own loop.
"""

# long: one class a layer, and each layer needs its awaits; `pool` is its twin
from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import cached_property
from typing import Any, TypeVar, cast

import psycopg
import psycopg_pool
import tenacity

from ..core import connect
from ..core.model import Endpoint, Topology
from . import fork
from ._upstream import ACT, AsyncAddConnection, AsyncMaintenanceTask
from .attempts import Attempts
from .base import PoolCore, remaining
from .connection import Dial, dialling
from .reader import AsyncReader
from .shell import Shell, deadline_in, gave_up_at, is_condemned
from .target import dial_params

T = TypeVar("T")

#: (conninfo, kwargs) that the dial under way uses: callables are called once per attempt
_resolved: ContextVar[tuple[str, dict[str, Any]] | None] = ContextVar("resolved", default=None)


class Closing(AsyncMaintenanceTask):
    """A task that holds connections: it closes them when the pool was closed meanwhile."""

    def __init__(self, pool: Any, conns: list[Any]) -> None:
        super().__init__(pool)
        self.conns = conns

    async def run(self) -> None:
        pool = self.pool()
        if pool is not None and not pool.closed:
            await super().run()
            return
        for conn in self.conns:
            conn._pool = None
            await conn.close()


class Discard(Closing):
    """Close connections that are ruled out, on a worker, and have them replaced."""

    def __init__(self, pool: Any, conns: list[Any], replace: bool = True) -> None:
        super().__init__(pool, conns)
        self.replace = replace

    async def _run(self, pool: Any) -> None:
        for conn in self.conns:
            await pool._close_connection(conn)
            if self.replace:
                pool.run_task(AsyncAddConnection(pool))


class PutBack(Closing):
    """Return a connection on a worker, which nobody cancels."""

    def __init__(self, pool: Any, conn: Any, checked_in: bool) -> None:
        super().__init__(pool, [conn])
        self.checked_in = checked_in

    async def _run(self, pool: Any) -> None:
        if self.checked_in:
            await pool._add_now(self.conns[0])
        else:
            await pool._put_now(self.conns[0])


class Arrange(AsyncMaintenanceTask):
    """Open pools for new replicas, close those of endpoints that are replicas no more."""

    async def _run(self, pool: Any) -> None:
        await pool._arrange_replicas()


class AsyncShell(Shell, psycopg_pool.AsyncConnectionPool[ACT]):
    """An asyncio pool whose `_connect` asks the topology."""

    _add_task = AsyncAddConnection
    _discard_task = Discard
    _arrange_task = Arrange
    _loop: asyncio.AbstractEventLoop | None = None

    def _fresh_lock(self) -> None:
        del self._lock  # made anew on the loop that opens the pool

    def _start_workers(self) -> None:
        if not callable(self.conninfo) and not callable(self.kwargs):
            # A conninfo that can't be parsed surfaces where psycopg_pool lets it: in a worker.
            with suppress(psycopg.ProgrammingError):
                self._core.attach(self.conninfo or "", self.kwargs or {})
        super()._start_workers()
        fork.follow(self)
        self._loop = asyncio.get_running_loop()

    # -- connecting

    async def _resolve_conninfo(self) -> str:
        resolved = _resolved.get()
        return resolved[0] if resolved else await super()._resolve_conninfo()

    async def _resolve_kwargs(self) -> dict[str, Any]:
        resolved = _resolved.get()
        return resolved[1] if resolved else await super()._resolve_kwargs()

    def _commands(self, patient: bool) -> Any:
        return connect.connecting(patient) if self._bound is None else connect.bound(self._bound)

    async def _connect(self, timeout: float | None = None) -> ACT:
        core = self._core
        limit_s = timeout if timeout is not None else core.settings.deadline_s
        deadline_at = deadline_in(limit_s)
        conninfo, kwargs = await self._resolve_conninfo(), await self._resolve_kwargs()
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
                    return cast(ACT, warm)
                answer = core.topology, remaining(deadline_at)
            elif isinstance(command, connect.Await):
                await self._await(command)
            else:
                pause_s = 0.0 if timeout else core.pause_before(command.endpoint, self._max_size)
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                dial = core.dial(command.endpoint, self._intent, deadline_at)
                try:
                    return await self._dial(dial, conninfo, kwargs, timeout)
                except Exception as exc:
                    failure, answer = exc, False
                    core.dial_failed(dial, exc)
                    if timeout is not None and core.final(exc):
                        raise

    async def _dial(
        self, dial: Dial, conninfo: str, kwargs: dict[str, Any], timeout: float | None
    ) -> ACT:
        token = _resolved.set((conninfo, {**kwargs, **dial_params(dial.endpoint)}))
        try:
            with dialling(dial):
                conn = await super()._connect(
                    None if timeout is None else remaining(dial.deadline_at)
                )
        finally:
            _resolved.reset(token)
        self._core.connected(conn, dial)
        return conn

    async def _await(self, command: connect.Await) -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def waker() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(event.set)

        self._core.cluster.wake(command.version, waker)
        try:
            async with asyncio.timeout(command.seconds):
                await event.wait()
        except TimeoutError:
            return
        finally:
            self._core.cluster.forget(waker)

    async def schedule_task(self, task: AsyncMaintenanceTask, delay: float) -> None:
        if isinstance(task, AsyncAddConnection) and not self._closed:
            if self._park(task):
                self.run_task(task)
                return
            delay = self._paced(delay)
        await super().schedule_task(task, delay)

    # -- the topology

    def _topology_changed(self, old: Topology, new: Topology) -> None:
        loop = self._loop
        if loop is not None and not self._closed:
            with suppress(RuntimeError):  # the loop was closed before the pool
                loop.call_soon_threadsafe(self._apply_here, old, new)

    def _apply_here(self, old: Topology, new: Topology) -> None:
        # On the pool's loop and without an await: nobody is inside the pool's state.
        if not self._closed:
            self._apply(old, new, self._take_stale())

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:
        conn = await super()._get_ready_connection(timeout)
        while conn is not None and not self._fit(conn):
            self.run_task(Discard(self, [conn]))
            conn = await super()._get_ready_connection(timeout)
        return conn

    # A cancellation strikes where a task is suspended.  Returning a connection must not be
    # such a place, or the connection is lost to the pool: where it would have to wait, a
    # worker does it.

    async def putconn(self, conn: ACT) -> None:
        if self._lock.locked() and getattr(conn, "_pool", None) is self:
            self.run_task(PutBack(self, conn, checked_in=False))
        else:
            await super().putconn(conn)

    async def _put_now(self, conn: ACT) -> None:
        await super().putconn(conn)

    async def _add_to_pool(self, conn: ACT) -> None:
        if self._closed or not self._would_wait():
            await super()._add_to_pool(conn)
        else:
            self.run_task(PutBack(self, conn, checked_in=True))

    async def _add_now(self, conn: ACT) -> None:
        await super()._add_to_pool(conn)

    def _would_wait(self) -> bool:
        if self._lock.locked():
            return True
        for client in self._waiting:
            if client._cond.locked():
                return True
            if not (client.conn or client.error):
                return False  # it takes the connection at once
        return False

    async def _return_connection(self, conn: ACT, from_getconn: bool) -> None:
        self._restore(conn)
        if is_condemned(conn):
            conn._expire_at = 0.0
        await super()._return_connection(conn, from_getconn)


class AsyncReplicaPool(AsyncShell[ACT]):
    """The warm connections of one replica, for the pool that owns it."""

    def __init__(self, owner: Any, endpoint: Endpoint, core: PoolCore, **kwargs: Any) -> None:
        self.owner = weakref.ref(owner)
        self._bound = endpoint
        self._start_core(core.settings)
        self._core.share(core)
        super().__init__(owner.conninfo, open=False, **kwargs)

    def _start_workers(self) -> None:
        psycopg_pool.AsyncConnectionPool._start_workers(self)
        self._loop = asyncio.get_running_loop()
        self._core.cluster.listen(self._core)

    async def putconn(self, conn: ACT) -> None:
        self._restore(conn)
        await super().putconn(conn)


class AsyncResilientPool(AsyncShell[ACT]):
    """What both public pools add: routing, `run`, `reader`, and their own errors."""

    @cached_property
    def _arranging(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def _arrange_replicas(self) -> None:
        async with self._arranging:  # several workers may be told at once
            await self._arrange_replicas_alone()

    async def _arrange_replicas_alone(self) -> None:
        core = self._core
        wanted = core.wanted_replicas()
        for endpoint in [known for known in core.replicas if known not in wanted]:
            gone = core.replicas.pop(endpoint)
            await gone.close(timeout=1.0)
        for endpoint in wanted - set(core.replicas):
            if self._closed:
                return
            pool: AsyncReplicaPool[ACT] = AsyncReplicaPool(
                self, endpoint, core, **self._replica_arguments(endpoint)
            )
            core.replicas[endpoint] = pool
            await pool.open()

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

    async def close(self, timeout: float = 5.0) -> None:
        was_open = not self._closed
        await super().close(timeout)
        if was_open:
            while self._core.replicas:
                await self._core.replicas.popitem()[1].close(timeout)
            while self._core.stock:
                await self._close_connection(self._core.stock.popleft())
            self._core.detach()

    def __del__(self) -> None:
        if getattr(self, "_core", None) is not None:
            self._core.detach(wait=False)

    # -- checkouts

    async def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool = False,
        max_staleness_s: float | None = None,
        after: object = None,
    ) -> ACT:
        """Obtain a connection: for writing, or with `read_only` for reading.

        `max_staleness_s` bounds a replica's lag; `after`, a token of `causal_token`, makes
        the read see that commit.  Raises `PoolTimeout`; its subclass `NoEndpointAvailable`
        when no endpoint fits.  Pair with `putconn`.
        """
        if self._core.reopen:
            self._core.reopen = False
            await self.open()
        if read_only and after is None:
            return await self._getconn_reader(timeout, max_staleness_s)
        try:
            conn = await super().getconn(timeout)
        except psycopg_pool.PoolTimeout as exc:
            error = self._core.explain(exc, self.timeout if timeout is None else timeout)
            if error is exc:
                raise
            raise error from self._core.last_failure or exc
        return self._make_read_only(conn) if read_only else conn

    async def _getconn_reader(self, timeout: float | None, max_staleness_s: float | None) -> ACT:
        limit_s = self.timeout if timeout is None else timeout
        deadline_at = deadline_in(limit_s)
        failed: frozenset[object] = frozenset()
        while True:
            view = self._core.reader(max_staleness_s, failed)
            if view is None or view.endpoint not in self._core.replicas:
                # Nobody else: the primary, waited for if need be.
                left_s = remaining(deadline_at)
                conn = await AsyncResilientPool.getconn(self, left_s)
                return cast(ACT, self._make_read_only(conn))
            pool = self._core.replicas[view.endpoint]
            try:
                share_s = min(remaining(deadline_at), self._core.settings.probe_timeout_s)
                return cast(ACT, self._make_read_only(await pool.getconn(share_s)))
            except (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed):
                failed |= {view.endpoint}

    async def putconn(self, conn: ACT) -> None:
        home = getattr(conn, "_pool", None)
        if isinstance(home, AsyncReplicaPool) and home.owner() is self:
            await home.putconn(conn)
        else:
            await super().putconn(conn)

    @asynccontextmanager
    async def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool = False,
        max_staleness_s: float | None = None,
        after: object = None,
    ) -> AsyncIterator[ACT]:
        """A connection for a `with` block: committed at its end, rolled back on an error.

        The arguments are those of `getconn`.
        """
        conn = await self.getconn(
            timeout, read_only=read_only, max_staleness_s=max_staleness_s, after=after
        )
        try:
            start = time.monotonic()
            async with conn:
                yield conn
        except psycopg.Error as exc:
            self._core.raise_for(conn, exc)
            raise
        finally:
            await self.putconn(conn)
            self._stats[self._USAGE_MS] += int(1000.0 * (time.monotonic() - start))

    @property
    def reader(self) -> AsyncReader[ACT]:
        """This pool for code that only reads: every checkout goes to a replica."""
        return AsyncReader(self)

    async def run(
        self,
        fn: Callable[..., Awaitable[T]],
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
            return await self._run_once(attempts, fn, args, kwargs, read_only)
        except psycopg.Error as exc:
            if not attempts.again(exc):
                raise
        await asyncio.sleep(attempts.pause_s)
        async for attempt in attempts.drive(tenacity.AsyncRetrying):
            with attempt:
                return await self._run_once(attempts, fn, args, kwargs, read_only)
        raise AssertionError("the last attempt returns or raises")

    async def _run_once(
        self,
        attempts: Attempts,
        fn: Callable[..., Awaitable[T]],
        args: Any,
        kwargs: Any,
        read_only: bool,
    ) -> T:
        conn = await self.getconn(attempts.left_s(), read_only=read_only)
        try:
            async with conn.transaction():
                return await fn(conn, *args, **kwargs)
        except psycopg.Error as exc:
            attempts.kind = self._core.raise_for(conn, exc)
            raise
        finally:
            await self.putconn(conn)
