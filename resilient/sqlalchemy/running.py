"""Engines, and transactions that are run again as a whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import psycopg
import sqlalchemy
import sqlalchemy.ext.asyncio
from sqlalchemy import exc

from ..postgres.pool.attempts import Attempts
from ..settings import Settings
from .greenlets import spawn

T = TypeVar("T")
URL = "postgresql+resilient://"


def create_engine(url: Any = URL, *, settings: Settings | None = None, **kwargs: Any) -> Any:
    """SQLAlchemy's `create_engine`, for this dialect whichever of PostgreSQL's the `url` names.

    Without a `url` the environment's (`RESILIENT_DATABASE_URL`).  `settings`: a
    `resilient.Settings`, default the environment.  Raises `ArgumentError` for other databases.
    """
    return sqlalchemy.create_engine(_ours(url), resilient_settings=settings, **kwargs)


def create_async_engine(url: Any = URL, *, settings: Settings | None = None, **kwargs: Any) -> Any:
    """SQLAlchemy's `create_async_engine` for this dialect; `url` and `settings` as in
    `create_engine`."""
    return sqlalchemy.ext.asyncio.create_async_engine(
        _ours(url), resilient_settings=settings, **kwargs
    )


def _ours(url: Any) -> Any:
    made = sqlalchemy.make_url(url)
    if made.get_backend_name() != "postgresql":
        raise exc.ArgumentError(f"{made.drivername}: no URL of PostgreSQL")
    return made.set(drivername="postgresql+resilient")


def run(
    target: Any, fn: Callable[..., T], /, *args: Any, timeout: float | None = None, **kwargs: Any
) -> T:
    """`fn(session, *args, **kwargs)` in a transaction of a new session (of an engine: of a
    connection), run again as a whole on a failover, a serialization failure or a deadlock.

    `target`: a `sessionmaker` or an `Engine`.  With `async_sessionmaker` or `AsyncEngine` the
    function is a coroutine function, and the result is to be awaited.  `timeout`: seconds.  Raises
    what `fn` raises; `CommitOutcomeUnknown` is never run again by guess.
    """
    if isinstance(
        target,
        sqlalchemy.ext.asyncio.async_sessionmaker | sqlalchemy.ext.asyncio.AsyncEngine,
    ):
        return cast(T, _run_later(target, fn, args, timeout, kwargs))
    attempts = _Attempts(target)
    while True:
        try:
            with attempts.opened() as made:
                attempts.begins(_driver(made), timeout)
                return fn(made, *args, **kwargs)
        except exc.DBAPIError as failure:
            attempts.failed(failure)
            time.sleep(attempts.pause_s)


async def _run_later(target: Any, fn: Any, args: Any, timeout: float | None, kwargs: Any) -> Any:
    attempts = _Attempts(target)
    while True:
        try:
            async with attempts.opened() as made:
                raw = made.sync_session if hasattr(made, "sync_session") else made.sync_connection
                driver = await spawn(_driver, raw)
                attempts.begins(driver, timeout)
                return await fn(made, *args, **kwargs)
        except exc.DBAPIError as failure:
            attempts.failed(failure)
            await asyncio.sleep(attempts.pause_s)


def _driver(made: Any) -> Any:
    """psycopg's connection below a session or a connection; it is checked out with this."""
    connection = made.connection
    fairy = connection().connection if callable(connection) else connection
    return fairy.driver_connection


class _Attempts:
    """The attempts of one `run`, in SQLAlchemy's terms."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._conn: Any = None
        self._attempts: Attempts | None = None
        self._last: exc.DBAPIError | None = None
        self.pause_s = 0.0

    def opened(self) -> Any:
        """A transaction, to be entered: `begin` of a session factory or of an engine."""
        return self._target.begin()

    def begins(self, conn: Any, timeout: float | None) -> None:
        self._conn = conn
        if self._attempts is None:
            home = conn._pool
            owner = home.owner() if getattr(home, "_bound", None) is not None else home
            self._attempts = Attempts(owner._core, timeout)
        try:
            self._attempts.begins(conn)
        except psycopg.Error:
            assert self._last is not None
            raise self._last from None

    def failed(self, failure: exc.DBAPIError) -> None:
        """Returns where it is to be run again."""
        attempts, orig = self._attempts, failure.orig
        if attempts is None or failure is self._last or not isinstance(orig, psycopg.Error):
            raise failure
        attempts.failed(self._conn, orig)
        if not attempts.again(orig):
            raise failure
        self._last, self.pause_s = failure, attempts.pause_s
