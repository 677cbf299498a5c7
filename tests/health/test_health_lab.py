"""Readiness on real servers: a pool that is empty, a database that hangs, a failover."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from resilient import health
from resilient.health import Readiness, Report
from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.settings import Settings

pytestmark = pytest.mark.lab


class Service:
    """A process with a pool, and its readiness."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.asynchronous = isinstance(pool, AsyncConnectionPool)
        self.readiness = Readiness(db=pool, replica=health.database(pool, read_only=True))

    async def report(self) -> Report:
        if self.asynchronous:
            return await self.readiness.check_async()
        return await asyncio.to_thread(self.readiness.check)

    async def until(self, reached: Callable[[Report], bool]) -> None:
        async with asyncio.timeout(20):
            while not reached(await self.report()):
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(params=["threads", "asyncio"])
async def service(lab: Lab, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    settings = Settings(
        **{
            key.removeprefix("RESILIENT_").lower(): value
            for key, value in lab.env().items()
            if key != "RESILIENT_DATABASE_URL"
        }
    )
    size: dict[str, Any] = {"min_size": 2, "max_size": 2}
    if request.param == "asyncio":
        async with AsyncConnectionPool(lab.dsn, settings=settings, open=False, **size) as pool:
            await pool.wait()
            yield Service(pool)
    else:
        with ConnectionPool(lab.dsn, settings=settings, open=False, **size) as sync_pool:
            await asyncio.to_thread(sync_pool.wait)
            yield Service(sync_pool)


async def test_ready_when_the_database_answers(service: Service) -> None:
    await service.until(lambda report: report.ok)
    assert dict((await service.report()).results) == {"db": "ok", "replica": "ok"}


async def test_a_pool_that_is_empty_isnt_ready(service: Service) -> None:
    """A shallow ping stays 200 then."""
    if service.asynchronous:
        taken = [await service.pool.getconn() for _ in range(2)]
    else:
        taken = [await asyncio.to_thread(service.pool.getconn) for _ in range(2)]
    report = await service.report()
    assert (report.status, report.results["db"]) == (503, "timeout")
    assert health.live().status == 200
    for conn in taken:
        given = service.pool.putconn(conn)
        if service.asynchronous:
            await given
    await service.until(lambda report: report.ok)


async def test_a_server_that_hangs_and_the_next_one(lab: Lab, service: Service) -> None:
    """503 within the check's own time, however long the statement hangs; 200 again by itself."""
    await service.until(lambda report: report.ok)
    run = await asyncio.to_thread(lab.inject, "hang", promote_after_s=2.0)
    await asyncio.to_thread(run.wait_struck)
    seen = [await service.report() for _ in range(2)]
    assert [report.status for report in seen] == [503] * 2
    assert [report.results["db"] for report in seen] == ["timeout"] * 2
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("resilient-health-db") == (0 if service.asynchronous else 1)
    await asyncio.to_thread(run.wait_writable)
    await service.until(lambda report: report.ok)
    await asyncio.to_thread(run.wait_done)
