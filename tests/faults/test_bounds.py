"""What a process may ask of a server in trouble (FAULTS 27, 28, 29)."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.core.model import Endpoint
from resilient.core.pace import Pacing
from resilient.postgres import ConnectionPool
from resilient.settings import Settings
from tests.differential.pg import Server

A = Endpoint("a", "127.0.0.1", 5432)


def crowded(server: Server, user: str) -> int:
    """How often it was told that there is no room."""
    text = Path(server.log).read_text(errors="replace")
    return text.count(f'too many connections for role "{user}"')


@pytest.mark.lab
def test_too_many_connections(lone: Server) -> None:
    """FAULTS 27: no failover, at most max + 1 connections, and no more refusals than bare."""
    most, told = {}, {}
    for user, kind in (("bare27", psycopg_pool.ConnectionPool), ("ours27", ConnectionPool)):
        lone.admin(f"create role {user} login connection limit 3")
        dsn = lone.dsn.replace("user=app", f"user={user}")
        given: Any = {"settings": Settings(probe_interval_s=0.2)} if user == "ours27" else {}
        seen: list[int] = []
        stop = threading.Event()

        def count(seen: list[int] = seen, user: str = user, stop: Any = stop) -> None:
            query = f"select count(*) from pg_stat_activity where usename = '{user}'"
            with lone.connect() as conn:
                while not stop.wait(0.02):
                    seen.append(int(str(conn.execute(query.encode()).fetchall()[0][0])))

        counting = threading.Thread(target=count)
        counting.start()
        with kind(dsn, min_size=2, max_size=6, open=True, timeout=5, **given) as pool:
            pool.wait(5)

            def work(_: int, pool: Any = pool) -> None:
                with pool.connection() as conn:
                    conn.execute("select pg_sleep(0.05)")

            with ThreadPoolExecutor(12) as executor:
                list(executor.map(work, range(60)))
            if user == "ours27":
                assert [view.generation for view in pool.topology.endpoints] == [0]
                assert pool.topology.writer is not None
        stop.set()
        counting.join()
        most[user], told[user] = max(seen), crowded(lone, user)
    assert most["ours27"] <= 7
    assert told["ours27"] <= max(told["bare27"], 1) * 1.5 + 2, told


def test_two_hundred_processes_reconnect() -> None:
    """FAULTS 28, in virtual time: after the first burst at most 200 × CONNECT_RATE a second."""
    rate_s, burst, rng = 10.0, 4, random.Random(1)
    crowd = [Pacing().lost(0.0) for _ in range(200)]
    dialled: list[float] = []
    now = 0.0
    while now < 3.0:
        for number, pacing in enumerate(crowd):
            for _ in range(10):
                pacing, wait_s = pacing.ask(A, rate_s, burst, now, first=now == 0.0)
                if wait_s:
                    break
                dialled.append(now)
                pacing = pacing.ended(A, 0.001, True, now + 0.001, rng.random())
            crowd[number] = pacing
        now += 0.01
    for begin in (0.5, 1.0, 2.0):
        in_a_second = sum(begin <= at < begin + 1 for at in dialled)
        assert in_a_second <= 200 * (rate_s + 1)  # one more may fall into it
    assert len(dialled) <= 200 * (burst + 3 * rate_s + 1)


@pytest.mark.lab
def test_everything_fails(lone: Server) -> None:
    """FAULTS 29: at most 1.2 attempts an operation, whatever is wrong, once the floor is used."""
    settings = Settings(retry_budget=0.2, retry_budget_floor=0, retry_attempts=5)
    query = "select last_value - 1 + is_called::int from executions"
    with ConnectionPool(lone.dsn, settings=settings, min_size=1) as pool:
        pool.wait(5)
        for _ in range(20):  # what a fresh budget holds
            with suppress(psycopg.Error):
                pool.run(lambda conn: conn.execute("select fail('40001')"))
        before, operations = lone.admin(query)[0][0], 100
        for _ in range(operations):
            with pytest.raises(psycopg.Error):
                pool.run(lambda conn: conn.execute("select fail('40001')"))
        attempts = lone.admin(query)[0][0] - before
    assert operations <= attempts <= 1.2 * operations + 2
