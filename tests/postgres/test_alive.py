"""A server that serves its sessions isn't dead, whoever waits at its door."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import pytest

from resilient.core.model import Health
from resilient.lab import Lab

from .conftest import Face, settings_of
from .in_band import backends, sides, until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.usefixtures("soon_idle"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when data came"),
]


@pytest.mark.parametrize("busy", [True, False])
async def test_it_is_judged_by_what_it_sends(lab: Lab, orders: str, face: Face, busy: bool) -> None:
    """Its postmaster hangs: no session can begin, and the only one is in use, or silent."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await face.open(dsn, settings_of(lab), min_size=1, max_size=1)
    pid = lab.primary.pid
    assert pid is not None
    ended_at = time.monotonic() + 4.5
    seen = set()

    async def use() -> None:
        if not busy:
            await face.query("select pg_sleep(4.5)")
        while time.monotonic() < ended_at:
            await face.query("select pg_sleep(0.05)")

    try:
        await face.wait()
        await until(lambda: backends(lab)[0] > sides(lab)[0], 5)
        await asyncio.sleep(0.5)  # probes have begun, some on a session of their own
        await until(lambda: sides(lab) == [0, 0, 0], 8)
        os.kill(pid, signal.SIGSTOP)
        using = asyncio.create_task(use())
        while time.monotonic() < ended_at - 0.5:
            seen.add(face.pool.topology.endpoints[0].health)
            await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGCONT)
        await asyncio.gather(using, return_exceptions=True)
        assert Health.SUSPECT in seen
        assert (Health.DEAD in seen) == (not busy)
    finally:
        os.kill(pid, signal.SIGCONT)
        await face.close()


async def test_one_that_falls_silent_after_that_is_dead(lab: Lab, orders: str, face: Face) -> None:
    """Its postmaster hangs while it serves a session, and then all of it does."""
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await face.open(dsn, settings_of(lab), min_size=1, max_size=1)
    pid = lab.primary.pid
    assert pid is not None
    serving = True

    async def use() -> None:
        while serving:
            await face.query("select pg_sleep(0.05)")

    try:
        await face.wait()
        await until(lambda: backends(lab)[0] > sides(lab)[0], 5)
        await asyncio.sleep(0.5)
        await until(lambda: sides(lab) == [0, 0, 0], 8)
        os.kill(pid, signal.SIGSTOP)
        using = asyncio.create_task(use())
        await asyncio.sleep(2.5)
        assert face.pool.topology.endpoints[0].health is not Health.DEAD
        lab.primary.pause()
        await until(lambda: face.pool.topology.endpoints[0].health is Health.DEAD, 6)
    finally:
        serving = False
        lab.primary.resume()
        os.kill(pid, signal.SIGCONT)
        await asyncio.gather(using, return_exceptions=True)
        await face.close()
