"""FAULTS 32: behind PgBouncer in transaction mode nothing is prepared, no session is relied on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.lab.ports import choose_port
from resilient.postgres import ConnectionPool
from resilient.settings import Settings
from tests.differential.pg import Server
from tests.differential.places.pooler import ADDRESS, pooling, version

pytestmark = pytest.mark.lab
#: 1.21 is the first that keeps prepared statements in transaction mode; those before know no
#: such setting, and don't start with it
NONE_KEPT = "max_prepared_statements = 0"
VARIANTS = {"usual": "", "none prepared": NONE_KEPT} if version() >= (1, 21) else {"usual": ""}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def pooler(request: pytest.FixtureRequest, lone: Server) -> Iterator[str]:
    """The DSN of a PgBouncer in front of the server."""
    port = choose_port([ADDRESS], None, 6432, "port", prefer_usual=False)
    with pooling(
        lone.address, lone.port, "transaction", 3, more=request.param, port=port
    ) as running:
        yield running.dsn


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [
        (psycopg_pool.ConnectionPool, None),
        (psycopg_pool.ConnectionPool, 1000),
        (ConnectionPool, None),
        (ConnectionPool, 1000),
    ],
    ids=["bare-None", "bare-1000", "ours-None", "ours-1000"],
)
def test_behind_pgbouncer(pooler: str, lone: Server, kind: Any, threshold: int | None) -> None:
    """FAULTS 32: `threshold` is psycopg's: None prepares nothing; 1000, nothing of its own yet."""
    given: Any = {"settings": Settings(probe_interval_s=0.3)} if kind is ConnectionPool else {}
    failed: list[str] = []
    lone.admin("truncate orders")
    kwargs = {"prepare_threshold": threshold}
    with kind(pooler, min_size=4, max_size=8, kwargs=kwargs, open=True, **given) as pool:
        pool.wait(5)

        def work(first: int) -> None:
            for number in range(first, first + 25):
                try:
                    with pool.connection() as conn:
                        conn.execute("insert into orders values (%s)", (number,))
                        conn.execute("select count(*) from orders where id = %s", (number,))
                except psycopg.Error as exc:
                    failed.append(f"{exc.sqlstate} {exc}")

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed, (len(failed), failed[0])
    assert lone.admin("select count(*), count(distinct id) from orders") == [(150, 150)]
