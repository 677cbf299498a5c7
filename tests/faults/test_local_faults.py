"""Faults of this process or machine, which say nothing of the server (FAULTS 24, 25, 35, 36)."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient.postgres import AsyncConnectionPool, ConnectionPool
from resilient.settings import Settings
from tests.differential.pg import Server

pytestmark = pytest.mark.lab
SETTINGS = Settings(probe_interval_s=0.2, probe_timeout_s=0.2)
PACKAGE = Path(resilient.__file__).parent
#: parts in which a timer may be
A_DATE_IN_A_HEADER = PACKAGE / "http" / "_call.py"
TIMED = ("core", "monitor", "postgres", "dns", "http")


def state(pool: Any) -> list[Any]:
    """What a failover would change, once there is a writer."""
    give_up_at = time.monotonic() + 5
    while pool.topology.writer is None and time.monotonic() < give_up_at:
        time.sleep(0.01)
    topology = pool.topology
    return [(str(view.endpoint), view.role, view.generation) for view in topology.endpoints]


@pytest.mark.parametrize("by_s", [3600.0, -3600.0])
def test_the_wall_clock_jumps(lone: Server, by_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 24: no timer moves."""
    with ConnectionPool(lone.dsn, settings=SETTINGS, min_size=1) as pool:
        pool.wait(5)
        before, now = state(pool), time.time
        monkeypatch.setattr(time, "time", lambda: now() + by_s)
        monkeypatch.setattr(time, "time_ns", lambda: int((now() + by_s) * 1e9))
        began = time.monotonic()
        while time.monotonic() - began < 1:
            with pool.connection(timeout=2) as conn:
                conn.execute("insert into orders values (1)")
        assert state(pool) == before


def test_nobody_looks_at_the_wall_clock() -> None:
    """FAULTS 24: for a timer there is only the monotonic one."""
    found = []
    for part in TIMED:
        for file in set((PACKAGE / part).rglob("*.py")) - {A_DATE_IN_A_HEADER}:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    name = f"{node.value.id}.{node.attr}"
                    if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow"):
                        found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}: {name}")
    assert not found


def script(text: str, dsn: str) -> subprocess.Popen[str]:
    """Python code in a process of its own, which has the DSN as `DSN`."""
    code = f"DSN = {dsn!r}\n{text}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )


DESCRIPTORS = """
import contextlib, os, resource, time
from resilient.postgres import ConnectionPool
from resilient.settings import Settings
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
settings = Settings(probe_interval_s=0.2, probe_timeout_s=0.2)
def state():
    began = time.monotonic()
    while pool.topology.writer is None and time.monotonic() - began < 5:
        time.sleep(0.01)
    return [(str(view.endpoint), view.role, view.generation) for view in pool.topology.endpoints]
with ConnectionPool(DSN, settings=settings, min_size=2, max_size=8) as pool:
    pool.wait(5)
    before, taken = state(), []
    with pool.connection() as conn:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            conn.execute("select 1")
            time.sleep(0.05)
        during = state()
    for one in taken:
        os.close(one)
    with pool.connection(timeout=5) as conn:
        conn.execute("select 1")
    print("same" if before == during == state() else (before, during, state()))
"""


def test_no_file_descriptors_are_left(lone: Server) -> None:
    """FAULTS 25: a local fault, no failover; statements on open connections go on."""
    out, _ = script(DESCRIPTORS, lone.dsn).communicate(timeout=30)
    assert out.strip().endswith("same"), out


ENDED = {
    "threads": """
import time
from resilient.postgres import ConnectionPool
with ConnectionPool(DSN + "", min_size=3) as pool:
    pool.wait(5)
    with pool.connection() as conn:
        conn.execute("select 1")
        print("ready", flush=True)
        time.sleep(60)
""",
    "tasks": """
import asyncio
from resilient.postgres import AsyncConnectionPool
async def main():
    async with AsyncConnectionPool(DSN + "", min_size=3) as pool:
        await pool.wait(5)
        async with pool.connection() as conn:
            await conn.execute("select 1")
            print("ready", flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
""",
    "statement": """
from resilient.postgres import ConnectionPool
with ConnectionPool(DSN + "", min_size=3) as pool:
    pool.wait(5)
    with pool.connection() as conn:
        print("ready", flush=True)
        conn.execute("select pg_sleep(4)")
""",
    "left open": """
import time
from resilient.postgres import ConnectionPool
pool = ConnectionPool(DSN + "", min_size=3, open=True)
pool.wait(5)
conn = pool.getconn()
conn.execute("select 1")
print("ready", flush=True)
time.sleep(60)
""",
}


ENDINGS = [
    *((what, signal.SIGINT) for what in ENDED),
    # who ends by the signal itself says no farewell: a statement goes on until it would answer
    *((what, signal.SIGTERM) for what in ENDED if what != "statement"),
]


@pytest.mark.parametrize(("what", "number"), ENDINGS)
def test_the_process_is_ended(lone: Server, what: str, number: signal.Signals) -> None:
    """FAULTS 35: over within 5 s, and no backend is left."""
    name = f"ended-{what.replace(' ', '-')}-{number.name}"
    process = script(ENDED[what], f"{lone.dsn} application_name={name}")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=5)
        assert time.monotonic() - began < 5
        query = f"select count(*) from pg_stat_activity where application_name = '{name}'"
        give_up_at = time.monotonic() + 6
        while lone.admin(query) != [(0,)]:
            assert time.monotonic() < give_up_at, "a backend is left"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


async def test_the_event_loop_is_blocked(lone: Server) -> None:
    """FAULTS 36: verdicts come from a thread of the monitor's own."""
    async with AsyncConnectionPool(lone.dsn, settings=SETTINGS, min_size=2) as pool:
        await pool.wait(5)
        before = state(pool)
        time.sleep(2.0)  # several windows of 0.6 s; it is meant to block
        assert state(pool) == before
        async with pool.connection() as conn:
            await conn.execute("select 1")
        assert state(pool) == before
