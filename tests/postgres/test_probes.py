"""In-band probes: no backend more than the pools have, and nobody is misled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from resilient.core.outcome import Mark, Outcome, ServerFacts, XidStatus, resolve
from resilient.lab import Lab
from resilient.postgres.commit.facts import Flushed
from resilient.postgres.pool import borrowing

from .conftest import INSERT, Face, settings_of
from .in_band import InBand, SlowRoad, backends, in_app, sides, until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("soon_idle")]

CHILD = """
import sys
from resilient.postgres import ConnectionPool, probe
from resilient.postgres.pool import borrowing
probe.IDLE_S = borrowing.HOP_S = 1.0
with ConnectionPool(min_size=2) as pool:
    pool.wait()
    print("up", flush=True)
    sys.stdin.read()
"""


async def test_no_backend_more_than_the_pools_have(
    lab: Lab, orders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pools here, of both kinds, and one in each of two other processes."""
    monkeypatch.setattr(borrowing, "HOP_S", 1.0)  # a busy machine is no reason for another
    settings = settings_of(lab, probe_timeout_s=2.0)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **lab.env(), "RESILIENT_PROBE_TIMEOUT_S": "2"},
        )
        for _ in range(2)
    ]
    faces = [await Face(kind).open(lab.dsn, settings, min_size=2) for kind in ("sync", "async")]
    try:
        for face in faces:
            await face.wait()
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
        # Each has two to the primary and one to each replica.
        await until(lambda: sides(lab) == [0, 0, 0] and backends(lab) == [8, 4, 4], 10)
        for _ in range(15):  # and it stays so, while probes go on
            assert await asyncio.to_thread(backends, lab) == [8, 4, 4]
            await asyncio.sleep(0.1)
        assert [str(view.health) for view in faces[0].pool.topology.endpoints] == ["up"] * 3
    finally:
        for child in children:
            child.communicate()
        for face in faces:
            await face.close()


