"""How an asyncio pool dials, drains and takes back its connections.

What is decided is in `base`, what sync and async do alike in `shell`; here is the waiting.
"""

# long: one pool, from its first dial to the return of a connection
from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVarTuple, cast

import psycopg
import psycopg_pool
from psycopg import pq

from ...core import connect
from ...core.model import Endpoint, Topology
from ...core.reach import Asked
from .._psycopg import ACT, AsyncAddConnection, AsyncMaintenanceTask, aspawn
from ..replay.catalogue import only_reading
from ..session.dial import Dial, dialling
from ..session.keeper import close, keeper_of, link_of
from ..target import dial_params
from . import fork
from .deadline import deadline_in, remaining
from .replica_tasks import AsyncReplicaTask, ReplicaTasks
from .reserve import Reserve
from .shell import Shell, check_pauses, gave_up_at
from .tasks import AsyncDiscard, AsyncPutBack, AsyncWork, Ending

if TYPE_CHECKING:
    from .base import PoolCore

Ts = TypeVarTuple("Ts")

#: (conninfo, kwargs) that the dial under way uses: callables are called once per attempt
_resolved: ContextVar[tuple[str, dict[str, Any]] | None] = ContextVar("resolved", default=None)


class AsyncShell(Shell, psycopg_pool.AsyncConnectionPool[ACT]):
    """An asyncio pool whose `_connect` asks the topology."""

    _add_task = AsyncAddConnection
    _discard_task = AsyncDiscard
    _work = AsyncWork
    _loop: asyncio.AbstractEventLoop | None = None

    def _fresh_lock(self) -> None:
        del self._lock  # made anew on the loop that opens the pool

    def _start_workers(self) -> None:
        self._loop = asyncio.get_running_loop()  # first: whoever is attached is told of news
        if not callable(self.conninfo) and not callable(self.kwargs):
            # A conninfo that can't be parsed surfaces where psycopg_pool lets it: in a worker.
            with suppress(psycopg.ProgrammingError):
                self._core.attach(self.conninfo or "", self.kwargs or {})
        self._core.opened(ReplicaTasks(self, AsyncReplicaTask))
        super()._start_workers()
        fork.follow(self._core)

    @classmethod
    async def worker(cls, q: Any) -> None:
        """As psycopg_pool's, which does the tasks that come from the queue `q`.  It takes a
        cancellation for the failure of its task: a loop that ends would wait for it for ever."""
        await super().worker(cast(Any, Ending(q)))

    def _spare_worker(self) -> None:
        """There are replicas now: the only worker would not be left for the writer."""
        if len(self._workers) == 1:
            name = f"{self.name}-worker-1"
            self._workers.append(aspawn(self.worker, args=(self._tasks,), name=name))

    async def _end_replica_tasks(self) -> None:
        """All pools are closed: what is left to do is to close connections."""
        tasks = self._core.replica_tasks
        while tasks is not None and (task := tasks.take()) is not None:
            await task.run()

    # -- connecting

    async def _resolve_conninfo(self) -> str:
        resolved = _resolved.get()
        return resolved[0] if resolved else await super()._resolve_conninfo()

    async def _resolve_kwargs(self) -> dict[str, Any]:
        resolved = _resolved.get()
        return resolved[1] if resolved else await super()._resolve_kwargs()

    # long: one loop over the commands
    async def _connect(self, timeout: float | None = None, at: Endpoint | None = None) -> ACT:
        core = self._core
        gave_up_at.set(core.topology.version)  # whatever ends this, only news begin it again
        limit_s = timeout if timeout is not None else core.settings.deadline_s
        deadline_at = deadline_in(limit_s)
        conninfo, kwargs = await self._resolve_conninfo(), await self._resolve_kwargs()
        core.attach(conninfo, kwargs)
        commands = self._commands(timeout is not None, at)
        answer: object = None
        failure: BaseException | None = None
        while True:
            try:
                command = commands.send(answer)
            except StopIteration:
                gave_up_at.set(core.topology.version)
                if failure is not None and timeout is None:
                    raise failure from None
                raise core.nobody_to_dial(self._wanted, timeout) from failure
            answer = None
            if isinstance(command, connect.Look):
                warm = self._from_stock() if at is None else None
                if warm is not None:
                    warm._pool = self
                    if (link := link_of(warm)) is not None:
                        core.cluster.reconnected(link.endpoint)
                    return cast(ACT, warm)
                answer = core.topology, remaining(deadline_at)
            elif isinstance(command, connect.Await):
                await self._await(command)
            elif isinstance(command, connect.Ask):
                answer = core.may_dial(command.endpoint, self._max_size, command.by_chance)
            else:
                try:
                    dial = core.dial(command.endpoint, self._wanted, deadline_at)
                except psycopg.OperationalError as exc:  # not now
                    failure, answer = exc, False
                    continue
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
        connected = False
        try:
            with dialling(dial):
                conn = await super()._connect(
                    None if timeout is None else remaining(dial.deadline_at)
                )
            self._core.connected(conn, dial)
            connected = True
        finally:
            _resolved.reset(token)
            if timeout is None:
                self._core.dialled(dial, connected)
        if timeout is None and not self._waiting:
            await self._meet(conn)
        return conn

    async def _meet(self, conn: ACT) -> None:
        """On a worker, while nobody waits for the connection."""
        keeper = keeper_of(conn)
        if keeper is None:
            return
        try:
            await conn.wait(keeper.meet(self._core))
        except psycopg.Error:
            pass  # it is found gone, and replaced
        except BaseException:
            close(conn)
            raise

    async def _renewed(self, conn: ACT, timeout: float, at: Endpoint | None = None) -> ACT:
        """A new connection for a checkout whose own was lost, as fit for it as another checkout's:
        configured and checked.  With `at`, to this endpoint and no other."""
        deadline_at = deadline_in(timeout)
        for pause_s in check_pauses():
            left_s = max(remaining(deadline_at), 0.001)
            found = await (self._connect(left_s, at) if at else self._elsewhere(left_s))
            fresh = await self._fit_for(conn, found, deadline_at)
            try:
                await self._check_connection(fresh)
                break
            except BaseException as exc:
                close(fresh)
                if not isinstance(exc, Exception) or remaining(deadline_at) <= pause_s:
                    raise
            await asyncio.sleep(pause_s)
        return fresh  # pyright: ignore[reportReturnType]  # the loop never runs dry

    async def _untell(self, conn: ACT) -> None:
        """It was lent for reading, and its server told so: others may write."""
        keeper = keeper_of(conn)
        assert keeper is not None
        try:
            if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                await conn.rollback()
            await conn.wait(keeper.untell_read_only())
        except psycopg.Error:
            conn._expire_at = 0.0  # nobody gets it any more

    async def _fit_for(self, conn: ACT, fresh: ACT, deadline_at: float) -> ACT:
        """This new one, or another one, in the place of that one."""
        return fresh

    async def _elsewhere(self, timeout: float) -> ACT:
        """A new connection to whoever fits now."""
        return await self._connect(timeout)

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
            if self._defer(task):
                self.run_task(task)
                return
            delay = self._paced(delay)
        if (scheduler := self._scheduler) is not None:
            await scheduler.enter(delay, task.tick)

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

    # -- probes on idle connections, from the monitor's thread

    def _try_lend(self, endpoint: Endpoint, answer: Future[Any]) -> bool:
        """Answer with an idle connection or None, from the pool's own loop."""
        return self._on_loop(self._lend, endpoint, answer)

    def _try_overdue(self, conn: ACT) -> bool:
        """A lent connection is overdue."""
        return self._on_loop(self._overdue, conn)

    def _try_return(self, conn: ACT) -> bool:
        """A lent connection comes back."""
        return self._on_loop(self._take_back, conn)

    def _on_loop(self, call: Callable[[*Ts], object], *args: *Ts) -> bool:
        # Without an await inside, nobody else is inside the pool's state.
        assert self._loop is not None
        self._loop.call_soon_threadsafe(call, *args)
        return True

    def _take_back(self, conn: ACT) -> None:
        if self._sound(conn):
            # Not as a task: the loop may end with this very callback.
            with suppress(StopIteration):
                self._add_to_pool(conn).send(None)

    # -- what its core has it do

    async def _look_up(self, reads: list[Asked], idle: int) -> None:
        """Ask a catalogue whether statements can only read, on a connection that can be spared."""
        core = self._core
        conn: Any = self._spare(idle)
        if conn is None:
            return
        try:
            with suppress(psycopg.Error):  # it is found gone, and replaced
                found = await conn.wait(only_reading(conn.pgconn, reads))
                core.known.learnt(found, set(reads) - set(found))
        finally:
            if self._sound(conn):
                await self._add_to_pool(conn)

    def _renew_soon(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop was closed before the pool
                self._loop.call_soon_threadsafe(self.run_task, AsyncWork(self, self._renew))

    async def _renew(self) -> None:
        """Ask the functions that give the credentials again, and try what they say at once."""
        self._core.attach(await self._resolve_conninfo(), await self._resolve_kwargs())
        self._take_up()

    # Where nobody is inside the pool's state and nothing has to be waited for, its lock isn't
    # taken: no other task runs meanwhile.

    async def _getconn_unchecked(self, timeout: float) -> ACT:
        while self._pool and timeout > 0 and not self._lock.locked():
            conn = self._pool.popleft()
            self._nconns_min = min(self._nconns_min, len(self._pool))
            if self._fit(conn):
                conn._pool = self
                return cast(ACT, conn)
            self.run_task(AsyncDiscard(self, [conn]))
        return await super()._getconn_unchecked(timeout)

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:
        conn = await super()._get_ready_connection(timeout)
        while conn is not None and not self._fit(conn):
            self.run_task(AsyncDiscard(self, [conn]))
            conn = await super()._get_ready_connection(timeout)
        return conn

    # A cancellation strikes where a task is suspended.  Returning a connection must not be
    # such a place, or the connection is lost to the pool: where it would have to wait, a
    # worker does it.

    async def putconn(self, conn: ACT) -> None:
        if self._lock.locked() and getattr(conn, "_pool", None) is self:
            self.run_task(AsyncPutBack(self, conn, self._put_now))
        else:
            await super().putconn(conn)

    async def _put_now(self, conn: ACT) -> None:
        await super().putconn(conn)

    async def _add_to_pool(self, conn: ACT) -> None:
        somebody = self._waiting or self._pool_full_event or self._lock.locked()
        if self._keeps_idle and not (self._closed or somebody):
            conn._pool = None
            self._pool.append(conn)
        elif self._closed or not self._would_wait():
            await super()._add_to_pool(conn)
        else:
            self.run_task(AsyncPutBack(self, conn, self._add_now))

    async def _add_now(self, conn: ACT) -> None:
        await super()._add_to_pool(conn)

    def _would_wait(self) -> bool:
        lock = self._lock
        # Without waiters nobody is promised anything; where asyncio names them otherwise, look.
        if lock.locked() or (getattr(lock, "_waiters", True) and self._promised()):
            return True
        for client in self._waiting:
            if client._cond.locked():
                return True
            if not (client.conn or client.error):
                return False  # it takes the connection at once
        return False

    def _promised(self) -> bool:
        # A lock that was released for somebody isn't taken, and yet can't be had at once.
        taking = self._lock.acquire()
        try:
            taking.send(None)
        except StopIteration:
            self._lock.release()
            return False
        taking.close()
        return True

    async def _return_connection(self, conn: ACT, from_getconn: bool) -> None:
        self._coming_back(conn)
        await super()._return_connection(conn, from_getconn)


class AsyncReplicaPool(Reserve, AsyncShell[ACT]):
    """The warm connections of one replica, for the pool that owns it."""

    def __init__(self, owner: Any, core: PoolCore, **kwargs: Any) -> None:
        self.owner = weakref.ref(owner)
        self._start_core(core)
        super().__init__(owner.conninfo, open=False, **kwargs)

    def _start_workers(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._core.cluster.listen(self._core)  # the owner's do its work

    async def putconn(self, conn: ACT) -> None:
        if self._on_checkin(conn):
            await self._untell(conn)
        self._end_reading(conn)
        promoted = self._newly_promoted(conn)
        await super().putconn(conn)
        if promoted is not None:
            self._core.cluster.ask_now(promoted)

    async def _getconn_unchecked(self, timeout: float) -> ACT:
        if not self._spares():
            plain: Any = psycopg_pool.AsyncConnectionPool
            return cast(ACT, await plain._getconn_unchecked(self, timeout))
        conn = await super()._getconn_unchecked(timeout)
        self._restock()
        return conn

    async def _get_ready_connection(self, timeout: float | None) -> ACT | None:
        if not self._spares():
            return None  # waits for one that comes back
        conn = await super()._get_ready_connection(timeout)
        self._restock()
        return conn

    async def _shrink_pool(self) -> None:
        async with self._lock:
            if not self._used_first():
                self._nconns_min = 0  # the reserve stays
        await super()._shrink_pool()

    async def _elsewhere(self, timeout: float) -> ACT:
        """Another replica, or else the primary."""
        owner, core = self.owner(), self._core
        if owner is None or core.owner is None:
            return await self._connect(timeout)
        deadline_at = deadline_in(timeout)
        failed: frozenset[object] = frozenset()
        while True:
            view = core.reader(None, failed)
            replica = core.owner.replicas.get(view.endpoint) if view else None
            if view is None or replica is None or remaining(deadline_at) <= 0:
                return cast(ACT, await owner._connect(max(remaining(deadline_at), 0.001)))
            try:
                share_s = min(remaining(deadline_at), core.settings.probe_timeout_s)
                return cast(ACT, await replica.pool._connect(share_s))
            except psycopg.OperationalError:
                failed |= {view.endpoint}
