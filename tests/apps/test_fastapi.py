"""FastAPI itself, under a real uvicorn, while a primary dies and a server is told to stop."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx2
import psycopg
import pytest

pytest.importorskip("fastapi", reason="no FastAPI")
pytest.importorskip("uvicorn", reason="no uvicorn")

import fastapi
from psycopg import AsyncConnection

from resilient.errors import NoEndpointAvailable
from resilient.fastapi import Database
from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool

from ..postgres.conftest import settings_of

EXAMPLES = Path(__file__).parents[2] / "examples"


def database(lab: Lab, **options: Any) -> Database:
    settings = settings_of(lab)
    return Database(
        lambda: AsyncConnectionPool(lab.dsn, settings=settings, min_size=1, open=False), **options
    )


class Client:
    """Requests to an application in this process, which runs while this is entered."""

    def __init__(self, app: fastapi.FastAPI) -> None:
        self.app = app
        self.raised: BaseException | None = None

    async def __aenter__(self) -> httpx2.AsyncClient:
        self._run = self.app.router.lifespan_context(self.app)
        await self._run.__aenter__()
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        self._client = httpx2.AsyncClient(transport=transport, base_url="http://app")
        return self._client

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()
        await self._run.__aexit__(*exc)


@pytest.fixture
def table(lab: Lab) -> Iterator[str]:
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute("drop table if exists orders_fastapi")
        conn.execute("create table orders_fastapi (id int unique deferrable initially deferred)")
        yield "orders_fastapi"
        conn.execute("drop table orders_fastapi")


@pytest.mark.lab
async def test_what_fails_at_its_commit_is_not_answered_with_success(lab: Lab, table: str) -> None:
    """FastAPI's own default ends a dependency after the answer: the second insertion fails there
    too, and its client is told 200."""
    db, app = database(lab), fastapi.FastAPI()
    db.install(app)
    insert = f"insert into {table} values (1)"

    async def stock() -> AsyncIterator[Any]:
        async with db.pool.connection() as conn:
            yield conn

    @app.post("/ours")
    async def ours(conn: Annotated[AsyncConnection, db.connection]) -> None:
        await conn.execute(insert)

    @app.post("/stock")
    async def others(conn: Annotated[AsyncConnection, fastapi.Depends(stock)]) -> None:
        await conn.execute(insert)

    @app.post("/refused")
    async def refused(conn: Annotated[AsyncConnection, db.connection]) -> None:
        await conn.execute(f"insert into {table} values (2)")
        raise fastapi.HTTPException(409)

    @app.get("/count")
    async def count(conn: Annotated[AsyncConnection, db.reader]) -> Any:
        return await (await conn.execute("show transaction_read_only")).fetchone()

    async with Client(app) as client:
        assert (await client.post("/ours")).status_code == 200
        assert (await client.post("/ours")).status_code == 500
        assert (await client.post("/stock")).status_code == 200  # told before it failed
        assert (await client.post("/refused")).status_code == 409
        assert (await client.get("/count")).json() == ["on"]
        async with db.pool.connection() as conn:
            found = await (await conn.execute(f"select id from {table}")).fetchall()
        assert found == [(1,)]
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["db"]) == (200, "ok")
        assert (await client.get("/health/live")).status_code == 200
    async with Client(app) as client:  # as tests do: the application starts again
        assert (await client.get("/health/ready")).status_code == 200
    with pytest.raises(RuntimeError, match="install"):
        _ = db.pool


async def test_no_database_is_503() -> None:
    app = fastapi.FastAPI()
    db = Database(
        lambda: AsyncConnectionPool("host=127.0.0.1 port=1", min_size=1, timeout=0.1, open=False)
    )
    db.install(app)

    @app.get("/")
    async def index(conn: Annotated[AsyncConnection, db.connection]) -> None: ...

    async with Client(app) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200

    async def own(request: Any, exc: Exception) -> fastapi.Response:
        return fastapi.Response(status_code=418)

    app = fastapi.FastAPI(exception_handlers={NoEndpointAvailable: own})
    db.install(app)
    app.get("/")(index)
    async with Client(app) as client:
        assert (await client.get("/")).status_code == 418


# -- under uvicorn


@contextmanager
def serving(lab: Lab, *arguments: str, drain_s: float = 0.5) -> Iterator[tuple[Any, str]]:
    """The example in a process of its own, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uvicorn = (sys.executable, "-m", "uvicorn", "--log-level=warning", f"--port={port}")
    process = subprocess.Popen(
        [*uvicorn, "orders_fastapi:app", *arguments],
        cwd=EXAMPLES,
        env={**os.environ, **lab.env("az1"), "DRAIN_S": str(drain_s)},
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class Balancer:
    """Sends each request to a server that said that it is ready when it was asked last."""

    def __init__(self, urls: list[str]) -> None:
        self.ready: list[str] = []
        self._urls = urls
        self._turn = itertools.count()

    async def watch(self) -> None:
        async with httpx2.AsyncClient(timeout=2) as client:
            while True:
                self.ready = [url for url in self._urls if await self._is_ready(client, url)]
                await asyncio.sleep(0.05)

    async def _is_ready(self, client: httpx2.AsyncClient, url: str) -> bool:
        try:
            return (await client.get(f"{url}/health/ready")).status_code == 200
        except httpx2.TransportError:
            return False

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.ready) != count:
                await asyncio.sleep(0.02)

    async def choose(self) -> str:
        """Who is ready; a request waits while nobody is."""
        while not self.ready:
            await asyncio.sleep(0.01)
        return self.ready[next(self._turn) % len(self.ready)]


