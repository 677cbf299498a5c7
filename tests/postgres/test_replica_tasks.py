"""However many hosts a pool knows, it has the threads (or tasks) of one, and no one waits."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from resilient.core.model import Role
from resilient.lab import Lab
from resilient.postgres.pool.base import PoolCore
from resilient.postgres.pool.replica_tasks import ReplicaTasks

from .conftest import Face, settings_of
from .in_band import backends, settled, until

pytestmark = pytest.mark.lab


def own(face: Face) -> int:
    """Threads, or tasks, of the pool and its replicas' pools."""
    mark = f"{face.pool.name}-"
    if face.is_async:
        return sum(task.get_name().startswith(mark) for task in asyncio.all_tasks())
    return sum(thread.name.startswith(mark) for thread in threading.enumerate())


async def opened(lab: Lab, face: Face, **kwargs: Any) -> None:
    await face.open(lab.dsn, settings_of(lab), **kwargs)
    try:
        await face.wait()
        await until(lambda: len(face.pool._core.replicas) == 2, 5)
        await until(lambda: backends(lab) == [2, 1, 1], 8)
    except BaseException as exc:  # else what is left of it fails the tests that follow
        exc.add_note(f"{face.pool.topology}\n{face.pool.get_stats()}\n{backends(lab)}")
        await face.close()
        raise


@pytest.mark.usefixtures("soon_idle")
@pytest.mark.parametrize(("num_workers", "expected"), [(3, 4), (1, 3)])
async def test_three_hosts_cost_the_threads_of_one(
    lab: Lab, orders: str, face: Face, num_workers: int, expected: int
) -> None:
    """Workers and a scheduler; a second worker where the only one has replicas to look after."""
    await opened(lab, face, num_workers=num_workers)
    try:
        assert own(face) == expected
        assert face.pool.num_workers == num_workers
    finally:
        await face.close()
    assert own(face) == 0


@pytest.mark.usefixtures("soon_idle")
@pytest.mark.parametrize("num_workers", [3, 1])
async def test_a_silent_replica_holds_up_no_writer(
    lab: Lab, orders: str, face: Face, num_workers: int
) -> None:
    """Its dials hang until it is known to be dead; the writer's connections are made meanwhile."""
    await opened(lab, face, num_workers=num_workers)
    silent = lab.standbys[0]
    try:
        silent.pause()
        for endpoint, (pool, _) in face.pool._core.replicas.items():
            if endpoint.address == silent.address:
                for _ in range(4):
                    pool.run_task(pool._add_task(pool))
        await face._call(face.pool.drain)
        assert await face.where(timeout=1.0) == lab.primary.address
        view = next(v for v in face.pool.topology.endpoints if v.address == silent.address)
        assert str(view.health) != "dead"  # else nothing was waited for
    finally:
        silent.resume()
        await face.close()


@pytest.mark.usefixtures("soon_idle")
async def test_news_that_come_while_a_pool_opens(
    lab: Lab, orders: str, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor may know everything before the pool that asked has done its next step; a thread
    pool's lock is held meanwhile, and the monitor waits for it."""
    attach = PoolCore.attach

    def slowly(core: PoolCore, *args: Any) -> None:
        attach(core, *args)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            views = core.topology.endpoints
            if len(views) == 3 and all(view.role is not Role.UNKNOWN for view in views):
                return
            time.sleep(0.005)

    monkeypatch.setattr(PoolCore, "attach", slowly)
    await opened(lab, face)
    await face.close()


@pytest.mark.usefixtures("soon_idle")
async def test_replicas_come_and_go(lab: Lab, orders: str, face: Face) -> None:
    """Each promotion retires a replica's pool and brings another; nothing is left behind."""
    await opened(lab, face)
    try:
        before = own(face)
        for _ in range(2):
            run = lab.inject("switchover", promote_after_s=0.1)
            await asyncio.to_thread(run.wait_done)
            await until(lambda: len(face.pool._core.replicas) == 2, 10)
            await face.wait()
        assert own(face) == before
        await asyncio.to_thread(settled, face.pool)
    finally:
        await face.close()
    await until(lambda: backends(lab) == [0, 0, 0], 5)


def test_one_worker_is_left_for_the_writer() -> None:
    class Pool:
        num_workers = 3

        def __init__(self) -> None:
            self.queue: list[Any] = []

        def run_task(self, task: Any) -> None:
            self.queue.append(task)

    pool = Pool()
    replica_tasks = ReplicaTasks(pool, lambda owner, tasks: ("task", owner))
    for number in range(5):
        replica_tasks.add(pool, number)
    assert pool.queue == [("task", pool)] * 2
    assert [replica_tasks.take(), replica_tasks.take()] == [0, 1]
    assert replica_tasks.done()  # the first goes on
    assert [
        replica_tasks.take(),
        replica_tasks.take(),
        replica_tasks.take(),
        replica_tasks.take(),
    ] == [2, 3, 4, None]
    assert not replica_tasks.done()
    assert not replica_tasks.done()
    replica_tasks.add(pool, 5)  # both are over: a new one is needed
    assert len(pool.queue) == 3
