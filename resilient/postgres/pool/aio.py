"""The asyncio pools: psycopg_pool's, dialling whatever the topology names.

What is decided is in `base`, what sync and async do alike in `shell`; here is the waiting.
A new topology reaches a pool on its own loop.  `sync` is made from this.
"""

# long: what users call of a pool, in one piece
from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast, overload

import psycopg
import psycopg_pool

from ...core import connect, routing
from ...core.model import CausalToken, EndpointView
from ...telemetry.records import Record
from .. import role
from .._psycopg import ACT
from ..session.keeper import close, insist, insists
from .apart import AsyncApart
from .attempts import Attempts
from .deadline import deadline_in, remaining
from .proof import proves
from .reader import AsyncReader, reader_of
from .shell import NO_ROOM
from .shell_async import AsyncReplicaPool, AsyncShell
from .siblings import WRITER, beside, replica_arguments

P = ParamSpec("P")
T = TypeVar("T")


class AsyncResilientPool(AsyncApart, AsyncShell[ACT]):
    """What both public pools add: routing, `run`, `reader`, and their own errors."""

    #: of a pool that reads by default: the one for its explicit writes, once there was one
    _writing: Any = None

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
            await core.replicas.pop(endpoint).pool.close(timeout=1.0)
        for endpoint in wanted - set(core.replicas):
            if self._closed:
                return
            beneath = core.for_replica(endpoint)
            pool: AsyncReplicaPool[ACT] = AsyncReplicaPool(
                self, beneath, **replica_arguments(self, core.settings, endpoint)
            )
            core.add_replica(endpoint, pool, beneath)
            self._spare_worker()
            await pool.open()

    async def close(self, timeout: float = 5.0) -> None:
        was_open = not self._closed
        await super().close(timeout)
        if was_open:
            await self._end_apart()
            if self._writing is not None:
                await self._writing.close(timeout)
            while self._core.replicas:
                await self._core.replicas.popitem()[1].pool.close(timeout)
            await self._end_replica_tasks()
            while self._core.stock:
                await self._close_connection(cast(ACT, self._core.stock.popleft()))
            self._core.detach()

    def __del__(self) -> None:
        if getattr(self, "_core", None) is not None:
            self._core.detach(wait=False)

    async def wait(self, timeout: float = 30.0) -> None:
        """As psycopg_pool's; the error says what is in the way."""
        try:
            await super().wait(timeout)
        except psycopg_pool.PoolTimeout as exc:
            error = self._core.explain(exc, timeout)
            if error is exc:
                raise
            raise error from self._core.last_failure or exc

    # -- checkouts

    async def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> ACT:
        """Obtain a connection: for reading with `read_only=True`, for writing with `False`.

        Without it the connection string says which (`target_session_attrs`), and where that
        doesn't either it is for writing, unless all that is configured are replicas.  An
        explicit write waits for a primary, and for one that takes writes by default.
        `timeout`: seconds, default the pool's.  `max_staleness_s` bounds a replica's lag; `after`,
        a token of `causal_token`, makes the read see that commit.  Raises `PoolTimeout`; its
        subclass `NoEndpointAvailable` when no endpoint fits.  Pair with `putconn`.
        """
        began_s = time.monotonic()
        if read_only is None and self._pool and not self._lock.locked() and self._plainly(timeout):
            conn = self._next_idle(began_s)
            if conn is not None:
                return self._hand_out(conn, began_s)  # type: ignore[no-any-return]
        try:
            conn = await self._checkout(timeout, read_only, max_staleness_s, after)
        except psycopg_pool.PoolTimeout:
            self._core.gave_up(began_s)
            raise
        self._core.handed_out(conn, began_s)
        return conn

    async def _checkout(
        self,
        timeout: float | None,
        read_only: bool | None,
        max_staleness_s: float | None,
        after: CausalToken | None,
    ) -> ACT:
        if self._core.reopen:
            self._core.reopened()
            await self.open()
        core, limit_s = self._core, self.timeout if timeout is None else timeout
        deadline_at = deadline_in(limit_s)
        if not (read_only is None and core.plain):
            reads = core.reads
            if read_only is None and reads and core.bounded(max_staleness_s, after):
                read_only = True
            if read_only and (after is None or core.replicas_may_have(after)):
                return await self._getconn_reader(timeout, max_staleness_s, after)
            if reads and (read_only is False or after is not None):
                return await self._getconn_writer(timeout, bool(read_only))
            if not read_only and core.barred() and (read_only is False or core.wanted.strict):
                timeout = await self._until_writable(timeout)
        try:
            conn = await super().getconn(timeout)
        except psycopg_pool.PoolTimeout as exc:
            error = core.explain(exc, limit_s)
            if error is exc:
                raise
            raise error from core.last_failure or exc
        if read_only:
            self._on_checkout(conn)
            return self._make_read_only(conn)
        if read_only is False:
            if core.met_standby(conn):
                await super().putconn(conn)
                return await self._getconn_writer(max(remaining(deadline_at), 0.001), False)
            insist(conn)
            return self._on_checkout(conn)
        return self._as_default(conn)

    async def _until_writable(self, timeout: float | None) -> float:
        """Wait for a primary that takes writes by default; the seconds that are left."""
        limit_s = self.timeout if timeout is None else timeout
        deadline_at = deadline_in(limit_s)
        core = self._core
        while core.barred():
            if remaining(deadline_at) <= 0:
                raise core.nobody(WRITER, limit_s)
            await self._await(connect.Await(core.topology.version, remaining(deadline_at)))
        return max(remaining(deadline_at), 0.001)

    async def _getconn_writer(self, timeout: float | None, read_only: bool) -> ACT:
        """An explicit write where checkouts are for reading by default: of a pool beside."""
        conn = await (await self._writer())._checkout(timeout, None, None, None)
        return cast(ACT, self._make_read_only(conn) if read_only else conn)

    async def _writer(self) -> Any:
        if self._writing is None:
            self._writing = beside(self, self._kind, self._core.settings)
            await self._writing.open()
        return self._writing

    async def _fit_for(self, conn: ACT, fresh: ACT, deadline_at: float) -> ACT:
        """An explicit write goes on at a primary, also where checkouts are for reading by now."""
        if not (insists(conn) and self._core.met_standby(fresh)):
            return fresh
        close(fresh)
        return cast(ACT, await (await self._writer())._connect(max(remaining(deadline_at), 0.001)))

    async def _getconn_reader(
        self,
        timeout: float | None,
        max_staleness_s: float | None,
        after: CausalToken | None,
        avoided: frozenset[object] = frozenset(),
    ) -> ACT:
        limit_s = self.timeout if timeout is None else timeout
        deadline_at = deadline_in(limit_s)
        core = self._core
        search = routing.Search(avoided, core.settings.probe_timeout_s, core.late(after))
        while True:
            view = core.reader(max_staleness_s, search.passed)
            if view is None or view.endpoint not in core.replicas:
                # Nobody else: the primary, waited for if need be.
                left_s = search.patience_s(remaining(deadline_at))
                try:
                    if core.reads and core.bounded(max_staleness_s, after):
                        return await self._getconn_writer(left_s, True)
                    conn = await self._checkout(left_s, None, None, None)
                except psycopg_pool.PoolTimeout as exc:
                    if search.comes_back and remaining(deadline_at) > 0:
                        search.again()
                        continue
                    raise core.whole_wait(exc, limit_s) from exc.__cause__
                core.read_at(None)
                return self._make_read_only(conn)
            pool = core.replicas[view.endpoint].pool
            try:
                share_s = min(remaining(deadline_at), search.share_s)
                conn = await pool.getconn(share_s)
                if await self._proves(conn, view, after, max_staleness_s):
                    core.read_at(view)
                    self._on_checkout(conn)
                    return self._make_read_only(conn)
                await pool.putconn(conn)
                search.passes(view.endpoint)
            except NO_ROOM:
                search.passes(view.endpoint)

    async def _proves(
        self,
        conn: ACT,
        view: EndpointView,
        after: CausalToken | None,
        max_staleness_s: float | None,
    ) -> bool:
        """Has this replica what is asked for?  At most a round trip for each."""
        core = self._core
        bound_s = core.settings.max_staleness_s if max_staleness_s is None else max_staleness_s
        gen = proves(conn.pgconn, core.topology, view, after, bound_s, late=core.proved_late)
        try:
            return await conn.wait(gen)
        except (role.RoleError, psycopg.Error):
            return False

    async def causal_token(self) -> CausalToken:
        """A token for `after=`: a later read with it sees every commit made so far, so also
        the last one of this task.  One round trip to the primary."""
        deadline_at = deadline_in(self._core.settings.deadline_s)
        while True:
            async with self.connection(read_only=False if self._core.reads else None) as conn:
                try:
                    at = await conn.wait(role.position(conn.pgconn))
                except (role.RoleError, psycopg.OperationalError) as failure:
                    exc = psycopg.OperationalError(f"no token: {failure}")
                    if not conn.closed or remaining(deadline_at) <= 0:
                        raise exc from failure
                    self._core.note(conn, exc)  # its session is gone: asked again on another
                else:
                    return CausalToken(at.timeline, at.lsn, at.system_id)

    async def putconn(self, conn: ACT) -> None:
        if self._comes_plainly(conn):
            if self._waiting or self._pool_full_event or self._lock.locked():
                await self._add_to_pool(conn)
            else:
                self._pool.append(conn)
            return
        self._core.came_back(conn)
        home = getattr(conn, "_pool", None)
        if home is not self and home is not None and self._is_ours(home):
            await home.putconn(conn)
        else:
            if self._on_checkin(conn):
                await self._untell(conn)
            await super().putconn(conn)

    def _is_ours(self, home: object) -> bool:
        """Is it one of the pools beside this one?"""
        replica = isinstance(home, AsyncReplicaPool) and home.owner() is self
        return replica or home is self._writing

    @asynccontextmanager
    async def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> AsyncIterator[ACT]:
        """A connection for a `with` block: committed at its end, rolled back on an error.

        `timeout` (seconds), `read_only`, `max_staleness_s` and `after` are those of `getconn`, and
        so are the errors.
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
    def failovers(self) -> tuple[Record, ...]:
        """The last 20 failovers of this pool's cluster, oldest first; see `resilient.recorder`."""
        return self._core.failovers

    @property
    def reader(self) -> Self:
        """This pool for code that only reads: a pool of the same class, whose every checkout goes
        to a replica.  Closing it leaves this one open."""
        return cast(Self, reader_of(self, AsyncReader))

    @overload
    async def run(
        self,
        fn: Callable[Concatenate[ACT, ...], Awaitable[T]],
        /,
        *args: Any,
        read_only: bool | None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def run(
        self,
        fn: Callable[Concatenate[ACT, ...], Awaitable[T]],
        /,
        *args: Any,
        read_only: bool | None = None,
        timeout: float | None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def run(
        self, fn: Callable[Concatenate[ACT, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def run(  # type: ignore[misc]  # mypy: P might hold `timeout`
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        read_only: bool | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T:
        """`fn(conn, *args, **kwargs)` in a transaction, rerun as a whole on a failover, a
        serialization failure (40001) or a deadlock (40P01).

        `read_only`: on a replica, and on another one after a conflict with recovery.  `timeout`:
        seconds for everything but a statement that makes progress, default `DEADLINE_S`.  Raises
        what `fn` raises; `CommitOutcomeUnknown` when the reply to the COMMIT was lost, and then
        never runs it again by guess.
        """
        attempts = Attempts(self._core, timeout)
        try:
            return await self._run_once(attempts, fn, args, kwargs, read_only)
        except psycopg.Error as exc:
            if not attempts.again(exc):
                raise
        await asyncio.sleep(attempts.pause_s)
        async for attempt in attempts.more_async():
            with attempt:
                return await self._run_once(attempts, fn, args, kwargs, read_only)
        raise AssertionError("the last attempt returns or raises")

    async def _run_once(
        self,
        attempts: Attempts,
        fn: Callable[..., Awaitable[T]],
        args: Any,
        kwargs: Any,
        read_only: bool | None,
    ) -> T:
        if read_only and attempts.avoided:
            began_s = time.monotonic()
            conn = await self._getconn_reader(attempts.left_s(), None, None, attempts.avoided)
            self._core.handed_out(conn, began_s)
        else:
            conn = await self.getconn(attempts.left_s(), read_only=read_only)
        try:
            attempts.begins(conn)
            async with conn.transaction():
                return await fn(conn, *args, **kwargs)
        except psycopg.Error as exc:
            attempts.failed(conn, exc)
            raise
        finally:
            await self.putconn(conn)
