"""How many sessions a server has at most, by what was configured."""

from __future__ import annotations

import asyncio
import contextlib

import psycopg_pool
import pytest

from resilient.lab import Lab
from resilient.lab.postgres import Member

from .conftest import Face, settings_of
from .in_band import until


def sessions(lab: Lab, member: Member, name: str) -> int:
    """Sessions of the program of this name."""
    where = f"select count(*) from pg_stat_activity where application_name = '{name}'"
    return int(lab.admin(member.zone, where)[0][0])


@pytest.mark.lab
@pytest.mark.parametrize(("most", "warm"), [(None, 1), (1, 2)])
async def test_readers_have_so_many_sessions_on_each_replica(
    lab: Lab, face: Face, most: int | None, warm: int
) -> None:
    """`replica_max_size` bounds them, `standby_min_size` and one is the least, because no reader
    gets what is kept for a promotion; without it they are the
    pool's `max_size` and the warm ones.  Who finds no place is served elsewhere.  A process has
    one more while the monitor finds none of them idle, as at the start."""
    near = lab.standbys[0]
    name = f"sizes-{face.is_async}-{most}"
    settings = settings_of(
        lab, zone=near.zone, replica_max_size=most, standby_min_size=warm, probe_timeout_s=0.2
    )
    await face.open(f"{lab.dsn} application_name={name}", settings, min_size=1, max_size=3)
    try:
        await face.wait()
        while len(face.pool._core.replicas) < 2:
            await face.where()
        expected = 3 + warm if most is None else max(most, warm + 1)
        replicas = [each.pool for each in face.pool._core.replicas.values()]
        assert {pool.max_size for pool in replicas} == {expected}
        # Who came before they are there would be served by the primary, which has place for three.
        await until(lambda: all(len(pool._pool) >= warm for pool in replicas), 15)
        taken = [await face._call(face.pool.getconn, 15, read_only=True) for _ in range(5)]
        try:
            for member in lab.standbys:
                assert sessions(lab, member, name) <= expected + 1
            assert sessions(lab, lab.primary, name) <= 3 + 1
        finally:
            for conn in taken:
                await face._call(face.pool.putconn, conn)
    finally:
        await face.close()
    while any(sessions(lab, member, name) for member in lab.standbys):
        await asyncio.sleep(0.01)


@pytest.mark.lab
async def test_a_reader_finds_the_replica_that_has_room_again(lab: Lab, face: Face) -> None:
    """Nobody has room, the primary neither: whoever has it first serves."""
    settings = settings_of(lab, replica_max_size=2, standby_min_size=1, probe_timeout_s=0.1)
    dsn = f"{lab.dsn} application_name=again-{face.is_async}"
    await face.open(dsn, settings, min_size=1, max_size=1)
    try:
        await face.wait()
        while len(face.pool._core.replicas) < 2:
            await face.where()
        writer = await face._call(face.pool.getconn, 15)
        replicas = [each.pool for each in face.pool._core.replicas.values()]
        await until(lambda: all(len(pool._pool) >= 1 for pool in replicas), 15)
        taken = []
        while sum(conn._pool in replicas for conn in taken) < len(replicas) * 2:
            with contextlib.suppress(psycopg_pool.PoolTimeout):
                taken.append(await face._call(face.pool.getconn, 1, read_only=True))
        with pytest.raises(psycopg_pool.PoolTimeout, match=r"after 0\.30 sec"):
            await face._call(face.pool.getconn, 0.3, read_only=True)
        late = asyncio.create_task(face._call(face.pool.getconn, 15, read_only=True))
        try:
            await until(lambda: bool(face.pool._waiting), 15)  # in the primary's queue
            home = taken[0]._pool
            await face._call(face.pool.putconn, taken.pop(0))
            taken.append(await late)
            assert taken[-1]._pool is home
        finally:
            for conn in [*taken, writer]:
                await face._call(face.pool.putconn, conn)
    finally:
        await face.close()
