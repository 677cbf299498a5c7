"""Celery's workers over one pool of the module: each forked worker has connections of its own.

    RESILIENT_DATABASE_URL=postgresql://… celery --workdir examples -A orders_celery worker
    RESILIENT_DATABASE_URL=postgresql://… python examples/orders_celery.py [SECONDS]

The second one starts such a worker itself, sends it orders, and says how many were taken. The
broker is a database in a folder here (BROKER_DIR), so nothing else has to run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import celery
import psycopg
from celery.signals import worker_process_shutdown
from kombu.transport.sqlalchemy import Transport

from resilient.postgres import CommitOutcomeUnknown, ConnectionPool

TABLE = "CREATE TABLE IF NOT EXISTS orders_celery (number int PRIMARY KEY)"
INSERT = "INSERT INTO orders_celery VALUES (%s) ON CONFLICT DO NOTHING"

Transport.polling_interval = 0.05  # seconds; how often such a broker is looked at
app = celery.Celery("orders_celery")
app.conf.task_acks_late = True  # a worker that dies gives its order back
app.conf.worker_prefetch_multiplier = 1


def use(folder: str) -> None:
    """A database in this folder is the broker."""
    app.conf.broker_url = f"sqla+sqlite:///{folder}/broker.sqlite?timeout=30"


use(os.environ.get("BROKER_DIR") or tempfile.gettempdir())
# Made and opened before Celery forks its workers: they open it anew, at their first checkout.
pool = ConnectionPool(min_size=1, open=False)  # where: RESILIENT_DATABASE_URL
if "worker" in sys.argv:
    pool.open()


def insert(conn: psycopg.Connection, number: int) -> None:
    """One transaction; run again as a whole when a failover interrupts it."""
    conn.execute(INSERT, (number,))


@app.task(autoretry_for=(CommitOutcomeUnknown,), retry_backoff=1)
def place(number: int) -> None:
    """An order. Its number makes a second try safe."""
    pool.run(insert, number)


@worker_process_shutdown.connect
def leave(**_: object) -> None:
    """A worker ends: so do its sessions."""
    pool.close()


def main(seconds: float) -> None:
    """Start a worker, send it orders for so long, and wait until they are taken."""
    with pool, pool.connection() as conn:
        conn.execute(TABLE)
        conn.commit()
        arguments = ("worker", "--concurrency=2", "--without-mingle", "--without-gossip")
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "orders_celery", *arguments, "-l", "ERROR"],
            cwd=Path(__file__).parent,
            stdout=sys.stderr,
        )
        try:
            place.delay(0)
            while taken(conn) == 0:  # it has started
                time.sleep(0.05)
            print("taking orders", flush=True)
            until, number = time.monotonic() + seconds, 0
            while time.monotonic() < until:
                number += 1
                place.delay(number)
                time.sleep(0.02)
            while taken(conn) <= number:
                time.sleep(0.05)
        finally:
            worker.terminate()
            worker.wait()
    print(f"{number + 1} orders taken", flush=True)


def taken(conn: psycopg.Connection) -> int:
    """How many orders there are."""
    row = conn.execute("SELECT count(*) FROM orders_celery").fetchone()
    conn.commit()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        os.environ["BROKER_DIR"] = made  # the worker is told the same
        use(made)
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
