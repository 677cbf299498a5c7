"""A primary that is slow, or hangs while nobody takes over (FAULTS 8, 14)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import psycopg
import pytest

from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.settings import Settings
from tests.differential.play import both, call

pytestmark = pytest.mark.lab
KINDS = [ConnectionPool, AsyncConnectionPool]


class Delay:
    """Passes bytes on, `late_s` after they came, in each direction: `late_s` is set at any time.

    It counts the connections that were made, and those on which a client's last word is
    unanswered, at each moment.
    """

    def __init__(self, host: str, port: int) -> None:
        self.backend = (host, port)
        self.late_s = 0.0
        self.made: list[float] = []
        self.asked: list[float] = []
        self.unanswered: set[int] = set()
        self.most_unanswered = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="delay")

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.port: int = start.result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.made.append(time.monotonic())
        number = len(self.made)
        server, forth = None, None
        try:
            server, forth = await asyncio.open_connection(*self.backend)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(number, client, forth, asks=True))
                group.create_task(self._pass(number, server, back, asks=False))
        except* (OSError, _Over):
            pass
        finally:
            self.unanswered.discard(number)
            self._tasks.discard(task)
            for writer in (forth, back):
                if writer is not None:
                    writer.close()
            for writer in (forth, back):
                if writer is not None:
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()

    async def _pass(
        self, number: int, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, asks: bool
    ) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def send() -> None:
            while True:
                due, data = await late.get()
                await asyncio.sleep(due - time.monotonic())
                to.write(data)

        sending = asyncio.ensure_future(send())
        try:
            while data := await source.read(65536):
                if asks:
                    self.asked.append(time.monotonic())
                    self.unanswered.add(number)
                    self.most_unanswered = max(self.most_unanswered, len(self.unanswered))
                else:
                    self.unanswered.discard(number)
                late.put_nowait((time.monotonic() + self.late_s, data))
        finally:
            sending.cancel()
        raise _Over


class _Over(Exception):
    """One side has ended the conversation."""


@pytest.fixture
def delays(lab: Lab) -> Iterator[dict[str, Delay]]:
    """One in front of each member, by its address."""
    with contextlib.ExitStack() as stack:
        yield {
            member.address: stack.enter_context(Delay(member.address, lab.port))
            for member in (lab.primary, *lab.standbys)
        }


def through(delays: dict[str, Delay]) -> str:
    ports = ",".join(str(delay.port) for delay in delays.values())
    hosts = ",".join("127.0.0.1" for _ in delays)
    return f"host={hosts} port={ports} user=app dbname=app"


def shape(pool: Any) -> list[Any]:
    """What a failover would change."""
    views = pool.topology.endpoints
    return sorted((str(view.endpoint), view.role, view.generation, view.fenced) for view in views)


async def test_half_a_second_more_latency(lab: Lab, delays: dict[str, Delay]) -> None:
    """FAULTS 8: with the defaults nobody is moved, no statement fails, and none is cut."""
    primary = delays[lab.primary.address]
    async with contextlib.AsyncExitStack() as stack:
        pools = []
        for kind in KINDS:
            pool = kind(through(delays), settings=Settings(), min_size=2, max_size=2, open=False)
            await stack.enter_async_context(both(pool))
            await call(pool.open())
            await call(pool.wait(5))
            pools.append(pool)
        give_up_at = time.monotonic() + 5
        while any(None in (view.role for view in p.topology.endpoints) for p in pools):
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.01)
        before = [shape(pool) for pool in pools]
        pids = [set(), set()]
        primary.late_s = 0.25  # each way
        began = time.monotonic()

        async def work(number: int) -> None:
            while time.monotonic() < began + 3.5:
                async with both(pools[number].connection()) as conn:
                    cursor = await call(conn.execute("select pg_backend_pid()"))
                    pids[number].add((await call(cursor.fetchone()))[0])

        def work_sync() -> None:
            with contextlib.suppress(StopIteration):
                work(0).send(None)

        await asyncio.gather(asyncio.to_thread(work_sync), work(1))
        assert [shape(pool) for pool in pools] == before
        assert all(len(seen) <= 2 for seen in pids), "connections were made anew"
        primary.late_s = 0.0


def test_no_primary_anywhere(lab: Lab, delays: dict[str, Delay]) -> None:
    """FAULTS 14: the primary hangs, nobody is promoted.  At most 8 unanswered probes there, one
    per `PROBE_TIMEOUT_S` / 2; the standbys, who answer, are asked at the burst's pace at most."""
    settings = Settings(probe_interval_s=0.5, probe_timeout_s=0.2, deadline_s=20)
    primary = delays[lab.primary.address]
    seconds = 3.0
    with ConnectionPool(through(delays), settings=settings, min_size=2, max_size=2) as pool:
        pool.wait(5)
        with pool.connection() as conn:
            conn.execute("select 1")
        primary.most_unanswered = len(primary.unanswered)
        since = time.monotonic()
        lab.primary.pause()
        try:
            threads = [threading.Thread(target=waits, args=(pool,)) for _ in range(6)]
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            until = time.monotonic()
        finally:
            lab.primary.resume()
        for thread in threads:
            thread.join(10)
    rate_s = 1 / settings.probe_burst_interval_s
    took = until - since
    for address, delay in delays.items():
        asked = [at for at in delay.asked if since <= at <= until]
        made = [at for at in delay.made if since <= at <= until]
        if delay is primary:
            calls = 2  # on the pool's own connections
            assert delay.most_unanswered <= 8 + calls
            assert len(made) <= took / (settings.probe_timeout_s / 2) + 8
        else:
            assert len(asked) <= took * rate_s * 1.3 + 8, (address, len(asked))
            assert len(made) <= 8, "standbys are asked on connections that are there"


def waits(pool: ConnectionPool[Any]) -> None:
    with contextlib.suppress(psycopg.Error), pool.connection(timeout=4) as conn:
        conn.execute("select 1")
