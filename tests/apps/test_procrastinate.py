"""procrastinate itself: as many jobs a second after a failover as before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio

pytest.importorskip("procrastinate", reason="no procrastinate")

import procrastinate

from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, CommitOutcomeUnknown
from resilient.procrastinate import PsycopgConnector

from ..postgres.conftest import settings_of

pytestmark = pytest.mark.lab

#: how long a worker doesn't look for jobs by itself
POLL_S = 60.0


def of(lab: Lab) -> str:
    """The lab's database, a schema of its own."""
    return f"{lab.dsn} options=-csearch_path=jobs"


@pytest_asyncio.fixture
async def app(lab: Lab) -> AsyncIterator[Any]:
    with psycopg.connect(f"{of(lab)} target_session_attrs=read-write") as conn:
        conn.execute("drop schema if exists jobs cascade")  # of a test that broke off
        conn.execute("create schema jobs")
    connector = PsycopgConnector(conninfo=of(lab), settings=settings_of(lab), min_size=2)
    app = procrastinate.App(connector=connector)
    app.done = asyncio.Queue()

    @app.task(name="order")
    async def order(item: int) -> None:
        app.done.put_nowait(item)

    app.order = order
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        yield app
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute("drop schema jobs cascade")


async def rate(app: Any, count: int) -> float:
    """Jobs done a second, while as many are deferred, 10 ms apart."""
    began, before = time.monotonic(), app.done.qsize()
    for item in range(count):
        await app.order.defer_async(item=item)
        await asyncio.sleep(0.01)
    return (app.done.qsize() - before) / (time.monotonic() - began)


def defer_without_a_loop(lab: Lab) -> None:
    connector = PsycopgConnector(conninfo=of(lab), settings=settings_of(lab), min_size=1)
    with procrastinate.App(connector=connector).open() as app:
        assert app.configure_task("order").defer(item=1) > 0


async def settled(app: Any) -> list[Any]:
    """The jobs by what became of them.  A worker forgets a notification that comes while it looks
    for jobs, so it is told of another one until there is none left."""
    query = "select status::text, count(*) from procrastinate_jobs group by status"
    async with asyncio.timeout(20):
        while len(found := await app.connector.execute_query_all_async(query)) > 1:
            await app.order.defer_async(item=-1)
            await asyncio.sleep(0.05)
    return list(found)


async def test_jobs_go_on_at_their_rate(lab: Lab, app: Any) -> None:
    worker = asyncio.create_task(
        app.run_worker_async(
            concurrency=4,
            fetch_job_polling_interval=POLL_S,
            install_signal_handlers=False,
            update_heartbeat_interval=0.2,
        )
    )
    await rate(app, 10)
    before = await rate(app, 60)
    fault = await asyncio.to_thread(lab.inject, "crash", promote_after_s=0.3)
    await asyncio.to_thread(fault.wait_struck)
    await asyncio.to_thread(defer_without_a_loop, lab)  # waits for the new primary
    await asyncio.to_thread(fault.wait_done)
    after = await rate(app, 60)
    assert after > before / 2, (before, after)
    found = await settled(app)
    assert [row["status"] for row in found] == ["succeeded"]
    assert found[0]["count"] == app.done.qsize()  # none twice
    assert not worker.done()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_a_job_of_the_gap_is_found(lab: Lab, app: Any) -> None:
    """It came while nobody listened: somebody ends the listener's session, and its notification
    is lost."""
    worker = asyncio.create_task(
        app.run_worker_async(fetch_job_polling_interval=POLL_S, install_signal_handlers=False)
    )
    await app.order.defer_async(item=0)
    async with asyncio.timeout(20):
        assert await app.done.get() == 0
    while not lab.admin(None, "select 1 from pg_stat_activity where query like 'LISTEN%'"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # it looks once more when it listens
    with psycopg.connect(f"{of(lab)} target_session_attrs=read-write") as conn:
        listeners = "from pg_stat_activity where query like 'LISTEN%'"
        conn.execute(f"select pg_terminate_backend(pid, 1000) {listeners}".encode())
        conn.execute(
            "insert into procrastinate_jobs (queue_name, task_name, args)"
            " values ('default', 'order', '{\"item\": 1}')"
        )
    async with asyncio.timeout(10):
        assert await app.done.get() == 1
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_what_it_answers(app: Any) -> None:
    assert isinstance(app.connector.pool, AsyncConnectionPool)
    with pytest.raises(procrastinate.exceptions.NoResult):
        await app.connector.execute_query_one_async("select 1 where false")
    with pytest.raises(procrastinate.exceptions.ConnectorException):
        await app.connector.execute_query_async("nonsense")


class Losing(AsyncConnectionPool[Any]):
    """`run` loses a COMMIT's reply when it is told to: one that took effect, or one that didn't."""

    lose = ""

    async def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        lose, self.lose = self.lose, ""
        if not lose:
            return await super().run(fn, *args, **kwargs)
        if lose == "after":
            await super().run(fn, *args, **kwargs)
        else:
            async with self.connection() as conn:
                await fn(conn, *args, **kwargs)
                await conn.rollback()
        raise CommitOutcomeUnknown("the reply to COMMIT was lost")


@pytest.mark.parametrize("lose", ["before", "after"])
async def test_a_worker_finds_out_what_became_of_its_queries(lab: Lab, app: Any, lose: str) -> None:
    async with Losing(of(lab), settings=settings_of(lab), min_size=1) as pool:
        connector = PsycopgConnector()
        await connector.open_async(pool)
        manager = procrastinate.App(connector=connector).job_manager
        await app.order.defer_async(item=1)
        await app.order.defer_async(item=2)

        pool.lose = lose
        worker = await manager.register_worker()
        pool.lose = lose
        await manager.update_heartbeat(worker)
        pool.lose = lose
        job = await manager.fetch_job(queues=None, worker_id=worker)
        assert job is not None
        assert job.task_kwargs == {"item": 1}  # not the second one
        pool.lose = lose
        status = procrastinate.jobs.Status.SUCCEEDED
        await manager.finish_job(job=job, status=status, delete_job=False)
        query = "select args, status::text from procrastinate_jobs order by id"
        found = await connector.execute_query_all_async(query)
        assert [row["status"] for row in found] == ["succeeded", "todo"]
        pool.lose = lose
        with pytest.raises(procrastinate.exceptions.ConnectorException) as unknown:
            await connector.execute_query_async("create table other (id int)")
        assert isinstance(unknown.value.__cause__, CommitOutcomeUnknown)
