"""FAULTS 32: behind PgBouncer in transaction mode nothing is prepared, no session is relied on."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient.lab.ports import choose_port
from resilient.postgres import ConnectionPool
from resilient.settings import Settings
from tests.differential.pg import Server

pytestmark = pytest.mark.lab
PROGRAM = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
CONFIG = """[databases]
app = host={host} port={server} dbname=app user=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
{more}
"""


@pytest.fixture(params=["", "max_prepared_statements = 0"], ids=["usual", "none prepared"])
def pooler(request: pytest.FixtureRequest, lone: Server, tmp_path: Path) -> Iterator[str]:
    """The DSN of a PgBouncer in front of the server."""
    if PROGRAM is None:
        pytest.skip("there is no pgbouncer (Debian: pgbouncer)")
    port = choose_port(["127.0.0.1"], None, 6432, "port", prefer_usual=False)
    config = tmp_path / "pgbouncer.ini"
    text = CONFIG.format(host=lone.address, server=lone.port, port=port, more=request.param)
    text = text.replace("auth_type = any", "auth_type = any\nlogfile =")
    config.write_text(text)
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        entry = pwd.getpwnam("postgres")
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
    process = subprocess.Popen([PROGRAM, str(config)], stderr=subprocess.DEVNULL, **user)
    try:
        give_up_at = time.monotonic() + 5
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > give_up_at or process.poll() is not None:
                    pytest.skip(f"pgbouncer didn't start: {process.poll()}")
                time.sleep(0.02)
        yield f"host=127.0.0.1 port={port} user=app dbname=app"
    finally:
        process.terminate()
        process.wait(5)


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
