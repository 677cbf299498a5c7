# Made from resilient/postgres/pool/aio.py by `make generate`: change that one.
"""The thread pools: psycopg_pool's, dialling whatever the topology names.

What is decided is in `base`, what sync and async do alike in `shell`; here is the waiting.
"""

# long: what users call of a pool, in one piece
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast, overload

import psycopg
import psycopg_pool

from ...core import connect, routing
from ...core.model import CausalToken, EndpointView
from ...telemetry.records import Record
from .. import role
from .._psycopg import CT
from ..session.keeper import close, insist, insists
from .apart import Apart
from .attempts import Attempts
from .deadline import deadline_in, remaining
from .proof import proves
from .reader import Reader, reader_of
from .shell import NO_ROOM
from .shell_sync import ReplicaPool, SyncShell
from .siblings import WRITER, beside, replica_arguments

P = ParamSpec("P")
T = TypeVar("T")


class ResilientPool(Apart, SyncShell[CT]):
    """What both public pools add: routing, `run`, `reader`, and their own errors."""

    #: of a pool that reads by default: the one for its explicit writes, once there was one
    _writing: Any = None

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
            core.replicas.pop(endpoint).pool.close(timeout=1.0)
        for endpoint in wanted - set(core.replicas):
            if self._closed:
                return
            beneath = core.for_replica(endpoint)
            pool: ReplicaPool[CT] = ReplicaPool(
                self, beneath, **replica_arguments(self, core.settings, endpoint)
            )
            core.add_replica(endpoint, pool, beneath)
            self._spare_worker()
            pool.open()

    def close(self, timeout: float = 5.0) -> None:
        was_open = not self._closed
        super().close(timeout)
        if was_open:
            self._end_apart()
            if self._writing is not None:
                self._writing.close(timeout)
            while self._core.replicas:
                self._core.replicas.popitem()[1].pool.close(timeout)
            self._end_replica_tasks()
            while self._core.stock:
                self._close_connection(cast(CT, self._core.stock.popleft()))
            self._core.detach()

    def _dropped(self) -> None:
        if getattr(self, "_core", None) is not None:
            while self._core.replicas:
                self._core.replicas.popitem()[1].pool.close(timeout=1.0)
            self._end_replica_tasks()
            self._core.detach(wait=False)

    def wait(self, timeout: float = 30.0) -> None:
        """As psycopg_pool's; the error says what is in the way."""
        try:
            super().wait(timeout)
        except psycopg_pool.PoolTimeout as exc:
            error = self._core.explain(exc, timeout)
            if error is exc:
                raise
            raise error from self._core.last_failure or exc

    # -- checkouts

    def getconn(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> CT:
        """Obtain a connection: for reading with `read_only=True`, for writing with `False`.

        Without it the connection string says which (`target_session_attrs`), and where that
        doesn't either it is for writing, unless all that is configured are replicas.  An
        explicit write waits for a primary, and for one that takes writes by default.
        `timeout`: seconds, default the pool's.  `max_staleness_s` bounds a replica's lag; `after`,
        a token of `causal_token`, makes the read see that commit.  Raises `PoolTimeout`; its
        subclass `NoEndpointAvailable` when no endpoint fits.  Pair with `putconn`.
        """
        began_s = time.monotonic()
        if read_only is None and self._pool and self._plainly(timeout):
            with self._lock:
                conn = self._next_idle(began_s)
            if conn is not None:
                return self._hand_out(conn, began_s)  # type: ignore[no-any-return]
        try:
            conn = self._checkout(timeout, read_only, max_staleness_s, after)
        except psycopg_pool.PoolTimeout:
            self._core.gave_up(began_s)
            raise
        self._core.handed_out(conn, began_s)
        return conn

    def _checkout(
        self,
        timeout: float | None,
        read_only: bool | None,
        max_staleness_s: float | None,
        after: CausalToken | None,
    ) -> CT:
        if self._core.reopen:
            self._core.reopened()
            self.open()
        core, limit_s = self._core, self.timeout if timeout is None else timeout
        deadline_at = deadline_in(limit_s)
        if not (read_only is None and core.plain):
            reads = core.reads
            if read_only is None and reads and core.bounded(max_staleness_s, after):
                read_only = True
            if read_only and (after is None or core.replicas_may_have(after)):
                return self._getconn_reader(timeout, max_staleness_s, after)
            if reads and (read_only is False or after is not None):
                return self._getconn_writer(timeout, bool(read_only))
            if not read_only and core.barred() and (read_only is False or core.wanted.strict):
                timeout = self._until_writable(timeout)
        try:
            conn = super().getconn(timeout)
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
                super().putconn(conn)
                return self._getconn_writer(max(remaining(deadline_at), 0.001), False)
            insist(conn)
            return self._on_checkout(conn)
        return self._as_default(conn)

    def _until_writable(self, timeout: float | None) -> float:
        """Wait for a primary that takes writes by default; the seconds that are left."""
        limit_s = self.timeout if timeout is None else timeout
        deadline_at = deadline_in(limit_s)
        core = self._core
        while core.barred():
            if remaining(deadline_at) <= 0:
                raise core.nobody(WRITER, limit_s)
            self._await(connect.Await(core.topology.version, remaining(deadline_at)))
        return max(remaining(deadline_at), 0.001)

    def _getconn_writer(self, timeout: float | None, read_only: bool) -> CT:
        """An explicit write where checkouts are for reading by default: of a pool beside."""
        conn = (self._writer())._checkout(timeout, None, None, None)
        return cast(CT, self._make_read_only(conn) if read_only else conn)

    def _writer(self) -> Any:
        if self._writing is None:
            self._writing = beside(self, self._kind, self._core.settings)
            self._writing.open()
        return self._writing

    def _fit_for(self, conn: CT, fresh: CT, deadline_at: float) -> CT:
        """An explicit write goes on at a primary, also where checkouts are for reading by now."""
        if not (insists(conn) and self._core.met_standby(fresh)):
            return fresh
        close(fresh)
        return cast(CT, (self._writer())._connect(max(remaining(deadline_at), 0.001)))

    def _getconn_reader(
        self,
        timeout: float | None,
        max_staleness_s: float | None,
        after: CausalToken | None,
        avoided: frozenset[object] = frozenset(),
    ) -> CT:
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
                        return self._getconn_writer(left_s, True)
                    conn = self._checkout(left_s, None, None, None)
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
                conn = pool.getconn(share_s)
                if self._proves(conn, view, after, max_staleness_s):
                    core.read_at(view)
                    self._on_checkout(conn)
                    return self._make_read_only(conn)
                pool.putconn(conn)
                search.passes(view.endpoint)
            except NO_ROOM:
                search.passes(view.endpoint)

    def _proves(
        self,
        conn: CT,
        view: EndpointView,
        after: CausalToken | None,
        max_staleness_s: float | None,
    ) -> bool:
        """Has this replica what is asked for?  At most a round trip for each."""
        core = self._core
        bound_s = core.settings.max_staleness_s if max_staleness_s is None else max_staleness_s
        gen = proves(conn.pgconn, core.topology, view, after, bound_s, late=core.proved_late)
        try:
            return conn.wait(gen)
        except (role.RoleError, psycopg.Error):
            return False

    def causal_token(self) -> CausalToken:
        """A token for `after=`: a later read with it sees every commit made so far, so also
        the last one of this thread.  One round trip to the primary."""
        deadline_at = deadline_in(self._core.settings.deadline_s)
        while True:
            with self.connection(read_only=False if self._core.reads else None) as conn:
                try:
                    at = conn.wait(role.position(conn.pgconn))
                except (role.RoleError, psycopg.OperationalError) as failure:
                    exc = psycopg.OperationalError(f"no token: {failure}")
                    if not conn.closed or remaining(deadline_at) <= 0:
                        raise exc from failure
                    self._core.note(conn, exc)  # its session is gone: asked again on another
                else:
                    return CausalToken(at.timeline, at.lsn, at.system_id)

    def putconn(self, conn: CT) -> None:
        if self._comes_plainly(conn):
            with self._lock:
                if not (self._waiting or self._pool_full_event or self._closed):
                    self._pool.append(conn)
                    return
            self._add_to_pool(conn)
            return
        self._core.came_back(conn)
        home = getattr(conn, "_pool", None)
        if home is not self and home is not None and self._is_ours(home):
            home.putconn(conn)
        else:
            if self._on_checkin(conn):
                self._untell(conn)
            super().putconn(conn)

    def _is_ours(self, home: object) -> bool:
        """Is it one of the pools beside this one?"""
        replica = isinstance(home, ReplicaPool) and home.owner() is self
        return replica or home is self._writing

    @contextmanager
    def connection(
        self,
        timeout: float | None = None,
        *,
        read_only: bool | None = None,
        max_staleness_s: float | None = None,
        after: CausalToken | None = None,
    ) -> Iterator[CT]:
        """A connection for a `with` block: committed at its end, rolled back on an error.

        `timeout` (seconds), `read_only`, `max_staleness_s` and `after` are those of `getconn`, and
        so are the errors.
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
    def failovers(self) -> tuple[Record, ...]:
        """The last 20 failovers of this pool's cluster, oldest first; see `resilient.recorder`."""
        return self._core.failovers

    @property
    def reader(self) -> Self:
        """This pool for code that only reads: a pool of the same class, whose every checkout goes
        to a replica.  Closing it leaves this one open."""
        return cast(Self, reader_of(self, Reader))

    @overload
    def run(
        self,
        fn: Callable[Concatenate[CT, ...], T],
        /,
        *args: Any,
        read_only: bool | None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    def run(
        self,
        fn: Callable[Concatenate[CT, ...], T],
        /,
        *args: Any,
        read_only: bool | None = None,
        timeout: float | None,
        **kwargs: Any,
    ) -> T: ...

    @overload
    def run(
        self, fn: Callable[Concatenate[CT, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    def run(  # type: ignore[misc]  # mypy: P might hold `timeout`
        self,
        fn: Callable[..., T],
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
            return self._run_once(attempts, fn, args, kwargs, read_only)
        except psycopg.Error as exc:
            if not attempts.again(exc):
                raise
        time.sleep(attempts.pause_s)
        for attempt in attempts.more():
            with attempt:
                return self._run_once(attempts, fn, args, kwargs, read_only)
        raise AssertionError("the last attempt returns or raises")

    def _run_once(
        self,
        attempts: Attempts,
        fn: Callable[..., T],
        args: Any,
        kwargs: Any,
        read_only: bool | None,
    ) -> T:
        if read_only and attempts.avoided:
            began_s = time.monotonic()
            conn = self._getconn_reader(attempts.left_s(), None, None, attempts.avoided)
            self._core.handed_out(conn, began_s)
        else:
            conn = self.getconn(attempts.left_s(), read_only=read_only)
        try:
            attempts.begins(conn)
            with conn.transaction():
                return fn(conn, *args, **kwargs)
        except psycopg.Error as exc:
            attempts.failed(conn, exc)
            raise
        finally:
            self.putconn(conn)
