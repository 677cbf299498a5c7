"""How a program's own tests force a failover on it, and keep its HTTP at home.

    pytest examples/testing

Three PostgreSQL servers are started for the session (the extra `lab` brings them, if there are
none), and forced to fail by name: see `resilient.testing.Lab.inject`.
"""

from __future__ import annotations

import httpx2
import pytest

from resilient.http import Client
from resilient.postgres import ConnectionPool
from resilient.testing import Lab, offline


def take_order(pool: ConnectionPool, item: str) -> int:
    """What is tested: two statements and an answer, in one transaction."""
    with pool.connection() as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS orders (number serial, item text)")
        row = conn.execute("INSERT INTO orders (item) VALUES (%s) RETURNING number", (item,))
        (number,) = row.fetchone() or (0,)
        return int(number)


@pytest.mark.usefixtures("resilient_env")  # RESILIENT_DATABASE_URL leads to the lab
def test_orders_outlive_their_primary(resilient_lab: Lab) -> None:
    with ConnectionPool(min_size=1) as pool:
        first = take_order(pool, "book")
        before = resilient_lab.primary.zone
        with pool.connection() as conn:  # a transaction is open when its server is killed
            conn.execute("INSERT INTO orders (item) VALUES ('pen')")
            resilient_lab.inject("crash", promote_after_s=0.2).wait_done()
            conn.execute("INSERT INTO orders (item) VALUES ('ink')")
        assert resilient_lab.primary.zone != before
        assert take_order(pool, "cup") > first
        with pool.connection() as conn:
            rows = conn.execute("SELECT item FROM orders ORDER BY item").fetchall()
        assert rows == [("book",), ("cup",), ("ink",), ("pen",)]


def test_mocks_are_asked_and_nothing_leaves_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(transport: object, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"paid": True})

    with offline(), Client() as client:
        with pytest.raises(httpx2.ConnectError, match="offline"):
            client.post("https://pay.example/charges")
        monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", handle)
        assert client.post("https://pay.example/charges").json() == {"paid": True}
