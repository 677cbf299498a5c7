"""Advisory locks whose holders are told when they are gone, on servers that die."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import psycopg
import pytest
from psycopg.errors import LockNotAvailable

from resilient.errors import ConfigError
from resilient.lab import Lab
from resilient.postgres import ConnectionPool, LockLost
from tests.differential.places.pooler import bouncer

from .conftest import Face, settings_of
from .in_band import until

pytestmark = pytest.mark.lab


class Player:
    """A pool's locks, under one set of names for both shells."""

    def __init__(self, face: Face) -> None:
        self.face = face

    async def call(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.face._call(fn, *args, **kwargs)

    async def take(self, key: Any, **options: Any) -> Any:
        lock = self.face.pool.lock(key, **options)
        await self.call(lock.acquire)
        return lock

    async def lost(self, lock: Any) -> bool:
        async with asyncio.timeout(10):
            return bool(await self.call(lock.wait_lost))


async def players(lab: Lab, face: Face, **values: Any) -> Player:
    await face.open(lab.dsn, settings_of(lab, **values), min_size=1)
    return Player(face)


def holders(lab: Lab, lock: Any) -> list[int]:
    """The server's sessions that have it."""
    number = lock.number & (1 << 64) - 1
    query = (
        "select pid from pg_locks where locktype = 'advisory' and granted"
        f" and classid = {number >> 32}::oid and objid = {number & 0xFFFFFFFF}::oid"
    )
    return [int(str(pid)) for (pid,) in lab.admin(None, query)]


async def test_one_has_it_and_the_next_one_waits(lab: Lab, face: Face) -> None:
    player = await players(lab, face)
    try:
        first = await player.take("nightly")
        assert not first.lost
        assert len(holders(lab, first)) == 1
        await player.call(first.check)
        for options in ({"timeout": 0}, {"timeout": 0.05}):
            with pytest.raises(LockNotAvailable):
                await player.take("nightly", **options)
        other = await player.take(7, timeout=0)  # another key
        next_one = asyncio.create_task(player.take("nightly", timeout=10))
        await waits(lab)
        await player.call(first.release)
        second = await next_one
        assert first.token < other.token < second.token < 1 << 63
        assert not first.lost
        with pytest.raises(RuntimeError):
            await player.call(first.acquire)
        await player.call(second.release)
        third = await player.take("nightly", timeout=0)  # it was free when `release` came back
        assert holders(lab, third) != []
    finally:
        await face.close()
    assert third.reason == "the pool was closed"
    assert holders(lab, third) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "resilient-lock"]


async def waits(lab: Lab) -> None:
    """Until somebody waits for a lock of ours."""
    query = "select 1 from pg_locks where locktype = 'advisory' and not granted"
    async with asyncio.timeout(10):
        while not lab.admin(None, query):
            await asyncio.sleep(0.005)


async def test_a_session_that_is_ended_is_told(lab: Lab, face: Face) -> None:
    told: list[LockLost] = []
    player = await players(lab, face)
    try:
        lock = await player.take("nightly", on_lost=told.append)
        (pid,) = holders(lab, lock)
        lab.admin(None, f"select pg_terminate_backend({pid})")
        assert await player.lost(lock)
        assert "terminating connection" in lock.reason
        for fn in (lock.check, lock.release):
            with pytest.raises(LockLost, match="nightly"):
                await player.call(fn)
        assert lock.lost
        # The server says goodbye first; and nobody has taken it again.
        await until(lambda: holders(lab, lock) == [], 5)
        await until(lambda: bool(told), 5)  # in a thread of its own
        assert [str(exc) for exc in told] == [f"lock('nightly') is lost: {lock.reason}"]
        again = await player.take("nightly", timeout=0)
        assert again.token > lock.token
    finally:
        await face.close()


@pytest.mark.parametrize(("raised", "seen"), [(None, LockLost), (ZeroDivisionError(), None)])
async def test_the_end_of_a_block_says_so(
    lab: Lab, raised: Exception | None, seen: type[Exception] | None
) -> None:
    """But for what the block itself raises."""
    face = Face("async")
    player = await players(lab, face)

    async def block() -> None:
        async with face.pool.lock("nightly") as lock:
            lab.admin(None, f"select pg_terminate_backend({holders(lab, lock)[0]})")
            assert await player.lost(lock)
            if raised is not None:
                raise raised

    try:
        with pytest.raises(seen or ZeroDivisionError):
            await block()
    finally:
        await face.close()


