"""A pool made in the parent, used by its children: each has connections of its own.

    RESILIENT_DATABASE_URL=postgresql://… python examples/orders_multiprocessing.py [SECONDS]

A forked child that used its parent's sessions would answer for both. Here its pool opens itself
anew at the first checkout, with a monitor of its own. Nothing is to be done about it.
"""

from __future__ import annotations

import multiprocessing
import sys
import time

import psycopg

from resilient.postgres import CommitOutcomeUnknown, ConnectionPool

#: the key makes an order that is sent twice one order
TABLE = """\
CREATE TABLE IF NOT EXISTS orders_multiprocessing
 (worker int, number int, PRIMARY KEY (worker, number))"""
INSERT = "INSERT INTO orders_multiprocessing VALUES (%s, %s) ON CONFLICT DO NOTHING"

pool = ConnectionPool(min_size=1, open=False)  # where: RESILIENT_DATABASE_URL


def place(conn: psycopg.Connection, worker: int, number: int) -> None:
    """One transaction; run again as a whole when a failover interrupts it."""
    conn.execute(INSERT, (worker, number))


def work(worker: int, until: float) -> int:
    """In a child: take orders; how many there were."""
    number = 0
    while time.monotonic() < until:
        number += 1
        try:
            pool.run(place, worker, number)
        except CommitOutcomeUnknown:  # the same key makes a second try safe
            pool.run(place, worker, number)
        time.sleep(0.01)
    pool.close()
    return number


def main(seconds: float) -> None:
    """Fork, and add up."""
    with pool:
        with pool.connection() as conn:
            conn.execute(TABLE)
        print("taking orders", flush=True)
        until = time.monotonic() + seconds
        with multiprocessing.get_context("fork").Pool(4) as children:
            counts = children.starmap(work, [(worker, until) for worker in range(4)])
        with pool.connection() as conn:  # the parent's own sessions are as they were
            conn.execute("SELECT 1")
    print(f"{sum(counts)} orders taken", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