@pytest.mark.lab
async def test_no_request_fails_while_a_primary_dies_and_a_server_stops(lab: Lab) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(lab)) for _ in range(2)]
        balancer = Balancer([url for _, url in servers])
        watching = asyncio.create_task(balancer.watch())
        taken: dict[int, str] = {}
        failed: list[str] = []
        unknown: list[str] = []
        over = asyncio.Event()

        async def order(session: int) -> None:
            async with httpx2.AsyncClient(timeout=30) as client:
                for number in itertools.count():
                    if over.is_set():
                        return
                    item = f"{session}-{number}"
                    try:
                        url = f"{await balancer.choose()}/orders"
                        answer = await client.post(url, params={"item": item})
                        if answer.status_code == 504:  # a lost reply to COMMIT, truthfully
                            unknown.append(item)
                        else:
                            answer.raise_for_status()
                            taken[answer.json()["number"]] = item
                    except httpx2.HTTPError as exc:
                        failed.append(f"{type(exc).__name__}: {exc}")
                    await asyncio.sleep(0.005)

        try:
            await balancer.until(2)
            sessions = [asyncio.create_task(order(number)) for number in range(4)]
            await asyncio.sleep(0.3)
            # Every 33rd number is written to the WAL.  Where that one is lost with what was under
            # way, the next primary gives the numbers again, and a replay is refused (40001).
            async with asyncio.timeout(20):
                while not taken or not 5 <= max(taken) % 33 <= 20:
                    await asyncio.sleep(0.001)
            fault = await asyncio.to_thread(lab.inject, "crash", promote_after_s=0.3)
            await asyncio.to_thread(fault.wait_done)
            before = len(taken)
            async with asyncio.timeout(20):
                while len(taken) < before + 20:
                    await asyncio.sleep(0.01)
            stopped = servers[0][0]
            stopped.send_signal(signal.SIGTERM)
            told_at = time.monotonic()
            assert await asyncio.to_thread(stopped.wait, 20) in (0, -signal.SIGTERM)
            assert time.monotonic() - told_at >= 0.5
            await balancer.until(1)
            before = len(taken)
            async with asyncio.timeout(20):
                while len(taken) < before + 20:
                    await asyncio.sleep(0.01)
            over.set()
            await asyncio.gather(*sessions)
            assert failed == []
            assert len(unknown) <= 4, "no more than were under way when the primary died"
        finally:
            watching.cancel()
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        there = dict(conn.execute("select number, item from orders").fetchall())
        assert taken.items() <= there.items()
        assert len(set(there.values())) == len(there)  # none twice
        conn.execute("drop table orders")


@pytest.mark.lab
def test_who_is_not_watched_stops_at_once(lab: Lab) -> None:
    with serving(lab, drain_s=30) as (process, url), httpx2.Client(timeout=5) as client:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                assert client.get(f"{url}/health/live").status_code == 200
                break
            except httpx2.TransportError:
                time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        assert time.monotonic() - began < 5
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute("drop table orders")
