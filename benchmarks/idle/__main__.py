"""At rest: sessions begun and transactions a second on each server, ours beside psycopg_pool.

    python -m benchmarks.idle [--seconds 10]

Kinds of endpoint: one host, a list of three, a balancer over the standbys, and PgBouncer where it
is installed.  Every probe is a transaction, so the second number counts probes and queries alike.
From `pg_stat_database`, which servers bring up to date about once a second; the bench's own session
is in another database.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg_pool

from resilient.lab import Lab, LabOptions
from resilient.lab.balancer import Balancer
from resilient.postgres import ConnectionPool
from resilient.settings import Settings

BALANCED, POOLED = "127.0.7.10", "127.0.6.10"
POOL_PORT = 6432
STATS = (
    "select coalesce(sum(sessions), 0)::bigint,"
    " coalesce(sum(xact_commit + xact_rollback), 0)::bigint"
    " from pg_stat_database where datname = 'app'"
)
#: a backend tells of its transactions a second later
SETTLE_S = 2.0

Kind = tuple[str, str, AbstractContextManager[Any]]


def kinds(lab: Lab) -> Iterator[Kind]:
    """(name, conninfo, what has to run meanwhile)."""
    one = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    yield "one host", one, nullcontext()
    yield "three hosts", lab.dsn, nullcontext()
    backends = [(member.address, lab.port) for member in lab.standbys]
    balanced = f"host={BALANCED} port={lab.port} user=app dbname=app"
    yield "a balancer", balanced, Balancer.round_robin(BALANCED, lab.port, *backends)
    if shutil.which("pgbouncer"):
        yield "PgBouncer", f"host={POOLED} port={POOL_PORT} user=app dbname=app", bouncer(lab)


@contextmanager
def bouncer(lab: Lab) -> Iterator[None]:
    """PgBouncer in transaction mode before the primary."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "ini").write_text(
            f"[databases]\napp = host={lab.primary.address} port={lab.port} user=app\n[pgbouncer]\n"
            f"listen_addr = {POOLED}\nlisten_port = {POOL_PORT}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\nlogfile = {folder}/log\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        process = subprocess.Popen(["pgbouncer", "-q", "-u", "postgres", str(folder / "ini")])
        try:
            time.sleep(0.5)
            yield
        finally:
            process.kill()
            process.wait()


def counted(lab: Lab) -> list[tuple[int, int]]:
    rows = [member.execute(STATS)[0] for member in lab.members]
    return [(int(str(sessions)), int(str(done))) for sessions, done in rows]


def at_rest(lab: Lab, pool: Any, seconds: float) -> list[tuple[float, float]]:
    """Per server: sessions begun and transactions a second."""
    with pool:
        pool.wait(20.0)
        time.sleep(SETTLE_S)
        before = counted(lab)
        time.sleep(seconds)
        after = counted(lab)
    return [
        ((b[0] - a[0]) / seconds, (b[1] - a[1]) / seconds)
        for a, b in zip(before, after, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    print("| endpoint | pool | sessions a second, per server | transactions a second, per server |")
    print("|---|---|---|---|")
    with Lab(LabOptions(http=False)) as lab:
        for name, dsn, beside in kinds(lab):
            options = {"prepare_threshold": None} if name == "PgBouncer" else {}
            with beside:
                for who, pool in (
                    ("psycopg_pool", psycopg_pool.ConnectionPool(dsn, kwargs=options, open=False)),
                    (
                        "resilient",
                        ConnectionPool(dsn, kwargs=options, settings=Settings(), open=False),
                    ),
                ):
                    rates = at_rest(lab, pool, seconds)
                    begun = " / ".join(f"{rate[0]:.1f}" for rate in rates)
                    done = " / ".join(f"{rate[1]:.1f}" for rate in rates)
                    print(f"| {name} | {who} | {begun} | {done} |", flush=True)


if __name__ == "__main__":
    main()
