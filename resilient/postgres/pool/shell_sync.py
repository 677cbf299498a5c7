"""How a thread pool dials, drains and takes back its connections.

What is decided is in `base`, what sync and async do alike in `shell`; here is the waiting.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import psycopg
import psycopg_pool
from psycopg import pq

from ...core import connect
from ...core.model import Endpoint, Topology
from ...core.reach import Asked
from .._psycopg import (
    CT,
    AddConnection,
    MaintenanceTask,
    spawn,
)
from ..replay.catalogue import only_reading
from ..session.dial import Dial, dialling
from ..session.keeper import close, keeper_of, link_of
from ..target import dial_params
from . import fork
from .deadline import deadline_in, remaining
from .replica_tasks import ReplicaTask, ReplicaTasks
from .reserve import Reserve
from .shell import Shell, check_pauses, gave_up_at
from .tasks import Discard, Work

if TYPE_CHECKING:
    from .base import PoolCore

#: (conninfo, kwargs) that the dial under way uses: callables are called once per attempt
_resolved: ContextVar[tuple[str, dict[str, Any]] | None] = ContextVar("resolved", default=None)


class SyncShell(Shell, psycopg_pool.ConnectionPool[CT]):
    """A thread pool whose `_connect` asks the topology."""

    _add_task = AddConnection
    _discard_task = Discard
    _work = Work

    def _fresh_lock(self) -> None:
        self._lock = threading.RLock()

    def _start_workers(self) -> None:
        if not callable(self.conninfo) and not callable(self.kwargs):
            # A conninfo that can't be parsed surfaces where psycopg_pool lets it: in a worker.
            with suppress(psycopg.ProgrammingError):
                self._core.attach(self.conninfo or "", self.kwargs or {})
        self._core.opened(ReplicaTasks(self, ReplicaTask))
        super()._start_workers()
        fork.follow(self._core)

    def _spare_worker(self) -> None:
        """There are replicas now: the only worker would not be left for the writer."""
        if len(self._workers) == 1:
            name = f"{self.name}-worker-1"
            self._workers.append(spawn(self.worker, args=(self._tasks,), name=name))

    def _end_replica_tasks(self) -> None:
        """All pools are closed: what is left to do is to close connections."""
        tasks = self._core.replica_tasks
        while tasks is not None and (task := tasks.take()) is not None:
            task.run()

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending():
            return  # its threads run no more: from Python 3.13 on who waits for them waits in vain
        # A worker may drop the last reference, and can't wait for itself; all have been told
        # to stop by then.
        with suppress(RuntimeError):
            super().__del__()
        self._dropped()

    def _dropped(self) -> None:
        """Nobody has it any more."""

    # -- connecting

    def _resolve_conninfo(self) -> str:
        resolved = _resolved.get()
        return resolved[0] if resolved else super()._resolve_conninfo()

    def _resolve_kwargs(self) -> dict[str, Any]:
        resolved = _resolved.get()
        return resolved[1] if resolved else super()._resolve_kwargs()

    # long: one loop over the commands
    def _connect(self, timeout: float | None = None, at: Endpoint | None = None) -> CT:
        core = self._core
        gave_up_at.set(core.topology.version)  # whatever ends this, only news begin it again
        limit_s = timeout if timeout is not None else core.settings.deadline_s
        deadline_at = deadline_in(limit_s)
        conninfo, kwargs = self._resolve_conninfo(), self._resolve_kwargs()
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
                    return cast(CT, warm)
                answer = core.topology, remaining(deadline_at)
            elif isinstance(command, connect.Await):
                self._await(command)
            elif isinstance(command, connect.Ask):
                answer = core.may_dial(command.endpoint, self._max_size, command.by_chance)
            else:
                try:
                    dial = core.dial(command.endpoint, self._wanted, deadline_at)
                except psycopg.OperationalError as exc:  # not now
                    failure, answer = exc, False
                    continue
                try:
                    return self._dial(dial, conninfo, kwargs, timeout)
                except Exception as exc:
                    failure, answer = exc, False
                    core.dial_failed(dial, exc)
                    if timeout is not None and core.final(exc):
                        raise

    def _dial(self, dial: Dial, conninfo: str, kwargs: dict[str, Any], timeout: float | None) -> CT:
        token = _resolved.set((conninfo, {**kwargs, **dial_params(dial.endpoint)}))
        connected = False
        try:
            with dialling(dial):
                conn = super()._connect(None if timeout is None else remaining(dial.deadline_at))
            self._core.connected(conn, dial)
            connected = True
        finally:
            _resolved.reset(token)
            if timeout is None:
                self._core.dialled(dial, connected)
        if timeout is None and not self._waiting:
            self._meet(conn)
        return conn

    def _meet(self, conn: CT) -> None:
        """On a worker, while nobody waits for the connection."""
        keeper = keeper_of(conn)
        if keeper is None:
            return
        try:
            conn.wait(keeper.meet(self._core))
        except psycopg.Error:
            pass  # it is found gone, and replaced
        except BaseException:
            close(conn)
            raise

    def _renewed(self, conn: CT, timeout: float, at: Endpoint | None = None) -> CT:
        """A new connection for a checkout whose own was lost, as fit for it as another checkout's:
        configured and checked.  With `at`, to this endpoint and no other."""
        deadline_at = deadline_in(timeout)
        for pause_s in check_pauses():
            left_s = max(remaining(deadline_at), 0.001)
            found = self._connect(left_s, at) if at else self._elsewhere(left_s)
            fresh = self._fit_for(conn, found, deadline_at)
            try:
                self._check_connection(fresh)
                break
            except BaseException as exc:
                close(fresh)
                if not isinstance(exc, Exception) or remaining(deadline_at) <= pause_s:
                    raise
            time.sleep(pause_s)
        return fresh  # pyright: ignore[reportReturnType]  # the loop never runs dry

    def _untell(self, conn: CT) -> None:
        """It was lent for reading, and its server told so: others may write."""
        keeper = keeper_of(conn)
        assert keeper is not None
        try:
            if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                conn.rollback()
            conn.wait(keeper.untell_read_only())
        except psycopg.Error:
            conn._expire_at = 0.0  # nobody gets it any more

    def _fit_for(self, conn: CT, fresh: CT, deadline_at: float) -> CT:
        """This new one, or another one, in the place of that one."""
        return fresh

    def _elsewhere(self, timeout: float) -> CT:
        """A new connection to whoever fits now."""
        return self._connect(timeout)

    def _await(self, command: connect.Await) -> None:
        event = threading.Event()
        self._core.cluster.wake(command.version, event.set)
        event.wait(command.seconds)
        self._core.cluster.forget(event.set)

    def schedule_task(self, task: MaintenanceTask, delay: float) -> None:
        if isinstance(task, AddConnection) and not self._closed:
            if self._defer(task):
                self.run_task(task)
                return
            delay = self._paced(delay)
        if (scheduler := self._scheduler) is not None:
            scheduler.enter(delay, task.tick)

    # -- the topology

    def _topology_changed(self, old: Topology, new: Topology) -> None:
        if self._closed:
            return
        with self._lock:
            stale = self._take_stale()
        self._apply(old, new, stale)

    def _release_idle(self) -> list[Any]:
        with self._lock:
            return super()._release_idle()

    # -- probes on idle connections, on the monitor's thread: it waits for no lock

    def _try_lend(self, endpoint: Endpoint, answer: Future[Any]) -> bool:
        """Answer with an idle connection or None.  False: not now."""
        return self._tried(partial(self._lend, endpoint, answer))

    def _try_overdue(self, conn: CT) -> bool:
        """A lent connection is overdue.  False: not now."""
        return self._tried(partial(self._overdue, conn))

    def _try_return(self, conn: CT) -> bool:
        """A lent connection comes back.  False: not now."""
        if not self._lock.acquire(blocking=False):
            return False
        conditions = []
        try:
            for client in self._waiting:  # up to the one who will be given it
                if not client._cond.acquire(blocking=False):
                    return False
                conditions.append(client._cond)
                if not (client.conn or client.error):
                    break
            if self._sound(conn):
                self._add_to_pool(conn)
        finally:
            for condition in conditions:
                condition.release()
            self._lock.release()
        return True

    def _tried(self, call: Callable[[], None]) -> bool:
        if not self._lock.acquire(blocking=False):
            return False
        try:
            call()
        finally:
            self._lock.release()
        return True

    # -- what its core has it do

    def _look_up(self, reads: list[Asked], idle: int) -> None:
        """Ask a catalogue whether statements can only read, on a connection that can be spared."""
        core = self._core
        with self._lock:
            conn: Any = self._spare(idle)
        if conn is None:
            return
        try:
            with suppress(psycopg.Error):  # it is found gone, and replaced
                found = conn.wait(only_reading(conn.pgconn, reads))
                core.known.learnt(found, set(reads) - set(found))
        finally:
            with self._lock:
                if self._sound(conn):
                    self._add_to_pool(conn)

    def _renew_soon(self) -> None:
        self.run_task(Work(self, self._renew))

    def _renew(self) -> None:
        """Ask the functions that give the credentials again, and try what they say at once."""
        self._core.attach(self._resolve_conninfo(), self._resolve_kwargs())
        self._take_up()

    def get_stats(self) -> dict[str, int]:
        with self._lock:  # not while a connection changes hands
            return super().get_stats()

    def pop_stats(self) -> dict[str, int]:
        with self._lock:
            return super().pop_stats()

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        conn = super()._get_ready_connection(timeout)
        while conn is not None and not self._fit(conn):
            self.run_task(Discard(self, [conn]))
            conn = super()._get_ready_connection(timeout)
        return conn

    def _return_connection(self, conn: CT, from_getconn: bool) -> None:
        self._coming_back(conn)
        super()._return_connection(conn, from_getconn)


class ReplicaPool(Reserve, SyncShell[CT]):
    """The warm connections of one replica, for the pool that owns it."""

    def __init__(self, owner: Any, core: PoolCore, **kwargs: Any) -> None:
        self.owner = weakref.ref(owner)
        self._start_core(core)
        super().__init__(owner.conninfo, open=False, **kwargs)

    def _start_workers(self) -> None:
        self._core.cluster.listen(self._core)  # the owner's do its work

    def putconn(self, conn: CT) -> None:
        if self._on_checkin(conn):
            self._untell(conn)
        self._end_reading(conn)
        promoted = self._newly_promoted(conn)
        super().putconn(conn)
        if promoted is not None:
            self._core.cluster.ask_now(promoted)

    def _get_ready_connection(self, timeout: float | None) -> CT | None:
        if not self._spares():
            return None  # waits for one that comes back
        conn = super()._get_ready_connection(timeout)
        self._restock()
        return conn

    def _shrink_pool(self) -> None:
        with self._lock:
            if not self._used_first():
                self._nconns_min = 0  # the reserve stays
        super()._shrink_pool()

    def _elsewhere(self, timeout: float) -> CT:
        """Another replica, or else the primary."""
        owner, core = self.owner(), self._core
        if owner is None or core.owner is None:
            return self._connect(timeout)
        deadline_at = deadline_in(timeout)
        failed: frozenset[object] = frozenset()
        while True:
            view = core.reader(None, failed)
            replica = core.owner.replicas.get(view.endpoint) if view else None
            if view is None or replica is None or remaining(deadline_at) <= 0:
                return cast(CT, owner._connect(max(remaining(deadline_at), 0.001)))
            try:
                share_s = min(remaining(deadline_at), core.settings.probe_timeout_s)
                return cast(CT, replica.pool._connect(share_s))
            except psycopg.OperationalError:
                failed |= {view.endpoint}
