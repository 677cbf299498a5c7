"""FAULTS 31 and 53: refused credentials are asked again by one asker, with growing pauses and
fresh secrets; a wrong password costs a server no more logins than the bare pool does."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.core.model import Health
from resilient.postgres import AsyncConnectionPool, ConnectionPool, NullConnectionPool
from resilient.settings import Settings
from tests.differential.pg import Server, serve
from tests.differential.play import both, call

pytestmark = pytest.mark.lab

_users = (f"user_{number}" for number in count())
SETTINGS = Settings(deadline_s=5, probe_interval_s=0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(contrib=False) as running:
        access = "local all all trust\nhost all all 127.0.0.0/8 scram-sha-256\n"
        (running.data / "pg_hba.conf").write_text(access)
        running.admin("select pg_reload_conf()")
        yield running


class User:
    """A user of the server, and how often he was refused."""

    def __init__(self, server: Server, password: str = "old") -> None:
        self.server, self.name, self.password = server, next(_users), password
        self.asked: list[float] = []
        server.admin(f"create role {self.name} login password '{password}'")

    def conninfo(self) -> str:
        """What a source of secrets gives at present."""
        self.asked.append(time.monotonic())
        return self.with_password(self.password)

    def with_password(self, password: str) -> str:
        where = f"host={self.server.address} port={self.server.port}"
        return f"{where} dbname=app user={self.name} password={password}"

    @property
    def refused(self) -> int:
        text = Path(self.server.log).read_text(errors="replace")
        return len(
            re.findall(f'FATAL:  password authentication failed for user "{self.name}"', text)
        )

    def end_sessions(self, where: str = "true") -> None:
        self.server.admin(
            "select pg_terminate_backend(pid, 2000) from pg_stat_activity"
            f" where usename = '{self.name}' and {where}"
        )

    def rotate(self) -> None:
        self.server.admin(f"alter role {self.name} password 'new'")


def sleep_until(true: Callable[[], Any], timeout_s: float) -> float:
    """Seconds until it was."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < timeout_s, "it never came to be"
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_wrong_password_costs_no_more_logins_than_the_bare_pools(server: Server) -> None:
    bare, ours = User(server), User(server)
    with (
        psycopg_pool.ConnectionPool(bare.with_password("wrong"), min_size=4, open=False) as one,
        ConnectionPool(ours.with_password("wrong"), settings=SETTINGS, min_size=4) as two,
    ):
        one.open()
        time.sleep(4.5)
        assert 0 < ours.refused <= bare.refused
        assert ours.refused <= 3
        # it was wrong there: whoever sets it right needs no restart of ours
        server.admin(f"alter role {ours.name} password 'wrong'")
        with two.connection(timeout=8) as conn:
            conn.execute("select 1")


@pytest.mark.parametrize("kind", [ConnectionPool, AsyncConnectionPool])
async def test_a_source_that_is_late(server: Server, kind: Any) -> None:
    user = User(server)

    async def source() -> str:
        return user.conninfo()

    given = source if kind is AsyncConnectionPool else user.conninfo
    pool = kind(given, settings=SETTINGS, min_size=4, timeout=6, open=False)
    async with both(pool):
        await call(pool.open()) if pool.closed else None
        await call(pool.wait(5))
        user.rotate()
        user.end_sessions()
        rotated_at = time.monotonic()
        while time.monotonic() < rotated_at + 2:  # the source is that late
            with pytest.raises(psycopg.OperationalError):
                async with both(pool.connection(timeout=0.2)) as conn:
                    await call(conn.execute("select 1"))
        user.password = "new"
        began = time.monotonic()
        async with both(pool.connection()) as conn:
            await call(conn.execute("select 1"))
        assert time.monotonic() - began < 2
        assert 1 <= user.refused <= 2


def test_the_source_is_asked_again_where_every_connection_is_lent(server: Server) -> None:
    """Nobody dials then but the probes, which can't ask by themselves."""
    user = User(server)
    with ConnectionPool(user.conninfo, settings=SETTINGS, min_size=1, max_size=1) as pool:
        pool.wait(5)
        with pool.connection() as conn:
            conn.execute("select 1")
            time.sleep(0.7)  # a probe has its own session by now
            user.rotate()
            user.password = "new"
            asked = len(user.asked)
            user.end_sessions("application_name = 'resilient-probe'")
            sleep_until(lambda: len(user.asked) > asked, 4)
            sleep_until(lambda: not pool.topology.endpoints[0].reason, 4)
            assert pool.topology.endpoints[0].health is Health.UP
            assert user.refused <= 2
            conn.execute("select 1")


def test_another_pools_password_is_no_hindrance(server: Server) -> None:
    """Two pools of one user share a monitor: one is wrong, the other grows on."""
    user = User(server)
    right, wrong = user.with_password("old"), user.with_password("wrong")
    with (
        ConnectionPool(right, settings=SETTINGS, min_size=1, max_size=6) as pool,
        ConnectionPool(wrong, settings=SETTINGS, min_size=1),
    ):
        pool.wait(5)
        sleep_until(lambda: user.refused, 3)
        conns = [pool.getconn(timeout=3) for _ in range(6)]
        for conn in conns:
            conn.execute("select 1")
            pool.putconn(conn)
        assert user.refused <= 4


def test_callers_of_a_null_pool_hear_at_once(server: Server) -> None:
    """Each would dial by himself: with what was refused just now he doesn't."""
    user = User(server)
    settings = Settings(deadline_s=5, probe_interval_s=0.5)
    with NullConnectionPool(user.with_password("wrong"), settings=settings, max_size=5) as pool:
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError), pool.connection(timeout=2) as conn:
                conn.execute("select 1")
            assert time.monotonic() - began < 2.5
            if time.monotonic() - began > 1:
                break  # psycopg's null pool waits for its timeout
    assert user.refused <= 3
