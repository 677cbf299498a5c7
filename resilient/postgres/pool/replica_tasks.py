"""The maintenance tasks of replicas, done by the workers of the pool that they belong to.

A replica's pool has no worker and no scheduler of its own: a process has the threads of one
pool, however many hosts it knows.  Its tasks queue here.  A `ReplicaTask` is a task of the
writer's pool that does one of them, and goes to the end of that queue again while there
are more.  So many are under way at most that one worker is always left for the writer: a
replica that doesn't answer holds up other replicas, for as long as its dial lasts, and never
the writer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from .._psycopg import AsyncMaintenanceTask, MaintenanceTask

Task = MaintenanceTask | AsyncMaintenanceTask


class ReplicaTasks:
    """Tasks of all replicas of one pool.  `add` on any thread."""

    def __init__(self, pool: Any, kind: Callable[[Any, ReplicaTasks], Any]) -> None:
        """`kind`: of the task that does one of them, for a pool whose workers do."""
        self._kind = kind
        self._lock = threading.Lock()
        self._tasks: deque[Any] = deque()
        self._under_way = 0
        self._most = max(1, pool.num_workers - 1)

    def add(self, pool: Any, task: Task) -> None:
        """Do it as soon as may be; `pool` is whose workers do."""
        with self._lock:
            self._tasks.append(task)
            if self._under_way >= self._most:
                return
            self._under_way += 1
        pool.run_task(self._kind(pool, self))

    def take(self) -> Any:
        """The next one; None when there is none left."""
        with self._lock:
            return self._tasks.popleft() if self._tasks else None

    def done(self) -> bool:
        """One was.  True: there are more, and who has done it goes on."""
        with self._lock:
            if not self._tasks:
                self._under_way -= 1
            return bool(self._tasks)


# Made from `AsyncReplicaTask` by `make generate`: change that one.
class ReplicaTask(MaintenanceTask):
    """One of them at a time, on a worker."""

    def __init__(self, pool: ConnectionPool[Any], tasks: ReplicaTasks) -> None:
        super().__init__(pool)
        self.tasks = tasks

    def _run(self, pool: ConnectionPool[Any]) -> None:
        tasks = self.tasks
        task = tasks.take()
        try:
            if task is not None:
                task.run()
        finally:
            if tasks.done():
                pool.run_task(self)


class AsyncReplicaTask(AsyncMaintenanceTask):
    """One of them at a time, on a worker."""

    def __init__(self, pool: AsyncConnectionPool[Any], tasks: ReplicaTasks) -> None:
        super().__init__(pool)
        self.tasks = tasks

    async def _run(self, pool: AsyncConnectionPool[Any]) -> None:
        tasks = self.tasks
        task = tasks.take()
        try:
            if task is not None:
                await task.run()
        finally:
            if tasks.done():
                pool.run_task(self)
