"""The payment service: one process in each zone, behind a balancer.

    service.py ADDRESS PORT FRAUD_URL GATEWAY_URL      (RESILIENT_…: the database, zones, names)

    POST /checkout?id=…       201 once it is paid; the same id again is the same payment
    GET  /health/ready        SELECT 1, the fraud check and the gateway, each within 500 ms
    GET  /health/live

A checkout touches three others: the fraud check, the database and the gateway.  Each step can be
done again under the id, so whatever is interrupted is done again as a whole.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psycopg

from resilient.health import Readiness, database, wsgi_app
from resilient.health import http as answers
from resilient.http import Client
from resilient.postgres import CommitOutcomeUnknown, ConnectionPool

TABLE = "CREATE TABLE IF NOT EXISTS payments (id text PRIMARY KEY, state text NOT NULL)"
BEGIN = "INSERT INTO payments VALUES (%s, 'checked') ON CONFLICT DO NOTHING"
PAID = "UPDATE payments SET state = 'paid' WHERE id = %s"
#: of a call to the fraud check or the gateway, seconds
PATIENCE_S = 1.0


class Service:
    """What a request goes through.  The pool goes where `RESILIENT_DATABASE_URL` says."""

    def __init__(self, fraud: str, gateway: str) -> None:
        self.fraud, self.gateway = fraud, gateway
        self.pool = ConnectionPool(min_size=4, max_size=16, open=False)
        self.client = Client()
        self.health = wsgi_app(
            Readiness(
                db=database(self.pool, timeout_s=0.5),
                fraud=answers(f"{fraud}/health/live", timeout_s=0.5),
                gateway=answers(f"{gateway}/health/live", timeout_s=0.5),
            )
        )

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI."""
        if environ["PATH_INFO"].startswith("/health/"):
            return self.health(environ, start)
        given = parse_qs(environ.get("QUERY_STRING", "")).get("id", [""])[0]
        if environ["PATH_INFO"] != "/checkout" or not given:
            return answer(start, "404 Not Found", {"error": "POST /checkout?id=…"})
        try:
            self.checkout(given)
        except Exception as error:  # the customer is told, and may come again
            return answer(start, "503 Service Unavailable", {"error": type(error).__name__})
        return answer(start, "201 Created", {"paid": given})

    def checkout(self, number: str) -> None:
        """Fraud check, a row, the charge, the row again."""
        extensions = {"resilient": {"deadline_s": PATIENCE_S}}
        checked = self.client.get(
            f"{self.fraud}/fraud/check", params={"id": number}, extensions=extensions
        )
        checked.raise_for_status()
        self.write(BEGIN, number)
        charged = self.client.post(
            f"{self.gateway}/gateway/charge",
            headers={"Idempotency-Key": number},
            extensions=extensions,
        )
        charged.raise_for_status()
        self.write(PAID, number)

    def write(self, statement: str, number: str) -> None:
        """In a transaction of its own; where nobody knows what became of it, again: it may."""

        def once(conn: psycopg.Connection[Any]) -> None:
            conn.execute(statement.encode(), (number,))

        try:
            self.pool.run(once)
        except CommitOutcomeUnknown:
            self.pool.run(once)


def make_table(conn: psycopg.Connection[Any]) -> None:
    """Both zones' services begin at once, and IF NOT EXISTS alone doesn't stand that."""
    conn.execute("SELECT pg_advisory_xact_lock(1)")
    conn.execute(TABLE)


def answer(start: Callable[..., Any], status: str, told: object) -> list[bytes]:
    """As JSON."""
    body = json.dumps(told).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """A thread a request."""

    daemon_threads = True
    request_queue_size = 128


class Quiet(WSGIRequestHandler):
    """Without a line for each request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(address: str, port: int, fraud: str, gateway: str) -> None:
    """Serve until killed."""
    service = Service(fraud, gateway)
    with service.pool, service.client:
        service.pool.wait()
        service.pool.run(make_table)
        with make_server(address, port, service, Server, Quiet) as server:
            server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
