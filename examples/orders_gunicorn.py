"""gunicorn with `--preload`: the pool is open before the workers are forked.

    RESILIENT_DATABASE_URL=postgresql://… gunicorn --chdir examples --preload orders_gunicorn:app
    RESILIENT_DATABASE_URL=postgresql://… python examples/orders_gunicorn.py [SECONDS]

The second one starts it with two workers, sends it orders, and says how many were taken. Each
worker opens the pool anew, at its first checkout; the master's sessions stay the master's.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
import psycopg

from resilient.postgres import ConnectionPool

TABLE = "CREATE TABLE IF NOT EXISTS orders_gunicorn (key text PRIMARY KEY, worker int)"
INSERT = """\
INSERT INTO orders_gunicorn VALUES (%s, pg_backend_pid()) ON CONFLICT DO NOTHING"""

pool = ConnectionPool(min_size=1, open=False)  # where: RESILIENT_DATABASE_URL
if __name__ != "__main__":  # gunicorn's master, or its workers without --preload
    pool.open()


def place(conn: psycopg.Connection, key: str) -> None:
    """One transaction; run again as a whole when a failover interrupts it."""
    conn.execute(INSERT, (key,))


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`POST /<key>`: an order."""
    if environ["REQUEST_METHOD"] == "POST":
        pool.run(place, environ["PATH_INFO"].strip("/"))
    start_response("204 No Content", [])
    return []


def main(seconds: float) -> None:
    """Start gunicorn, send it orders for so long, and stop it."""
    with pool, pool.connection() as conn:
        conn.execute(TABLE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ("--preload", "--workers=2", "--log-level=error", f"--bind=127.0.0.1:{port}")
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *arguments, "orders_gunicorn:app"],
        cwd=Path(__file__).parent,
    )
    number = 0
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while not answers(client):
                time.sleep(0.05)
            print("taking orders", flush=True)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                number += 1
                response = client.post(f"/{number}")
                if response.status_code == 500:  # nobody knows: the key makes a second try safe
                    response = client.post(f"/{number}")
                response.raise_for_status()
                time.sleep(0.01)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    print(f"{number} orders taken", flush=True)


def answers(client: httpx2.Client) -> bool:
    """Has it started?"""
    try:
        return client.get("/").is_success
    except httpx2.TransportError:
        return False


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
