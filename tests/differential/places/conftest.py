"""The lab, and both libraries on its servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.lab import Lab
from resilient.lab.postgres import Member
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


#: what is decided is shared by both shells: one of them shows it
one_shell = pytest.mark.parametrize("face", ["sync"], indirect=True)
other_shell = pytest.mark.parametrize("face", ["async"], indirect=True)


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


__all__ += ["at", "one_shell", "opened", "other_shell", "plainly", "settings_of", "until"]


def beside(lab: Lab, zone: str, address: str) -> Member:
    """One more server, on the lab's port: not of its cluster until it is made so."""
    alone = replace(lab.primary._settings, synchronous_standby_names="")
    return Member(zone, address, lab.root / zone, alone, lab._spawner)


@pytest.fixture(scope="session")
def green_server(session_lab: Lab) -> Iterator[Member]:
    """A primary of another cluster, with the same table."""
    green = beside(session_lab, "green", "127.0.9.10")
    green.initdb()
    green.start()
    try:
        with green.connect() as conn:
            conn.execute("create role app login password 'app'")
            conn.execute("create database app owner app")
        with psycopg.connect(at(session_lab, green), autocommit=True) as conn:
            conn.execute("create table orders (id bigint)")
        session_lab.dns.set_records("green.db.test", "A", [green.address], 1)
        yield green
    finally:
        green.remove()


@pytest.fixture
def green(green_server: Member, lab: Lab) -> Iterator[Member]:
    """The same, and the writer's name leads to the lab's primary before and after the test."""
    lab.flip_writer()
    yield green_server
    lab.flip_writer()
