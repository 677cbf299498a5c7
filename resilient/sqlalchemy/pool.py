"""The engine's pool, which is one of `resilient.postgres`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, cast
from weakref import WeakKeyDictionary

from psycopg.types.hstore import register_hstore
from sqlalchemy import exc as errors
from sqlalchemy import pool

from ..postgres import (
    AsyncConnectionPool,
    AsyncNullConnectionPool,
    ConnectionPool,
    NullConnectionPool,
)
from ..postgres.pool.mistakes import fail_waiting, fail_waiting_later, stays
from ..settings import Settings
from .greenlets import await_, in_greenlet, spawn

#: connections of a pool that SQLAlchemy would not have bounded
UNBOUNDED = 1000

#: the checkout that is made is for reading
reading: ContextVar[bool] = ContextVar("resilient_sqlalchemyreading", default=False)
#: the record that handlers of `do_connect` were given, for the session that is opened now
opening: ContextVar[Any] = ContextVar("resilient_sqlalchemyopening", default=None)


class Parameters:
    """What `connect` would have connected with: the pool does, and again after a failover."""

    def __init__(self, cparams: Mapping[str, Any]) -> None:
        self.cparams = dict(cparams)


def raw_connection(engine: Any, read_only: bool) -> Any:
    token = reading.set(read_only)
    try:
        return engine.pool.connect()
    finally:
        reading.reset(token)


def put_back(conn: Any) -> None:
    """A connection of psycopg returns to its pool, wherever this is called."""
    home = getattr(conn, "_pool", None)
    if home is None:
        return
    loop = getattr(home, "_loop", None)
    if loop is None:
        home.putconn(conn)
    elif in_greenlet():
        await_(home.putconn(conn))
    else:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: loop.create_task(home.putconn(conn)))


def let_go(conn: Any) -> None:
    """It is its caller's from here on; its pool has another one made in its place."""
    home = getattr(conn, "_pool", None)
    if home is None:
        return
    conn._pool = None
    home._core.came_back(conn)
    loop = getattr(home, "_loop", None)
    if loop is None:
        home.run_task(home._add_task(home))
    else:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: home.run_task(home._add_task(home)))


def _stays(exc: Exception) -> bool:
    return stays(exc.orig if isinstance(exc, errors.DBAPIError) else exc)


