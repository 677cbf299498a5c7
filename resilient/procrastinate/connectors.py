"""procrastinate's two connectors, their pools replaced by ours.

Each of procrastinate's queries is a transaction of its own, so it is run as one (`pool.run`): a
job that was fetched and not yet committed when its primary died is fetched anew, or another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import psycopg_pool
from procrastinate import connector, exceptions
from procrastinate import psycopg_connector as stock
from procrastinate.sync_psycopg_connector import SyncPsycopgConnector as StockSync
from procrastinate.sync_psycopg_connector import wrap_exceptions
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads

from ..postgres import AsyncConnectionPool, CommitOutcomeUnknown, ConnectionPool, Gap
from .unknown import settled

#: how the names of its channels for workers begin
CHANNELS = "procrastinate_"
#: what a worker is told after a gap: look for jobs
LOOK = '{"type": "job_inserted", "job_id": 0}'
Row = dict[str, Any]
#: what procrastinate tells its pools to check at each checkout; ours look by themselves
CHECKS = (
    psycopg_pool.AsyncConnectionPool.check_connection,
    psycopg_pool.ConnectionPool.check_connection,
)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("check") in CHECKS:
        return {name: value for name, value in given.items() if name != "check"}
    return given


def _pool(**given: Any) -> AsyncConnectionPool[Any]:
    return AsyncConnectionPool(**_arguments(given))


class PsycopgConnector(stock.PsycopgConnector):
    """procrastinate's `PsycopgConnector` over an `AsyncConnectionPool`: its arguments, and without
    any the database of the environment."""

    def __init__(
        self,
        *,
        json_dumps: Callable[..., Any] | None = None,
        json_loads: Callable[..., Any] | None = None,
        pool_factory: Callable[..., Any] = _pool,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            json_dumps=json_dumps, json_loads=json_loads, pool_factory=pool_factory, **kwargs
        )
        self._json = json_loads, json_dumps
        self._given = kwargs

    def get_sync_connector(self) -> connector.BaseConnector:
        """For callers without a loop, before it is opened."""
        if self._async_pool is not None:
            return self
        if self._sync_connector is None:
            loads, dumps = self._json
            self._sync_connector = SyncPsycopgConnector(
                json_dumps=dumps, json_loads=loads, **self._given
            )
        return self._sync_connector

    async def _rows(self, query: Any, arguments: dict[str, Any], fetch: str) -> Any:
        values = self._wrap_json(arguments)

        seen: Any = None

        async def work(conn: psycopg.AsyncConnection[Any]) -> Any:
            nonlocal seen
            async with conn.cursor(row_factory=dict_row) as cursor:
                _adapt(cursor, *self._json)
                await cursor.execute(query, values)
                seen = await getattr(cursor, fetch)() if fetch else None
                return seen

        with wrap_exceptions():
            pool: Any = self.pool
            if isinstance(pool, AsyncConnectionPool):
                try:
                    return await pool.run(work)
                except CommitOutcomeUnknown:
                    known, answer = await settled(pool, query, work, seen)
                    if not known:
                        raise
                    return answer
            async with pool.connection() as conn:  # somebody else's: `open_async(pool)`
                return await work(conn)

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        await self._rows(query, arguments, "")

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> Row:
        row: Row | None = await self._rows(query, arguments, "fetchone")
        if row is None:
            raise exceptions.NoResult
        return row

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[Row]:
        rows: list[Row] = await self._rows(query, arguments, "fetchall")
        return rows

    async def listen_notify(
        self, on_notification: connector.Notify, channels: Iterable[str]
    ) -> None:
        """For as long as the pool is open.  After a gap, and once it listens, whoever listens looks
        for jobs."""
        pool: Any = self.pool
        if not isinstance(pool, AsyncConnectionPool):
            await super().listen_notify(on_notification, channels)
            return
        names = tuple(channels)
        workers = all(name.startswith(CHANNELS) for name in names)
        with wrap_exceptions():
            async for event in pool.listen(*names, gap_first=workers):
                if not isinstance(event, Gap):
                    await on_notification(channel=event.channel, payload=event.payload)
                elif workers:
                    await on_notification(channel=names[0], payload=LOOK)


class SyncPsycopgConnector(StockSync):
    """procrastinate's `SyncPsycopgConnector` over a `ConnectionPool`."""

    def __init__(
        self,
        *,
        json_dumps: Callable[..., Any] | None = None,
        json_loads: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(json_dumps=json_dumps, json_loads=json_loads, **kwargs)
        self._json = json_loads, json_dumps

    @staticmethod
    def _create_pool(pool_args: dict[str, Any]) -> ConnectionPool[Any]:
        with wrap_exceptions():
            return ConnectionPool(**pool_args, open=False)

    def _rows(self, query: Any, arguments: dict[str, Any], fetch: str) -> Any:
        values = self._wrap_json(arguments)

        def work(conn: psycopg.Connection[Any]) -> Any:
            with conn.cursor(row_factory=dict_row) as cursor:
                _adapt(cursor, *self._json)
                cursor.execute(query, values)
                return getattr(cursor, fetch)() if fetch else None

        with wrap_exceptions():
            pool: Any = self.pool
            if isinstance(pool, ConnectionPool):
                return pool.run(work)
            with pool.connection() as conn:
                return work(conn)

    def execute_query(self, query: Any, **arguments: Any) -> None:
        self._rows(query, arguments, "")

    def execute_query_one(self, query: Any, **arguments: Any) -> Row:
        row: Row | None = self._rows(query, arguments, "fetchone")
        if row is None:
            raise exceptions.NoResult
        return row

    def execute_query_all(self, query: Any, **arguments: Any) -> list[Row]:
        rows: list[Row] = self._rows(query, arguments, "fetchall")
        return rows


def _adapt(cursor: Any, loads: Callable[..., Any] | None, dumps: Callable[..., Any] | None) -> None:
    if loads is not None:
        set_json_loads(loads, context=cursor)
    if dumps is not None:
        set_json_dumps(dumps, context=cursor)
