"""The lab, and both libraries on its servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.lab import Lab
from resilient.settings import Settings
from tests.postgres.conftest import Face, orders, settings_of

__all__ = ["orders"]

WHERE = "select host(inet_server_addr())"


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    return Face(request.param)


def at(lab: Lab, *members: Any, **params: object) -> str:
    """A conninfo that lists these members in order."""
    hosts = ",".join(member.address for member in members)
    ports = ",".join([str(lab.port)] * len(members))
    rest = " ".join(f"{key}={value}" for key, value in params.items())
    return f"host={hosts} port={ports} user=app dbname=app {rest}"


@asynccontextmanager
async def opened(
    face: Face, dsn: str, settings: Settings | None = None, **kwargs: Any
) -> AsyncIterator[Face]:
    await face.open(dsn, settings or Settings(), **kwargs)
    try:
        yield face
    finally:
        await face.close()


def plainly(dsn: str, sql: str = WHERE, **kwargs: Any) -> Any:
    """What psycopg_pool answers: the first column of the first row, or the error's class."""
    with psycopg_pool.ConnectionPool(dsn, min_size=1, timeout=2.0, **kwargs) as pool:
        try:
            with pool.connection() as conn:
                row = conn.execute(sql).fetchone()
        except psycopg.Error as exc:
            return type(exc)
    assert row is not None
    return row[0]


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


__all__ += ["at", "opened", "plainly", "settings_of", "until"]
