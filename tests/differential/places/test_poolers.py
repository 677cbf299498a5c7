"""Behind a real PgBouncer: in its queue is not dead.

FAULTS 47.
"""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from resilient.core.model import Health
from resilient.lab import Lab
from tests.postgres.conftest import Face

from .conftest import at, one_shell, opened, other_shell, settings_of, until
from .pooler import bouncer

pytestmark = pytest.mark.lab

#: longer than the window and the pause before a suspicion together
BUSY_S = 4.0


def create(lab: Lab) -> None:
    with psycopg.connect(at(lab, lab.primary), autocommit=True) as conn:
        conn.execute("create sequence if not exists attempts")


async def watched(face: Face, seen: set[Health], done: asyncio.Event) -> None:
    while not done.is_set():
        seen |= {view.health for view in face.pool.topology.endpoints}
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("mode", ["transaction", "session"])
@one_shell
async def test_it_is_recognised_and_serves(lab: Lab, orders: str, face: Face, mode: str) -> None:
    # as psycopg's manual says of transaction pooling; names of our own are none of the caller's
    kwargs = {"prepare_threshold": None} if mode == "transaction" else {}
    with bouncer(lab, lab.primary, mode, 4) as pooler:
        async with opened(face, pooler.dsn, settings_of(lab, zone=None), kwargs=kwargs) as ours:
            assert await ours.insert(-1) == lab.primary.address
            await until(lambda: any(view.pooled for view in ours.pool.topology.endpoints))
            for _ in range(20):
                assert await ours.where() == lab.primary.address
            version = ours.pool.topology.version
            await asyncio.sleep(1.5)
            assert ours.pool.topology.version == version


@other_shell
async def test_saturated_it_lives_and_nothing_is_begun_twice(
    lab: Lab, orders: str, face: Face
) -> None:
    with bouncer(lab, lab.primary, "transaction", 2) as pooler:
        async with opened(face, pooler.dsn, settings_of(lab, zone=None), min_size=4) as ours:
            await ours.wait()
            await until(lambda: any(view.pooled for view in ours.pool.topology.endpoints))
            create(lab)
            before = (await ours.query("select nextval('attempts')"))[0]
            seen: set[Health] = set()
            done = asyncio.Event()
            watching = asyncio.create_task(watched(ours, seen, done))
            started = time.monotonic()
            busy = f"select nextval('attempts'), pg_sleep({BUSY_S})"
            await asyncio.gather(*(ours.query(busy, timeout=20.0) for _ in range(2)))
            took = time.monotonic() - started
            done.set()
            await watching
            after = (await ours.query("select nextval('attempts')"))[0]
            assert Health.DEAD not in seen
            assert took < BUSY_S + 1.0
            assert after == before + 3  # each was begun once


@one_shell
async def test_a_pooler_that_is_gone_is_found_out_and_comes_back(
    lab: Lab, orders: str, face: Face
) -> None:
    with bouncer(lab, lab.primary, "transaction", 2) as pooler:
        async with opened(face, pooler.dsn, settings_of(lab, zone=None)) as ours:
            assert await ours.insert(-1) == lab.primary.address
            pooler.stop()
            await until(lambda: ours.pool.topology.writer is None, 3.0)
            pooler.start()
            assert await ours.insert(-2, timeout=10.0) == lab.primary.address
