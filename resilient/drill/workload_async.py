"""The same workload as tasks on an `AsyncConnectionPool` and an `AsyncClient`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from ..http import AsyncClient
from ..postgres import AsyncConnectionPool
from .records import Read, Record, Request, Shell, Way, Write
from .workload import INSERT, LOOK_S, READ, Shared, acknowledged_by, outcome_of

__all__ = ["AsyncWorkload"]


async def insert(conn: psycopg.AsyncConnection[Any], number: int) -> psycopg.AsyncConnection[Any]:
    """The write; the connection that it was made on."""
    await conn.execute(INSERT, [number])
    return conn


async def read(conn: psycopg.AsyncConnection[Any]) -> str | None:
    """The read; the address of the server that answered."""
    row = await (await conn.execute(READ)).fetchone()
    return row[0] if row else None


class AsyncWorkload:
    """An event loop on a thread of its own; `start` and `stop` are plain calls."""

    shell: Shell = "async"

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="async", daemon=True)

    def start(self) -> None:
        """Open the pool and start the workers (who wait at the gate)."""
        self._thread.start()
        self._ready.wait(25)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Wait until everything is closed; the gate must be ending."""
        self._thread.join(5)

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:  # start() raises it
            self._failure = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        job = self._shared.job
        size = job.writers + job.plain_writers
        self.pool = AsyncConnectionPool(job.dsn, min_size=size, max_size=size, open=False)
        self.client = AsyncClient()
        try:
            await self.pool.open(wait=True, timeout=20)
            self._ready.set()
            await asyncio.gather(*self._workers())
        finally:
            await self.client.aclose()
            await self.pool.close(timeout=2)

    def _workers(self) -> list[Awaitable[None]]:
        job = self._shared.job
        jobs: list[tuple[str, Callable[[], Awaitable[None]], int, float]] = [
            ("run", lambda: self._write("run"), job.writers, job.pace_s),
            ("plain", lambda: self._write("plain"), job.plain_writers, job.slow_pace_s),
            ("reader", lambda: self._read("run"), job.readers, job.slow_pace_s),
            ("plain reader", lambda: self._read("plain"), job.plain_readers, job.slow_pace_s),
            ("http", self._request, job.requesters if job.http_url else 0, job.slow_pace_s),
        ]
        return [
            self._work(f"async {name} {n + 1}", operation, pace_s)
            for name, operation, count, pace_s in jobs
            for n in range(count)
        ]

    async def _work(
        self, name: str, operation: Callable[[], Awaitable[None]], pace_s: float
    ) -> None:
        gate = self._shared.gate
        while not gate.ending:
            if not gate.enter(name):
                await asyncio.sleep(LOOK_S)
                continue
            try:
                await operation()
            finally:
                gate.leave(name)
            await asyncio.sleep(pace_s)

    async def _write(self, way: Way) -> None:
        number = next(self._shared.ids)
        server, error, began_at = None, None, time.monotonic()
        try:
            if way == "run":
                conn = await self.pool.run(insert, number)
            else:
                async with self.pool.connection() as conn:
                    await insert(conn, number)
            server = acknowledged_by(conn)
        except Exception as exc:  # whatever a caller would see is what we are here to count
            error = exc
        ended_at = time.monotonic()
        outcome, text = outcome_of(error)
        self._record(Write(number, self.shell, way, began_at, ended_at, outcome, server, text))

    async def _read(self, way: Way) -> None:
        server, error, began_at = None, None, time.monotonic()
        try:
            if way == "run":
                server = await self.pool.reader.run(read)
            else:
                async with self.pool.reader.connection() as conn:
                    server = await read(conn)
        except Exception as exc:
            error = exc
        ended_at = time.monotonic()
        self._record(Read(self.shell, way, began_at, ended_at, server, outcome_of(error)[1]))

    async def _request(self) -> None:
        job = self._shared.job
        zone, error, began_at = None, None, time.monotonic()
        try:
            response = await self.client.get(
                f"{job.http_url}/whoami",
                extensions={"resilient": {"deadline_s": job.http_deadline_s}},
            )
            response.raise_for_status()
            zone = response.json()["zone"]
        except Exception as exc:
            error = exc
        ended_at = time.monotonic()
        text, limit_s = outcome_of(error)[1], job.http_deadline_s
        self._record(Request(self.shell, began_at, ended_at, limit_s, zone, text))

    def _record(self, record: Record) -> None:
        self._shared.records.append(record)
