"""Behind a real HAProxy: standbys in turn, and the primary by a health check such as Patroni's.

FAULTS 46.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from resilient.lab import Lab
from resilient.lab.postgres import Member
from tests.postgres.conftest import Face

from .conftest import one_shell, opened, other_shell, settings_of, until

pytestmark = pytest.mark.lab

ADDRESS, WRITES, READS, REST = "127.0.5.10", 5000, 5001, 8008
REST_S, FEW = 3.0, 3


def rest_of(member: Member) -> type[BaseHTTPRequestHandler]:
    """`/primary` and `/replica` as Patroni's REST API answers them: 200 or 503."""

    class Rest(BaseHTTPRequestHandler):
        def do_OPTIONS(self) -> None:
            try:
                primary = member.is_primary()
                right = primary == (self.path == "/primary")
            except Exception:
                right = False
            self.send_response(200 if right else 503)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    return Rest


def configured(lab: Lab) -> str:
    def farm(name: str, port: int, path: str) -> str:
        servers = "\n".join(
            f" server {m.zone} {m.address}:{lab.port} check port {REST}" for m in lab.members
        )
        return (
            f"listen {name}\n bind {ADDRESS}:{port}\n balance roundrobin\n"
            f" option httpchk OPTIONS {path}\n http-check expect status 200\n"
            " default-server inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions\n"
            f"{servers}\n"
        )

    timeouts = "timeout client 1h\n timeout server 1h\n timeout connect 1s\n timeout check 1s"
    defaults = f"defaults\n mode tcp\n {timeouts}\n"
    both = farm("writes", WRITES, "/primary") + farm("reads", READS, "/replica")
    return f"global\n maxconn 500\n{defaults}{both}"


def settled() -> None:
    """Return when both ports have led to the right servers for a while."""
    give_up_at, right = time.monotonic() + 15, 0
    while right < 8:
        assert time.monotonic() < give_up_at
        try:
            for port, standby in ((WRITES, False), (READS, True)):
                dsn = f"host={ADDRESS} port={port} user=app dbname=app connect_timeout=2"
                with psycopg.connect(dsn) as conn:
                    assert conn.execute("select pg_is_in_recovery()").fetchone() == (standby,)
            right += 1
        except (psycopg.Error, AssertionError):
            right = 0
        time.sleep(0.1)


@contextmanager
def haproxy(lab: Lab, folder: Path) -> Iterator[None]:
    servers = [ThreadingHTTPServer((m.address, REST), rest_of(m)) for m in lab.members]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    config = folder / "haproxy.cfg"
    config.write_text(configured(lab))
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)])
    try:
        settled()  # it takes every server for one until it has checked it
        yield
    finally:
        process.kill()
        process.wait()
        for server in servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def proxied(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """The conninfo of the port that leads to the primary."""
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy isn't installed (apt-get install haproxy)")
    with haproxy(lab, tmp_path):
        yield f"host={ADDRESS} port={WRITES} user=app dbname=app"


@one_shell
async def test_reads_go_to_the_standbys_and_it_is_at_rest(
    lab: Lab, orders: str, face: Face, proxied: str
) -> None:
    settings = settings_of(lab, zone=None, database_readers=f"{ADDRESS}:{READS}")
    async with opened(face, proxied, settings) as ours:
        assert await ours.insert(-1, timeout=10.0) == lab.primary.address
        await until(lambda: len(ours.pool._core.replicas) == 1)
        await asyncio.gather(*(ours.where(read_only=True) for _ in range(20)))
        await asyncio.sleep(1.0)
        before = sum(sessions(member) for member in lab.members)
        await asyncio.sleep(REST_S)
        assert sum(sessions(member) for member in lab.members) - before <= FEW * 3
        standbys = {member.address for member in lab.standbys}
        assert {await ours.where(read_only=True) for _ in range(50)} <= standbys


def sessions(member: Member) -> int:
    """How many sessions the application's database has had there so far."""
    (row,) = member.execute("select sessions from pg_stat_database where datname = 'app'")
    count = row[0]
    assert isinstance(count, int)
    return count


@other_shell
async def test_a_failover_behind_it(lab: Lab, orders: str, face: Face, proxied: str) -> None:
    async with opened(face, proxied, settings_of(lab, zone=None)) as ours:
        assert await ours.insert(-1, timeout=10.0) == lab.primary.address
        lab.inject("crash").wait_done()
        assert await ours.insert(-2, timeout=20.0) == lab.primary.address
