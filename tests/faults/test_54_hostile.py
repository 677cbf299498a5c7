"""FAULTS 54: a server that means no good costs no memory, and no deadline of other calls."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from resilient.core.model import Endpoint, FailureKind
from resilient.monitor.prober import ProbeError
from resilient.postgres import AsyncConnectionPool, ConnectionPool, bounded
from resilient.postgres.probe import PgProber
from resilient.settings import Settings
from tests.differential.play import call

from .hostile import HostileServer, endless, endless_message, endless_notices, laborious

MEGABYTE = 1 << 20
ENDLESS = [endless, endless_message, endless_notices]
PARAMS = (("dbname", "app"), ("password", "secret"), ("user", "app"))


def resident() -> int:
    """Bytes of this process's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize("behave", ENDLESS, ids=lambda fn: fn.__name__)
async def test_an_answer_without_an_end_is_given_up(behave: Callable[..., None]) -> None:
    prober = PgProber(PARAMS)
    with HostileServer(behave) as server:
        endpoint = Endpoint("127.0.0.1", "127.0.0.1", server.port)
        before = resident()
        for _ in range(3):
            with pytest.raises(ProbeError) as raised:
                async with asyncio.timeout(10):
                    await prober.probe(endpoint)
            assert raised.value.kind is FailureKind.ERROR, raised.value
        assert resident() - before < 10 * MEGABYTE
        await prober.close()


async def test_laborious_authentication_is_not_begun() -> None:
    """Nobody could end it: the number of iterations is looked at before libpq computes."""
    prober = PgProber(PARAMS)
    with HostileServer(laborious) as server:
        endpoint = Endpoint("127.0.0.1", "127.0.0.1", server.port)
        for _ in range(3):
            with pytest.raises(ProbeError, match="authentication") as raised:
                async with asyncio.timeout(5):
                    await prober.probe(endpoint)
            assert raised.value.kind is FailureKind.ERROR
        await prober.close()
    give_up_at = time.monotonic() + 2  # its thread has told, and may end a moment later
    while "resilient-login" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < give_up_at, "it computes"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("behave", [laborious, *ENDLESS], ids=lambda fn: fn.__name__)
def test_the_monitor_keeps_the_time_of_others(behave: Callable[..., None]) -> None:
    """One hostile host among a pool's hosts: another pool's deadline holds."""
    settings = Settings(deadline_s=1, probe_interval_s=0.2)
    before = resident()
    with HostileServer(behave) as server:
        dsn = f"host=127.0.0.1 port={server.port} user=app password=secret dbname=app"
        hostile = ConnectionPool(dsn, settings=settings, min_size=0, max_size=1, open=False)
        hostile.open()
        try:
            give_up_at = time.monotonic() + 5
            while not server.sent and time.monotonic() < give_up_at:
                time.sleep(0.01)
            late = []
            monitor = hostile._core.cluster._monitor
            for _ in range(20):
                at, heard = time.monotonic(), threading.Event()
                monitor.call(heard.set)
                heard.wait(5)
                late.append(time.monotonic() - at)
                time.sleep(0.02)
            assert max(late) < 0.3
        finally:
            hostile.close()
    assert resident() - before < 10 * MEGABYTE


@pytest.mark.parametrize("kind", [ConnectionPool, AsyncConnectionPool])
@pytest.mark.parametrize("behave", [laborious, *ENDLESS], ids=lambda fn: fn.__name__)
async def test_a_checkout_keeps_its_time(kind: Any, behave: Callable[..., None]) -> None:
    """The pool's own dials have the same bounds as probes."""
    settings = Settings(deadline_s=1, probe_interval_s=30)
    before = resident()
    with HostileServer(behave) as server:
        dsn = f"host=127.0.0.1 port={server.port} user=app password=secret dbname=app"
        pool = kind(dsn, settings=settings, min_size=0, max_size=2, open=False)
        await call(pool.open())
        try:
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(psycopg.OperationalError):
                    await call(pool.getconn(timeout=0.5))
                assert time.monotonic() - began < 0.7
        finally:
            await call(pool.close())
    assert resident() - before < 10 * MEGABYTE


def test_the_end_of_a_stream_is_no_byte() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"abc")
        while client.recv(8):
            pass
        assert bounded.received(client.fileno()) == 3
