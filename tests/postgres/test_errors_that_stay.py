"""What a restart won't mend is said at once, once, with what to change."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import psycopg_pool
import pytest

from resilient import Settings
from resilient.lab import Lab
from resilient.postgres import AsyncConnectionPool, ConnectionPool

from .conftest import Face, settings_of
from .in_band import backends, until

pytestmark = pytest.mark.lab


def loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


WRONG: list[tuple[dict[str, str], str, str]] = [
    ({"dbname": "nowhere"}, 'database \\"nowhere\\" does not exist', "correct dbname in"),
    ({"user": "nobody"}, "nobody", "correct the user in"),
    ({"sslmode": "require"}, "SSL", "see sslmode in"),
    ({"port": "1"}, "Connection refused", "see host and port in"),
]


@pytest.mark.parametrize(("wrong", "reason", "fix"), WRONG, ids=lambda v: str(v)[:12])
def test_one_warning_at_once_and_an_error_that_says_what_to_change(
    lab: Lab, caplog: pytest.LogCaptureFixture, wrong: dict[str, str], reason: str, fix: str
) -> None:
    given = {"host": lab.primary.address, "port": str(lab.port), "user": "app", "dbname": "app"}
    dsn = " ".join(f"{key}={value}" for key, value in (given | wrong).items())
    with ConnectionPool(dsn, settings=settings_of(lab), min_size=2, name="orders") as pool:
        with pytest.raises(psycopg_pool.PoolTimeout, match=fix), pool.connection(timeout=0.3):
            pass
        began = time.monotonic()
        with pytest.raises(psycopg_pool.PoolTimeout) as raised:
            pool.wait(1.3)
        assert 1.2 < time.monotonic() - began < 2.5
    assert fix in str(raised.value)
    assert "the pool's conninfo" in str(raised.value)
    (line,) = loud(caplog)  # of the pool's dial, or where a probe was quicker, of its verdict
    assert line.startswith(("event=connect.failed ", "event=connect.nobody "))
    assert reason.replace("\\", "") in line.replace("\\", "")
    assert f"{fix} the pool's conninfo" in line
    assert "pool=orders" in line


@pytest.mark.parametrize("statement", ["select 1", "wat"])
def test_a_configure_that_fails_is_told_once_by_psycopg_pool(
    lab: Lab, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    """In its own words, under its own logger; our connection was made."""

    def configure(conn: Any) -> None:
        conn.execute(statement)

    with (
        ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=2, configure=configure) as pool,
        pytest.raises(psycopg_pool.PoolTimeout),
    ):
        pool.wait(1.3)
    (line,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    asyncio.run(until(lambda: backends(lab) == [0, 0, 0], 5))  # none is left behind
    assert line.name == "psycopg.pool"
    assert ("INTRANS" if statement == "select 1" else "wat") in line.getMessage()


async def test_a_name_that_is_not_there(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    dsn = f"host=nowhere.example port={lab.port} user=app dbname=app"
    settings = settings_of(lab, database_url=dsn)
    pool: Any = AsyncConnectionPool(settings=settings, min_size=1, open=False)
    await pool.open()
    try:
        with pytest.raises(psycopg_pool.PoolTimeout, match="RESILIENT_DATABASE_URL"):
            await pool.wait(1.2)
    finally:
        await pool.close()
    (line,) = loud(caplog)
    assert line.startswith("event=name.failed name=nowhere.example")
    assert 'fix="see this name where it is configured' in line
    assert "RESILIENT_DNS_NAMESERVERS" in line
    assert "database=app" in line


async def test_a_conninfo_that_cant_be_read(face: Face) -> None:
    """psycopg_pool's own timeout says only that it took too long."""
    ours = await face.open("host=127.0.0.1 user=app nosuch=1", Settings(), min_size=1)
    words = r"nosuch.*the pool's conninfo"
    try:
        with pytest.raises(psycopg_pool.PoolTimeout, match=words):
            await ours.query("select 1", timeout=0.3)
        with pytest.raises(psycopg_pool.PoolTimeout, match=words):
            await ours.wait(0.3)
    finally:
        await ours.close()


def test_said_again_when_it_changes(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """First one reason, then another, then the first once more after it has worked."""
    told: dict[str, Any] = {"dbname": "nowhere"}

    def kwargs() -> dict[str, Any]:
        return {"user": "app", **told}

    dsn = f"host={lab.primary.address} port={lab.port}"
    with ConnectionPool(dsn, kwargs=kwargs, settings=settings_of(lab), min_size=1) as pool:
        _until(lambda: len(loud(caplog)) == 1)
        told.update(dbname="app", user="nobody")  # at once: with one of them alone it would work
        _until(lambda: len(loud(caplog)) == 2)
        told["user"] = "app"
        pool.wait(10)
    assert ["dbname" in line for line in loud(caplog)] == [True, False]


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
