"""A web service that takes orders, and goes on taking them while its database fails over.

    RESILIENT_DATABASE_URL=postgresql://… python examples/shop_wsgi.py [PORT]

    curl -X POST localhost:8000/orders -d book     # 201 and the order's number
    curl localhost:8000/orders                     # how many there are, read from a replica
    curl localhost:8000/health/ready               # for a balancer; /health/live for a supervisor

WSGI and the standard library's server: in production the same `application` runs under any other.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psycopg

from resilient.health import Readiness, database, wsgi_app
from resilient.postgres import CommitOutcomeUnknown, ConnectionPool

#: the key makes an order that is sent twice one order, whatever the reason
TABLE = """\
CREATE TABLE IF NOT EXISTS orders
 (number bigserial PRIMARY KEY, key uuid UNIQUE NOT NULL, item text NOT NULL)"""
INSERT = """\
INSERT INTO orders (key, item) VALUES (%s, %s)
 ON CONFLICT (key) DO UPDATE SET item = excluded.item RETURNING number"""

pool = ConnectionPool(min_size=4, open=False)  # where: RESILIENT_DATABASE_URL
health = wsgi_app(Readiness(db=pool, replica=database(pool, read_only=True)))


def take_order(conn: psycopg.Connection, key: str, item: str) -> int:
    """One transaction; run again as a whole when a failover interrupts it."""
    row = conn.execute(INSERT, (key, item)).fetchone()
    assert row is not None
    return int(row[0])


def count_orders() -> int:
    """From a replica in this zone, if there is one."""
    with pool.reader.connection() as conn:
        row = conn.execute("SELECT count(*) FROM orders").fetchone()
    assert row is not None
    return int(row[0])


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The service."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if path.startswith("/health/"):
        return health(environ, start_response)
    if path != "/orders" or method not in ("GET", "POST"):
        return answer(start_response, "404 Not Found", {"error": "GET or POST /orders"})
    if method == "GET":
        return answer(start_response, "200 OK", {"orders": count_orders()})
    item = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    key = environ.get("HTTP_IDEMPOTENCY_KEY") or str(uuid.uuid4())
    try:
        number = pool.run(take_order, key, item)
    except CommitOutcomeUnknown:
        # Nobody knows whether it is there. The key makes a second try safe: the first wins.
        number = pool.run(take_order, key, item)
    return answer(start_response, "201 Created", {"number": number, "key": key})


def answer(start_response: Callable[..., Any], status: str, told: object) -> list[bytes]:
    """As JSON."""
    body = json.dumps(told).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """A thread a request."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Without a line for each request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(port: int) -> None:
    """Serve until Ctrl-C."""
    with pool:
        pool.wait()
        pool.run(lambda conn: conn.execute(TABLE))
        with make_server("127.0.0.1", port, application, Server, Quiet) as server:
            print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
