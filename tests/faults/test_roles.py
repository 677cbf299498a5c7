"""Who is written to when roles aren't what they were (FAULTS 10, 12, 13)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from resilient.lab import Lab
from resilient.lab.wire import WireProxy
from resilient.postgres import AsyncConnectionPool, CommitOutcomeUnknown, ConnectionPool
from resilient.settings import Settings
from tests.differential.play import as_sync, both, call

from .hostile import OK, READY, HostileServer, greet, message, read_message

SETTINGS = Settings(deadline_s=10, probe_interval_s=0.3)
KINDS = [ConnectionPool, AsyncConnectionPool]
_numbers = itertools.count(1)


@pytest.fixture
def table(lab: Lab) -> str:
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute("create table if not exists roles (id int)")
    return "roles"


def numbers(lab: Lab) -> list[int]:
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute("select id from roles").fetchall()]


@pytest.mark.lab
@pytest.mark.parametrize("kind", KINDS)
async def test_a_demoted_server_that_stays_open(lab: Lab, table: str, kind: Any) -> None:
    """FAULTS 12: 25006 on every connection, then another primary: no error reaches a caller."""
    acked: list[int] = []
    failed: list[str] = []
    stop = asyncio.Event()
    async with both(kind(lab.dsn, settings=SETTINGS, min_size=2, max_size=4, open=False)) as pool:
        await call(pool.open())
        await call(pool.wait(5))

        async def insert(conn: Any, number: int) -> None:
            await call(conn.execute("insert into roles values (%s)", (number,)))

        async def work() -> None:
            while not stop.is_set():
                number = next(_numbers)
                try:
                    if kind is ConnectionPool:
                        await asyncio.to_thread(pool.run, as_sync(insert), number)
                    else:
                        await pool.run(insert, number)
                    acked.append(number)
                except CommitOutcomeUnknown:
                    unknown.append(number)  # its COMMIT was under way when the server stopped
                except psycopg.Error as exc:
                    failed.append(f"{type(exc).__name__}: {exc}")
                await asyncio.sleep(0.01)

        unknown: list[int] = []
        workers = [asyncio.create_task(work()) for _ in range(2)]
        await asyncio.sleep(0.3)
        old = lab.primary
        old.execute("alter system set default_transaction_read_only = on")
        old.execute("select pg_reload_conf()")
        run = lab.inject("zombie", promote_after_s=0.3)
        await asyncio.to_thread(run.wait_done)
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.gather(*workers)
    assert not failed, failed[0]
    assert len(unknown) <= len(workers)
    found = numbers(lab)
    assert len(found) == len(set(found))
    assert set(acked) <= set(found)


@pytest.fixture
def proxies(lab: Lab) -> Iterator[dict[str, WireProxy]]:
    """One in front of each member, by its address."""
    with contextlib.ExitStack() as stack:
        yield {
            member.address: stack.enter_context(WireProxy(member.address, lab.port))
            for member in (lab.primary, *lab.standbys)
        }


@pytest.mark.lab
def test_an_asymmetric_partition(lab: Lab, table: str, proxies: dict[str, WireProxy]) -> None:
    """FAULTS 10: the client reaches the old primary only, the others have a new one: it hears
    no acknowledgement that isn't the leader's, and finds the leader as soon as it can."""
    hosts = ",".join(proxy.address[0] for proxy in proxies.values())
    ports = ",".join(str(proxy.address[1]) for proxy in proxies.values())
    dsn = f"host={hosts} port={ports} user=app dbname=app"
    old = lab.primary.address
    acked: list[int] = []
    with ConnectionPool(dsn, settings=Settings(deadline_s=2), min_size=1, max_size=4) as pool:
        pool.wait(5)

        def insert(number: int) -> None:
            with contextlib.suppress(psycopg.Error):
                with pool.connection(timeout=1.5) as conn:
                    conn.execute("insert into roles values (%s)", (number,))
                acked.append(number)

        insert(next(_numbers))
        assert len(acked) == 1
        for address, proxy in proxies.items():
            if address != old:
                proxy.stop()
        lab.inject("zombie", promote_after_s=0.2).wait_done()
        thread = threading.Thread(target=lambda: [insert(next(_numbers)) for _ in range(3)])
        thread.start()
        thread.join(1.0)
        assert len(acked) == 1, "an acknowledgement of the old primary"
        with contextlib.ExitStack() as stack:
            for address, proxy in proxies.items():
                if address != old:  # reached again
                    again = WireProxy(address, lab.port, port=proxy.address[1])
                    stack.enter_context(again)
            thread.join(10)
            assert not thread.is_alive(), "a call hangs although there is a leader"
            insert(next(_numbers))
        assert len(acked) > 1
        assert set(acked) <= set(numbers(lab)), "an acknowledgement of the old primary"


# -- a server that doesn't tell its role


def answering(answer: bytes, asked: list[bytes]) -> Callable[..., None]:
    """Lets everybody in; each statement gets this answer."""

    def behave(sock: socket.socket, counted: Callable[[int], None]) -> None:
        greet(sock)
        sock.sendall(OK + READY)
        while True:
            said = read_message(sock)
            asked.append(said)
            if said[:1] == b"X":
                return
            if said[:1] in (b"Q", b"S"):
                sock.sendall(answer + READY)

    return behave


def row(*values: bytes) -> bytes:
    fields = b"".join(b"c\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0) for _ in values)
    data = b"".join(struct.pack("!i", len(value)) + value for value in values)
    head = struct.pack("!h", len(values))
    return message(b"T", head + fields) + message(b"D", head + data) + message(b"C", b"SELECT 1\0")


ODD = {
    "nothing": message(b"I", b""),
    "no row": row(b"x")[: len(message(b"T", struct.pack("!h", 1) + b"c\0" + bytes(18)))]
    + message(b"C", b"SELECT 0\0"),
    "odd": row(b"perhaps"),
    "empty": row(b""),
    "error": message(b"E", b"SERROR\0VERROR\0CXX000\0Mno\0\0"),
    "two": row(b"f") + row(b"t"),
}


@pytest.mark.parametrize("name", list(ODD))
def test_the_role_is_unknown(name: str) -> None:
    """FAULTS 13: nothing is written there, and the caller hears by his deadline."""
    asked: list[bytes] = []
    with HostileServer(answering(ODD[name], asked)) as server:
        dsn = f"host=127.0.0.1 port={server.port} user=app dbname=app"
        settings = Settings(deadline_s=1, probe_interval_s=0.2)
        with ConnectionPool(dsn, settings=settings, min_size=1, max_size=2) as pool:
            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError), pool.connection(timeout=0.8) as conn:
                conn.execute("insert into roles values (1)")
            assert time.monotonic() - began < 1.5
    assert asked, "nobody asked"
    assert not [said for said in asked if b"insert into" in said]