async def test_no_backend_more_while_nobody_takes_writes(
    lab: Lab, orders: str, face: Face, in_band: InBand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standbys are asked all the time then, on the connections that are there."""
    monkeypatch.setattr(borrowing, "HOP_S", 1.0)  # a busy machine is no reason for another
    await face.open(lab.dsn, settings_of(lab, probe_timeout_s=2.0), min_size=2)
    try:
        await face.wait()
        await until(lambda: sides(lab) == [0, 0, 0] and backends(lab) == [2, 1, 1], 5)
        run = lab.inject("crash", promote_after_s=2.0)
        await until(lambda: face.pool.topology.writer is None, 3)
        before = in_band.taken
        for _ in range(5):
            assert await asyncio.to_thread(sides, lab) == [0, 0]
            await asyncio.sleep(0.1)
        assert in_band.taken - before > 10
        await asyncio.to_thread(run.wait_done)
        await face.wait()
    finally:
        await face.close()


async def test_no_backend_more_while_the_loop_is_busy(lab: Lab, orders: str) -> None:
    """Callbacks of 60 ms, as a page that is rendered takes, and half the time between them."""
    face = await Face("async").open(lab.dsn, settings_of(lab, probe_interval_s=0.2), min_size=2)
    try:
        await face.wait()
        await until(lambda: sides(lab) == [0, 0, 0] and backends(lab) == [2, 1, 1], 10)
        for _ in range(30):
            count = asyncio.create_task(asyncio.to_thread(sides, lab))
            while not count.done():
                await asyncio.sleep(0.03)
                time.sleep(0.06)
            assert count.result() == [0, 0, 0]
    finally:
        await face.close()


@pytest.mark.parametrize("kind", ["null-sync", "null-async"])
async def test_a_pool_that_keeps_nothing_is_probed_aside(
    kind: str, lab: Lab, orders: str, in_band: InBand
) -> None:
    face = await Face(kind).open(lab.dsn, settings_of(lab, standby_min_size=0))
    try:
        await face.where()
        await asyncio.sleep(2.5)
        assert sides(lab) == [1, 1, 1]
        assert in_band.taken == 0
    finally:
        await face.close()


async def test_a_side_connection_while_all_are_in_use(lab: Lab, orders: str, face: Face) -> None:
    settings = settings_of(lab, probe_interval_s=0.2)
    await face.open(lab.dsn, settings, min_size=1, max_size=1)
    try:
        await face.wait()
        await until(lambda: sides(lab) == [0, 0, 0], 5)
        busy = asyncio.create_task(face.query("select pg_sleep(2.5)"))
        await asyncio.sleep(2.0)
        assert await asyncio.to_thread(sides, lab) == [1, 0, 0]
        await busy
        await until(lambda: sides(lab) == [0, 0, 0], 5)
    finally:
        await face.close()


async def test_a_session_that_does_not_answer_is_not_its_server(
    lab: Lab, orders: str, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next probe has a connection of its own; the silent one is replaced in the end."""
    monkeypatch.setattr(borrowing, "GIVE_UP_S", 1.0)
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    await face.open(dsn, settings_of(lab, probe_interval_s=0.3), min_size=1, max_size=1)
    try:
        await face.wait()
        (before,) = await face.query("select pg_backend_pid()")
        await until(lambda: sides(lab)[0] == 0, 4)
        os.kill(before, signal.SIGSTOP)
        try:
            await until(lambda: sides(lab)[0] > 0, 3)
            await until(lambda: len(face.pool._pool) > 0, 3)
            assert await face.query("select pg_backend_pid()") != (before,)
            (view,) = face.pool.topology.endpoints
            assert (str(view.health), view.generation) == ("up", 0)
        finally:
            os.kill(before, signal.SIGCONT)
        assert face.pool.get_stats()["pool_size"] == 1
        await until(lambda: backends(lab)[0] == 1, 5)
    finally:
        await face.close()


async def test_a_probe_tells_what_is_flushed(lab: Lab, orders: str, face: Face) -> None:
    """A commit whose reply was lost: nobody could tell, until a probe had come by."""
    settings = settings_of(lab, standby_min_size=0, probe_interval_s=0.5)
    await face.open(lab.dsn, settings, min_size=2, max_size=2)
    try:
        await face.wait()
        await _all_have_met(face)
        mark, flushed = await _marked(face)
        after = replace(mark.incarnation, timeline=mark.incarnation.timeline + 1)
        told = ServerFacts(replace(after, recovered_lsn=mark.lsn), XidStatus.COMMITTED, True)
        assert resolve(mark, told, 0).outcome is Outcome.UNKNOWN
        await until(lambda: flushed.lsn >= mark.lsn, 3)
        assert resolve(mark, told, flushed.lsn).outcome is Outcome.COMMITTED
    finally:
        await face.close()


async def test_a_probe_may_not_ask_for_it_any_more(
    lab: Lab, orders: str, face: Face, in_band: InBand
) -> None:
    """A right that was revoked costs the probe nothing else."""
    may = "execute on function pg_current_wal_flush_lsn()"
    settings = settings_of(lab, standby_min_size=0, probe_interval_s=0.1)
    await face.open(lab.dsn, settings, min_size=2, max_size=2)
    try:
        await face.wait()
        await _all_have_met(face)
        in_app(lab, f"revoke {may} from public")
        try:
            before = in_band.taken
            await until(lambda: in_band.taken > before + 5, 5)
            writer = face.pool.topology.writer
            assert writer is not None
            assert writer.timeline is not None
        finally:
            in_app(lab, f"grant {may} to public")
    finally:
        await face.close()


async def _all_have_met(face: Face) -> None:
    """Both connections have run a block, and know their server."""
    await asyncio.gather(*(face.query("select pg_sleep(0.2)") for _ in range(2)))
    assert all(
        conn._resilient.link.commit_facts for conn in [*face.pool._pool, *face.pool._core.lent]
    )


async def _marked(face: Face) -> tuple[Mark, Flushed]:
    """What is known of a block that writes, before its COMMIT; it is rolled back."""
    pool = face.pool
    if not face.is_async:
        with pool.connection() as conn:
            conn.execute(INSERT, (0,))
            found = conn._resilient.judge.journal.mark, conn._resilient.wire.facts.flushed
            conn.rollback()
        return found
    async with pool.connection() as conn:
        await conn.execute(INSERT, (0,))
        found = conn._resilient.judge.journal.mark, conn._resilient.wire.facts.flushed
        await conn.rollback()
    return found


async def test_a_slow_road_is_no_verdict(
    lab: Lab, orders: str, face: Face, in_band: InBand
) -> None:
    """Half a second more for each round trip while nothing but idle connections is there."""
    with SlowRoad(lab.primary.address, lab.port) as road:
        dsn = f"host=127.0.0.1 port={road.port} user=app dbname=app"
        await face.open(dsn, settings_of(lab), min_size=1, max_size=2)
        try:
            await face.wait()
            before = await face.query("select pg_backend_pid()")
            await until(lambda: sides(lab)[0] == 0, 5)
            road.trip_s, road.dial_s = 0.5, 2.5
            versions: set[str] = set()
            end = time.monotonic() + 4
            while time.monotonic() < end:
                (view,) = face.pool.topology.endpoints
                versions.add(str(view.health))
                assert view.generation == 0
                await asyncio.sleep(0.02)
            assert versions == {"up", "suspect"}
            assert await face.query("select pg_backend_pid()", timeout=3) == before
            road.trip_s = road.dial_s = 0.0
            await until(lambda: str(face.pool.topology.endpoints[0].health) == "up", 5)
            await until(lambda: sides(lab)[0] == 0, 8)
        finally:
            await face.close()


async def test_no_answer_at_all_and_it_is_replaced(lab: Lab, orders: str, face: Face) -> None:
    dsn = f"host={lab.primary.address} port={lab.port} user=app dbname=app"
    settings = settings_of(lab, probe_interval_s=0.3, probe_timeout_s=0.2)
    await face.open(dsn, settings, min_size=1, max_size=1)
    try:
        await face.wait()
        before = await face.query("select pg_backend_pid()")
        await until(lambda: sides(lab)[0] == 0, 4)
        lab.primary.pause()
        await until(lambda: str(face.pool.topology.endpoints[0].health) == "dead", 3)
        await asyncio.sleep(0.3)
        lab.primary.resume()
        assert await face.query("select pg_backend_pid()", timeout=5) != before
        await until(lambda: face.pool.get_stats()["pool_available"] == 1, 3)
        assert face.pool.get_stats()["pool_size"] == 1
        await until(lambda: backends(lab)[0] == 1, 4)
    finally:
        lab.primary.resume()
        await face.close()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_session_of_its_own_mind_misleads_nobody(
    lab: Lab, orders: str, face: Face, in_band: InBand, read_only: bool
) -> None:
    """Settings of a pool's sessions change nothing of what is known of the server."""
    script = "set timezone = 'Asia/Kolkata'; set datestyle = 'German'; set extra_float_digits = -3"
    if read_only:
        script += "; set default_transaction_read_only = on"

    async def configure(conn: Any) -> None:
        await conn.set_autocommit(True)
        await conn.execute(script)

    def configure_sync(conn: Any) -> None:
        conn.autocommit = True
        conn.execute(script)

    own = configure if face.is_async else configure_sync
    await face.open(lab.dsn, settings_of(lab, probe_interval_s=0.1), configure=own)
    try:
        await face.wait()
        await until(lambda: in_band.taken > 8, 5)
        if read_only:  # it differs from what a new session says: one was asked, once
            assert in_band.refused >= 1
        writer = face.pool.topology.writer
        assert writer is not None
        assert [view.generation for view in face.pool.topology.endpoints] == [0, 0, 0]
        assert not writer.read_only
    finally:
        await face.close()


async def test_an_option_of_the_conninfo_is_no_news_of_the_server(
    lab: Lab, orders: str, face: Face, in_band: InBand
) -> None:
    dsn = f"{lab.dsn} options='-c default_transaction_read_only=on'"
    await face.open(dsn, settings_of(lab, probe_interval_s=0.1))
    try:
        assert await face.where() == lab.primary.address
        await until(lambda: in_band.taken > 5, 5)
        assert face.pool.topology.writer is not None
    finally:
        await face.close()


async def test_handlers_are_not_called_by_the_monitor(
    lab: Lab, orders: str, face: Face, in_band: InBand
) -> None:
    """A connection with handlers is the user's code: it isn't lent."""
    heard: list[str] = []

    def handler(_: Any) -> None:
        heard.append(threading.current_thread().name)

    async def configure(conn: Any) -> None:
        conn.add_notify_handler(handler)

    def configure_sync(conn: Any) -> None:
        conn.add_notify_handler(handler)

    own = configure if face.is_async else configure_sync
    await face.open(lab.dsn, settings_of(lab, probe_interval_s=0.1), configure=own)
    try:
        await face.wait()
        await asyncio.sleep(0.5)
        assert in_band.taken == 0
        assert in_band.refused > 3
        assert heard == []
    finally:
        await face.close()
