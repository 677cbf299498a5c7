"""Listeners go on through a crash, and say where notifications may be missing."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

import psycopg
import pytest

from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool, Gap

from .conftest import settings_of

pytestmark = pytest.mark.lab


def told(event: Any) -> str:
    return "gap" if isinstance(event, Gap) else f"{event.channel}: {event.payload}"


async def test_both_kinds_go_on_through_a_crash(lab: Lab) -> None:
    heard: queue.Queue[str] = queue.Queue()
    heard_async: asyncio.Queue[str] = asyncio.Queue()

    def hear(pool: Any) -> None:
        for event in pool.listen("Orders", "bills", gap_first=True):
            heard.put(told(event))

    async def hear_async(pool: Any) -> None:
        async for event in pool.listen("Orders", "bills", gap_first=True):
            heard_async.put_nowait(told(event))

    async def both(expected: str) -> None:
        """What comes next, from each."""
        assert await asyncio.to_thread(heard.get, timeout=20) == expected
        async with asyncio.timeout(20):
            assert await heard_async.get() == expected

    def say(text: str) -> None:
        with pool.connection() as conn:
            conn.execute("select pg_notify('Orders', %s)", (text,))

    settings = settings_of(lab)
    with ConnectionPool(lab.dsn, settings=settings, min_size=1) as pool:
        thread = threading.Thread(target=hear, args=(pool,))
        thread.start()
        async with AsyncConnectionPool(lab.dsn, settings=settings, min_size=1) as other:
            task = asyncio.create_task(hear_async(other))
            await both("gap")  # both listen now
            await asyncio.to_thread(say, "book")
            await both("Orders: book")
            lab.inject("crash", promote_after_s=0.2).wait_struck()
            await both("gap")
            await asyncio.to_thread(say, "pen")
            await both("Orders: pen")
        async with asyncio.timeout(10):
            await task  # its pool was closed
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


def test_a_listener_that_is_left_leaves_nothing(lab: Lab) -> None:
    with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1, max_size=1) as pool:
        events = pool.listen("orders")
        thread = threading.Timer(0.3, lambda: notify(lab))
        thread.start()
        assert next(events).payload == "now"  # type: ignore[union-attr]
        assert len(pool._core.sessions.listening) == 1
        with pool.connection() as conn:  # it takes no place of the pool's
            conn.execute("select 1")
        events.close()  # type: ignore[attr-defined]
        assert len(pool._core.sessions.listening) == 0
        thread.join()


def notify(lab: Lab) -> None:
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        while not lab.admin(
            lab.primary.zone, "select 1 from pg_stat_activity where query = 'LISTEN \"orders\"'"
        ):
            pass
        conn.execute("select pg_notify('orders', 'now')")


def test_a_listener_outlives_the_time_that_its_dial_had(lab: Lab) -> None:
    """It isn't cut when its deadline for connecting passes, long after it has connected."""
    settings = settings_of(lab, deadline_s=0.3)
    with ConnectionPool(lab.dsn, settings=settings, min_size=1) as pool:
        events = pool.listen("orders", gap_first=True)
        assert isinstance(next(events), Gap)
        with pool.lock("orders", timeout=0.3) as lock:
            threading.Event().wait(0.6)
            lock.check()
        with pool.connection() as conn:
            conn.execute("select pg_notify('orders', 'still')")
        assert told(next(events)) == "orders: still"
        events.close()  # type: ignore[attr-defined]
