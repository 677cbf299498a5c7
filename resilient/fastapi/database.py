"""`Database`: a pool for the life of an application, and what its routes take from it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import fastapi
import psycopg
import psycopg_pool

from ..errors import DeadlineExceeded, NoEndpointAvailable
from ..health import Readiness, Report, live
from ..postgres import AsyncConnectionPool
from .stopping import Stopping

Pool = AsyncConnectionPool[Any]

#: for as long readiness says 503 before the server stops to listen, in seconds
DRAIN_S = 5.0
#: what a client that is told 503 is asked to wait, in seconds
RETRY_AFTER_S = 1
#: no connection could be had: others may fare better
UNAVAILABLE = (NoEndpointAvailable, DeadlineExceeded, psycopg_pool.PoolTimeout)


class Database:
    """One pool for as long as an application runs, made anew at each start of it.

    `pool`: makes it, unopened; default: `AsyncConnectionPool` as the environment says.  `checks`:
    what readiness looks at beside the pool, see `resilient.health.Readiness`.  `drain_s`: for as
    long readiness answers 503 after a SIGTERM before the server has it; where nobody has asked
    for readiness the server has it at once.
    """

    def __init__(
        self,
        pool: Callable[[], Pool] | None = None,
        *,
        checks: Mapping[str, Any] | None = None,
        drain_s: float = DRAIN_S,
    ) -> None:
        self._make = pool or partial(AsyncConnectionPool, open=False)
        self._checks = dict(checks or {})
        self._stopping = Stopping(drain_s)
        self._pool: Pool | None = None
        self._readiness: Readiness | None = None

    @property
    def pool(self) -> Pool:
        """The pool; RuntimeError while the application doesn't run."""
        if self._pool is None:
            raise RuntimeError(
                "the pool is there while the application runs: install(app), and"
                " in tests `with TestClient(app)`"
            )
        return self._pool

    # -- what an application takes

    def install(self, app: fastapi.FastAPI) -> None:
        """All of it: `lifespan` around the application's own, `health`, 503 where no connection can
        be had (unless the application handles that), connections closed while it stops."""
        app.include_router(self.health)
        app.add_middleware(self._stopping.middleware)
        for error in UNAVAILABLE:
            app.exception_handlers.setdefault(error, _unavailable)
        inner = app.router.lifespan_context

        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[Any]:
            async with self.lifespan(app), inner(app) as state:
                yield state

        app.router.lifespan_context = both

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Opens the pool, and closes it in the end.  Waits for no server: readiness says so."""
        self._pool = pool = self._make()
        self._readiness = Readiness({"db": pool, **self._checks})
        try:
            with self._stopping:
                await pool.open()
                yield
        finally:
            self._pool = None
            await pool.close()

    @property
    def connection(self) -> Any:
        """A dependency: a connection in a transaction, committed before the answer is sent.

        `conn: Annotated[AsyncConnection, db.connection]`
        """
        return fastapi.Depends(self._writes, scope="function")

    @property
    def reader(self) -> Any:
        """The same to read from a replica."""
        return fastapi.Depends(self._reads, scope="function")

    async def _writes(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        async with self.pool.connection() as conn:
            yield conn

    async def _reads(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        async with self.pool.connection(read_only=True) as conn:
            yield conn

    # -- health

    @property
    def health(self) -> fastapi.APIRouter:
        """`GET /health/live` and `GET /health/ready`: 200, or 503 and what is wrong.  While the
        application stops it isn't ready."""
        router = fastapi.APIRouter(prefix="/health", include_in_schema=False)
        methods = ["GET", "HEAD"]
        router.add_api_route("/live", self._live, methods=methods)
        router.add_api_route("/ready", self._ready, methods=methods)
        return router

    async def _live(self) -> fastapi.Response:
        return _answer(live())

    async def _ready(self) -> fastapi.Response:
        self._stopping.watched()
        if self._stopping.now or self._readiness is None:
            return _answer(Report({"app": "stopping"}, 0))
        return _answer(await self._readiness.check_async())


def _answer(report: Report) -> fastapi.Response:
    return fastapi.Response(
        report.body(),
        status_code=report.status,
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def _unavailable(request: fastapi.Request, exc: Exception) -> fastapi.Response:
    return fastapi.Response(
        '{"detail":"no database connection"}',
        status_code=503,
        media_type="application/json",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
