"""The dialect `postgresql+resilient`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sqlalchemy import event, exc, pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql import psycopg as stock

from .errors import classified
from .pool import Parameters, Pool, put_back, raw_connection

NAME = "postgresql.resilient"


class Dialect(stock.PGDialect_psycopg):
    """SQLAlchemy's psycopg dialect over `resilient.postgres`."""

    driver = "resilient"
    supports_statement_cache = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        event.listen(self, "handle_error", classified, retval=True)

    @classmethod
    def get_pool_class(cls, url: Any) -> Any:
        """The engine's pool is ours."""
        return Pool

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> Any:
        return AsyncDialect

    @classmethod
    def engine_created(cls, engine: Any) -> None:
        """Whatever pool was asked for, it is ours; NullPool keeps no connection."""
        if not isinstance(engine.pool, Pool):
            given = engine.pool
            engine.pool = Pool(
                given._creator,
                dialect=given._dialect,
                logging_name=given._orig_logging_name,
                reset_on_return=given._reset_on_return,
                keeps=not isinstance(given, pool.NullPool),
                _dispatch=given.dispatch,
            )

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        return Parameters(cparams)

    def do_close(self, dbapi_connection: Any) -> None:
        """Its session ends, and nobody gets what was left in it.  Its place goes back to the
        pool."""
        conn = self.get_driver_connection(dbapi_connection)
        conn.pgconn.finish()
        put_back(conn)

    def do_ping(self, dbapi_connection: Any) -> bool:
        return True  # the pool looks at its connections, and their sessions are renewed

    def set_engine_execution_options(self, engine: Any, opts: Mapping[str, Any]) -> None:
        super().set_engine_execution_options(engine, opts)
        if "read_only" in opts:
            engine.raw_connection = partial(raw_connection, engine, bool(opts["read_only"]))

    def set_connection_execution_options(self, connection: Any, opts: Mapping[str, Any]) -> None:
        """`read_only` takes another connection.  Raises `InvalidRequestError` within a
        transaction."""
        super().set_connection_execution_options(connection, opts)
        if "read_only" in opts:
            if connection.in_transaction():
                raise exc.InvalidRequestError(
                    "read_only is an option of a connection that is in no transaction"
                )
            fairy = connection.connection
            fairy._pool._exchange(fairy, bool(opts["read_only"]))


class AsyncDialect(Dialect, stock.PGDialectAsync_psycopg):
    """The same for asyncio."""

    is_async = True
    supports_statement_cache = True
    has_terminate = True

    @classmethod
    def import_dbapi(cls) -> Any:
        return stock.PGDialectAsync_psycopg.import_dbapi()  # type: ignore[no-untyped-call]

    def do_terminate(self, dbapi_connection: Any) -> None:
        self.do_close(dbapi_connection)


registry.register(NAME, __name__, "Dialect")
registry.register(f"{NAME}_async", __name__, "AsyncDialect")
