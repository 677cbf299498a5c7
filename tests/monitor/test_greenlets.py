"""Where threads are greenlets, the monitor's loop is nobody else's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from resilient.lab import Lab

PROGRAM = """
from gevent import monkey; monkey.patch_all()
import asyncio, os, sys
import gevent
from resilient.postgres import AsyncConnectionPool, ConnectionPool

def nobodys():
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

async def ran():
    assert asyncio.get_running_loop() is not None
    for _ in range(20):
        await asyncio.sleep(0.01)
        task = asyncio.current_task()
        assert task is not None and task.get_loop() is asyncio.get_running_loop()
    async for number in numbers():
        break
    return "ran"

async def numbers():
    yield 1
    yield 2

async def aside():
    async with AsyncConnectionPool(min_size=1) as pool:  # its monitor starts beside this loop
        async with pool.connection() as conn:
            await conn.execute("select 1")
        assert await ran() == "ran"
    return "ran"

def asks():
    for _ in range(50):
        with pool.connection() as conn:
            conn.execute("select pg_sleep(0.001)")
        assert nobodys() is None
        gevent.sleep(0.001)
    return "asked"

print(asyncio.run(aside()))
with ConnectionPool(min_size=2) as pool:
    pool.wait(10)
    assert nobodys() is None
    asking = [gevent.spawn(asks) for _ in range(4)]
    print(*(one.get(timeout=20) for one in asking))
    print(gevent.spawn(asyncio.run, ran()).get(timeout=10))
    print(asyncio.run(ran()))
assert nobodys() is None
"""


@pytest.mark.lab
def test_no_greenlet_has_the_monitors_loop(lab: Lab) -> None:
    if importlib.util.find_spec("gevent") is None:
        pytest.skip("no gevent")
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **lab.env("az1")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout.split() == ["ran", *["asked"] * 4, "ran", "ran"], program.stderr