@pytest.mark.parametrize("fault", ["crash", "switchover", "zombie"])
async def test_a_failover_ends_it_and_the_next_holder_has_a_higher_token(
    lab: Lab, fault: str
) -> None:
    """One holds it and one waits, in threads and in asyncio, when the primary goes."""
    quick = {"probe_interval_s": 0.3, "probe_timeout_s": 0.3}
    both = [await players(lab, Face(kind), **quick) for kind in ("sync", "async")]
    try:
        held = [await player.take(f"job {n}") for n, player in enumerate(both)]
        for player in both:  # ids of a new timeline may be smaller
            await player.call((await player.take("other")).release)
        waiting = [
            asyncio.create_task(player.take(f"job {n}", timeout=20))
            for n, player in enumerate(reversed(both))
        ]
        await waits(lab)
        injected = lab.inject(fault, promote_after_s=0.2)
        for player, lock in zip(both, held, strict=True):
            assert await player.lost(lock)
        taken = await asyncio.gather(*waiting)
        for before, after in zip(held, taken, strict=True):
            assert after.number == before.number
            assert after.token > before.token
            assert after.token >> 48 > before.token >> 48
            assert len(holders(lab, after)) == 1  # on the new primary
        for player, lock in zip(both, held, strict=True):
            with pytest.raises(LockLost):
                await player.call(lock.check)
        await asyncio.to_thread(injected.wait_done)
    finally:
        for player in both:
            await player.face.close()


def test_a_token_survives_a_crash_of_its_server(lab: Lab) -> None:
    """A server that restarts on the same timeline gives no id twice that was given out."""
    with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool:
        first = pool.lock("nightly").acquire()
        os.kill(holders(lab, first)[0], 9)  # the postmaster restarts all of them
        assert first.wait_lost(10)
        with pool.lock("nightly") as second:
            assert second.token >> 48 == first.token >> 48
            assert second.token > first.token


def test_a_pooler_in_transaction_mode_is_refused(lab: Lab) -> None:
    settings = settings_of(lab)
    with (
        bouncer(lab, lab.primary, "transaction", 3) as pooler,
        ConnectionPool(pooler.dsn, settings=settings, min_size=1) as pool,
    ):
        with pytest.raises(ConfigError, match="pooler") as refused, pool.lock("nightly"):
            pytest.fail("it was taken")
        assert "session_pooler=True" in str(refused.value)
        assert lab.admin(None, "select pid from pg_locks where locktype = 'advisory'") == []
        # Who says something else than what is so hears of it, when others get the session.
        lock = pool.lock("nightly", session_pooler=True).acquire()
        with psycopg.connect(pooler.dsn, autocommit=True) as first:
            first.execute("begin")
            with pytest.raises(LockLost, match="pooler has given"):
                lock.check()
        lab.admin(
            None, "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
        )


def test_a_pooler_that_keeps_sessions_is_enough(lab: Lab) -> None:
    with (
        bouncer(lab, lab.primary, "session", 9) as pooler,
        ConnectionPool(pooler.dsn, settings=settings_of(lab), min_size=1) as pool,
        pool.lock("nightly", session_pooler=True) as lock,
    ):
        lock.check()
        assert len(holders(lab, lock)) == 1
        with pytest.raises(LockNotAvailable):
            pool.lock("nightly", timeout=0, session_pooler=True).acquire()


async def test_who_stops_waiting_leaves_nothing(lab: Lab) -> None:
    face = Face("async")
    player = await players(lab, face)
    try:
        lock = await player.take("nightly")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await player.take("nightly")
        assert len(holders(lab, lock)) == 1
        assert lab.admin(None, "select 1 from pg_locks where not granted") == []
        assert len(face.pool._core.sessions.locks) == 1
    finally:
        await face.close()


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_watcher_whose_start_is_interrupted_leaves_nothing(
    lab: Lab, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C while its thread starts, and a process that can have no more of them."""

    def start(thread: threading.Thread) -> None:
        if failure is KeyboardInterrupt:
            own(thread)
        raise failure

    own = threading.Thread.start
    with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool:
        pool.wait()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(failure):
                pool.lock("nightly").acquire()
        with pool.lock("nightly", timeout=5):
            assert len(pool._core.sessions.locks) == 1
        assert len(pool._core.sessions.locks) == 0


def test_a_forked_process_does_not_have_it(lab: Lab) -> None:
    with (
        ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool,
        pool.lock("nightly") as lock,
    ):
        child = os.fork()
        if child == 0:
            lost = lock.lost
            try:
                pool.lock("nightly", timeout=0).acquire()
            except LockNotAvailable:
                os._exit(0 if lost else 3)
            finally:
                os._exit(4)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        lock.check()


@pytest.mark.parametrize("key", [True, 1 << 63, 1.5, b"nightly"])
def test_what_is_no_key(key: Any) -> None:
    pool = ConnectionPool("host=127.0.0.1 port=1", open=False)
    with pytest.raises(ConfigError):
        pool.lock(key)


def test_a_server_that_is_only_slow_is_not_lost(lab: Lab) -> None:
    """The question is answered late: what has come is read before it is called late."""
    with (
        ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool,
        pool.lock("nightly") as lock,
    ):
        (pid,) = holders(lab, lock)
        os.kill(pid, 19)
        try:
            started = time.monotonic()
            waker = threading.Timer(0.7, os.kill, (pid, 18))
            waker.start()
            lock.check()
            assert time.monotonic() - started > 0.5
        finally:
            os.kill(pid, 18)
            waker.join()
