"""SQLAlchemy's asyncio engine, cancelled at each of its awaits: the server sees nothing left.

SQLAlchemy's own tests of that kind count what an engine's private creator makes.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

pytest.importorskip("sqlalchemy", reason="no SQLAlchemy")

import sqlalchemy as sa
from sqlalchemy.ext import asyncio as sa_asyncio

import resilient.sqlalchemy  # noqa: F401  # registers the dialect
from resilient.lab import Lab

cancellation = pytest.importorskip(
    "sqlalchemy.testing.cancellation", reason="a SQLAlchemy that can't cancel at an await"
)
pytestmark = pytest.mark.lab

Scenario = Callable[[sa_asyncio.AsyncEngine], Awaitable[None]]
ONE = sa.select(1)
NAME = "cancelled"


async def a_session(engine: sa_asyncio.AsyncEngine) -> None:
    async with sa_asyncio.AsyncSession(engine) as session:
        await session.execute(ONE)
        await session.commit()


async def a_connection(engine: sa_asyncio.AsyncEngine) -> None:
    async with engine.connect() as conn:
        await conn.execute(ONE)


async def one_that_goes_on(engine: sa_asyncio.AsyncEngine) -> None:
    """Whose close was cancelled: it takes another connection."""
    conn = await engine.connect()
    try:
        await conn.execute(ONE)
    except asyncio.CancelledError:
        await conn.close()
        raise
    try:
        await conn.close()
    except asyncio.CancelledError:
        async with engine.connect() as other:
            if not conn.closed:
                await conn.invalidate()
            await other.execute(ONE)
        raise


async def one_that_excuses_errors(engine: sa_asyncio.AsyncEngine) -> None:
    with suppress(sa.exc.SQLAlchemyError):
        await a_connection(engine)


class Sweep:
    """A scenario on new engines, cancelled at each await; `twice`: at each behind it, too."""

    def __init__(self, lab: Lab, scenario: Scenario, warm: bool, twice: bool) -> None:
        self.lab, self.scenario, self.warm, self.twice = lab, scenario, warm, twice
        self.wrong: list[str] = []

    async def run(self, at: tuple[int, ...] = ()) -> int:
        awaits = await self._one(at)
        for number in range(at[-1] + 1 if at else 1, awaits + 1):
            await self._one((*at, number))
            if self.twice and not at:
                await self.run((number,))
        return awaits

    async def _one(self, at: tuple[int, ...]) -> int:
        primary = self.lab.primary
        made = sa.URL.create(
            "postgresql+resilient_async", "app", None, primary.address, self.lab.port, "app",
            {"application_name": NAME},
        )  # fmt: skip
        engine = sa_asyncio.create_async_engine(made, pool_size=1, max_overflow=0, pool_timeout=1)
        if self.warm:
            await self.scenario(engine)
        with cancellation.await_points(at) as points:
            task = points.create_task(self.scenario(engine))
            await asyncio.wait([task])
        if points.cancelled_at and not task.cancelled():
            self.wrong.append(f"{at}: the cancellation is lost: {task.exception()!r}")
        gc.collect()
        if engine.pool.checkedout():  # type: ignore[attr-defined]
            self.wrong.append(f"{at}: a place of the pool is lost")
        else:
            await self.scenario(engine)
        await engine.dispose()
        query = f"select pid from pg_stat_activity where application_name = '{NAME}'"
        for _ in range(100):
            if not self.lab.admin(primary.zone, query):
                break
            await asyncio.sleep(0.01)
        else:
            self.wrong.append(f"{at}: a session is left")
        return int(points.count)


@pytest.mark.parametrize("warm", [False, True], ids=["first use", "later"])
@pytest.mark.parametrize(
    "scenario", [a_session, a_connection, one_that_goes_on, one_that_excuses_errors]
)
async def test_cancelled_anywhere(lab: Lab, scenario: Scenario, warm: bool) -> None:
    sweep = Sweep(lab, scenario, warm, twice=False)
    awaits = await sweep.run()
    assert (awaits >= (5 if warm else 15), sweep.wrong) == (True, [])


async def test_cancelled_twice(lab: Lab) -> None:
    sweep = Sweep(lab, a_session, warm=True, twice=True)
    await sweep.run()
    assert sweep.wrong == []
