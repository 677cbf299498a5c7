"""Where reads with a token go: the share that replicas serve, by what the role may see.

    python -m benchmarks.tokens [--rounds 300] [--json]

One writer commits, takes a token, and reads its own row after 0, 20 and 200 ms through
`pool.connection(read_only=True, after=token)`, in a lab of three zones whose replication is
asynchronous.  With `pg_read_all_stats` a standby tells the timeline that it follows; without, it
has to have come past the timeline's beginning (or its next checkpoint) before it proves anything.
Both roles once after a start, and once after a failover.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from typing import Any

import psycopg

from resilient.lab import Lab, LabOptions
from resilient.lab.namespace import reexec_inside
from resilient.postgres import ConnectionPool
from resilient.settings import Settings

__all__ = ["main", "measure"]

AFTER_S = (0.0, 0.02, 0.2)
INSERT = "INSERT INTO tokens DEFAULT VALUES RETURNING id"
READ = "SELECT count(*), host(inet_server_addr()) FROM tokens WHERE id = %s"
GRANT = {True: "GRANT pg_read_all_stats TO app", False: "REVOKE pg_read_all_stats FROM app"}


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each role, time (after a start, after a failover) and age of the token."""
    rows: list[dict[str, Any]] = []
    with Lab(LabOptions(sync=False)) as lab:
        with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write") as conn:
            conn.execute("CREATE TABLE tokens (id serial PRIMARY KEY)")
        for when in ("start", "failover"):
            if when == "failover":
                lab.inject("switchover").wait_done()
            settings = Settings(zone=lab.standbys[0].zone)
            for granted in (True, False):
                lab.admin(lab.primary.zone, GRANT[granted])
                with ConnectionPool(lab.dsn, settings=settings, min_size=2, open=True) as pool:
                    pool.wait(10)
                    time.sleep(2.0)  # both replicas' connections are there
                    for after_s in AFTER_S:
                        told = _share(pool, lab, rounds, after_s)
                        role = "pg_read_all_stats" if granted else "nothing"
                        rows.append({"role": role, "since": when, "after_s": after_s, **told})
    return rows


def _share(pool: ConnectionPool, lab: Lab, rounds: int, after_s: float) -> dict[str, Any]:
    replicas = missing = 0
    for _ in range(rounds):
        with pool.connection() as conn:
            (number,) = conn.execute(INSERT).fetchone() or (0,)
        token = pool.causal_token()
        time.sleep(after_s)
        with pool.connection(read_only=True, after=token) as conn:
            seen, server = conn.execute(READ, [number]).fetchone() or (0, "")
        missing += seen != 1
        replicas += server != lab.primary.address
    return {"reads": rounds, "by_replicas": round(replicas / rounds, 3), "missing": missing}


def main(argv: list[str]) -> int:
    """0: every read saw its row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="of each kind (300)")
    parser.add_argument("--json", action="store_true", help="a JSON line for each row")
    options = parser.parse_args(argv)
    reexec_inside([sys.executable, "-m", "benchmarks.tokens", *argv])
    logging.disable(logging.CRITICAL)  # failovers are told, and here they are on purpose
    rows = measure(options.rounds)
    if options.json:
        print(*map(json.dumps, rows), sep="\n")
    else:
        print("| the role may see | since a | token's age, ms | by replicas | own row missing |")
        print("|---|---|---|---|---|")
        for row in rows:
            age, share = f"{1e3 * row['after_s']:g}", f"{100 * row['by_replicas']:.0f} %"
            print(f"| {row['role']} | {row['since']} | {age} | {share} | {row['missing']} |")
    return 1 if any(row["missing"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