class Pool(pool.Pool):
    """The engine's pool: connections, queue and sizes are a resilient pool's.

    `pool_size` and `max_overflow` together bound it, `pool_timeout` is how long a checkout waits,
    `pool_recycle` how old a connection gets.  `pool_pre_ping` is accepted and needless.  Handlers
    of `connect` run once for each new session, also for one that replaces a lost one.
    """

    def __init__(  # noqa: PLR0917  # the arguments of SQLAlchemy's QueuePool, and ours
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        use_lifo: bool = False,
        recycle: int = -1,
        pre_ping: bool = False,
        keeps: bool = True,
        resilient_settings: Settings | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(creator, **kwargs)
        self._given: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "timeout": timeout,
            "recycle": recycle,
            "keeps": keeps,
            "resilient_settings": resilient_settings,
        }
        bounded = pool_size > 0 and max_overflow >= 0
        self._most = pool_size + max_overflow if bounded else UNBOUNDED
        self._least = 1 if keeps else 0
        self._timeout = timeout
        self._lock = threading.Lock()
        #: what callers hold, by record: the pool below counts sessions that are opening, too
        self._out: dict[Any, Any] = {}
        #: of threads: one; of asyncio: one for each loop
        self._of_loops: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._of_threads: Any = None

    # -- the resilient pool below

    @property
    def resilient(self) -> Any:
        """The pool of `resilient.postgres`; of asyncio: the running loop's."""
        if not self._asynchronous:
            with self._lock:
                if self._of_threads is None:
                    self._of_threads = self._made()
                    self._of_threads.open()
                return self._of_threads
        loop = asyncio.get_running_loop()
        made = self._of_loops.get(loop)
        if made is None:
            made = self._of_loops[loop] = self._made()
        if made.closed and not made._opened:
            await_(made.open())
        return made

    @property
    def _asynchronous(self) -> bool:
        return bool(cast(Any, self._dialect).is_async)

    def _made(self) -> Any:
        dialect: Any = self._dialect
        changing = bool(dialect._has_events and list(dialect.dispatch.do_connect))
        given = self._parameters()
        opening.set(None)  # of no session; workers start with a copy of this context
        keeps = self._given["keeps"]
        options: dict[str, Any] = {
            # A blank one: the URL's parameters, not the environment's beside them.
            "conninfo": " " if set(given) - {"context", "client_encoding"} else "",
            "kwargs": self._parameters if changing else given,
            "timeout": self._timeout,
            "settings": self._given["resilient_settings"],
            "open": False,
            "max_size": self._most if keeps else 0,
            # The dialect learns from the first session: no other is opened before (`_taken`).
            "min_size": 0,
        }
        if self._given["recycle"] > 0:
            options["max_lifetime"] = self._given["recycle"]
        if self._asynchronous:
            if changing:
                options["kwargs"] = self._parameters_later
            kind: Any = AsyncConnectionPool if keeps else AsyncNullConnectionPool
            return kind(configure=self._greet_later, **options)
        kind = ConnectionPool if keeps else NullConnectionPool
        return kind(configure=self._greet, **options)

    def _parameters(self) -> dict[str, Any]:
        """What to connect with, as handlers of `do_connect` leave it."""
        record = pool.base._ConnectionRecord(self, connect=False)
        opening.set(record)
        found = cast(Any, self)._invoke_creator(record)
        if not isinstance(found, Parameters):
            raise errors.ArgumentError(
                "creator= and handlers of do_connect that connect themselves can't be followed"
                " through a failover: let them change the parameters instead"
            )
        return found.cparams

    async def _parameters_later(self) -> dict[str, Any]:
        given: dict[str, Any] = await spawn(self._parameters)
        return given

    # -- a new session

    def _greet(self, conn: Any) -> None:
        """Handlers of `connect`, for a session that is new.  What they refuse, and would again,
        is told to whoever waits."""
        try:
            self._announce(conn, conn)
            conn.commit()
        except Exception as exc:
            if _stays(exc):
                fail_waiting(conn._pool, exc)
            raise

    async def _greet_later(self, conn: Any) -> None:
        try:
            await spawn(self._announce_adapted, conn)
            await conn.commit()
        except Exception as exc:
            if _stays(exc):
                await fail_waiting_later(conn._pool, exc)
            raise

    def _announce_adapted(self, conn: Any) -> None:
        self._announce(self._adapted(conn), conn)

    def _adapted(self, conn: Any) -> Any:
        """An asyncio connection as SQLAlchemy's dialect sees it.  In a greenlet."""

        async def made(*_: Any, **__: Any) -> Any:
            return conn

        return cast(Any, self._dialect).loaded_dbapi.connect(async_creator_fn=made)

    def _announce(self, dbapi_connection: Any, conn: Any) -> None:
        record = self._record_of(dbapi_connection, conn)
        dispatch: Any = self.dispatch
        if dispatch.first_connect:
            dispatch.first_connect.for_modify(dispatch).exec_once_unless_exception(
                dbapi_connection, record
            )
        dispatch.connect.for_modify(dispatch)._exec_w_sync_on_first_run(dbapi_connection, record)
        self._teach(conn)

    def _teach(self, conn: Any) -> None:
        """What the dialect learnt of the first session, for one that was opened at the same time:
        a replica's and the primary's are."""
        dialect: Any = self._dialect
        known = getattr(dialect, "_psycopg_adapters_map", None)
        info = known.types.get("hstore") if known is not None else None
        if info is not None and conn.adapters.types.get("hstore") is None:
            register_hstore(info, conn)

    def _record_of(self, dbapi_connection: Any, conn: Any) -> Any:
        """The record of a connection, the same for as long as it lives."""
        record: Any = conn.__dict__.get("_sqlalchemy_record")
        if record is None or record.dbapi_connection is None:
            record = opening.get() or pool.base._ConnectionRecord(self, connect=False)
            opening.set(None)
            record.dbapi_connection = dbapi_connection
            record.starttime, record.fresh = time.time(), True
            conn._sqlalchemy_record = record
        return record

    # -- what SQLAlchemy asks of a pool

    def _do_get(self) -> Any:
        record = self._taken()
        self._out[record] = record.driver_connection
        return record

    def _taken(self) -> Any:
        below, reads = self.resilient, reading.get() or None
        if not self._asynchronous:
            conn = below.getconn(self._timeout, read_only=reads)
            below._min_size = self._least
            return self._record_of(conn, conn)
        conn = await_(below.getconn(self._timeout, read_only=reads))
        below._min_size = self._least
        known = conn.__dict__.get("_sqlalchemy_record")
        if known is not None and known.dbapi_connection is not None:
            return known
        return self._record_of(self._adapted(conn), conn)

    def _do_return_conn(self, record: Any) -> None:
        conn = self._out.pop(record, None)
        if record.dbapi_connection is None:
            if conn is not None and not conn.closed:  # it was detached
                let_go(conn)
        elif record._soft_invalidate_time > record.starttime:
            record.invalidate()
        else:
            put_back(record.driver_connection)

    def _exchange(self, fairy: Any, read_only: bool) -> None:
        """Another connection under the one that the caller holds."""
        record, token = fairy._connection_record, reading.set(read_only)
        try:
            other = self._do_get()
        finally:
            reading.reset(token)
        held, fairy._connection_record = fairy.dbapi_connection, other
        fairy.dbapi_connection = other.dbapi_connection
        self._out.pop(record, None)
        other.fairy_ref, record.fairy_ref = record.fairy_ref, None
        put_back(cast(Any, self._dialect).get_driver_connection(held))

    def _invalidate(
        self, connection: Any, exception: BaseException | None = None, _checkin: bool = True
    ) -> None:
        """This connection only: the pool knows by itself of the others."""
        if _checkin and getattr(connection, "is_valid", False):
            connection.invalidate(exception)

    def recreate(self) -> Pool:
        return type(self)(
            self._creator,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
            **self._given,
        )

    def dispose(self) -> None:
        with self._lock:
            below, self._of_threads = self._of_threads, None
        if below is not None:
            below.close()
        if self._asynchronous and self._of_loops and in_greenlet():
            made = self._of_loops.pop(asyncio.get_running_loop(), None)
            if made is not None:
                await_(made.close())

    def _stats(self) -> dict[str, int]:
        found = [self._of_threads, *self._of_loops.values()]
        every = [below.get_stats() for below in found if below is not None and not below.closed]
        return {
            name: sum(stats.get(name, 0) for stats in every) for stats in every for name in stats
        }

    def size(self) -> int:
        """How many connections it may have."""
        return self._most

    def checkedin(self) -> int:
        """Connections that are idle."""
        return self._stats().get("pool_available", 0)

    def checkedout(self) -> int:
        """Connections that are in use."""
        return len(self._out)

    def status(self) -> str:
        stats = self._stats()
        return f"Pool of at most {self._most}, " + ", ".join(
            f"{name}: {stats.get(name, 0)}" for name in ("pool_size", "pool_available")
        )
