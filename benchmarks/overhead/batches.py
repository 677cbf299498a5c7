"""Takes the times: small batches of every case and side, in a random order.

A noisy machine hits all sides alike then.  A ratio is that of the medians of the batches' time per
operation (wall time over operations of all workers, so with several workers it is 1 / throughput).
Every single operation is timed too, on the same run.  `again` is the bare side once more: its
ratio says what noise alone gives.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

__all__ = ["AsyncSession", "Progress", "Samples", "Session", "figures", "measure", "measure_async"]

#: a worker's session: inside, each call is one operation
Session = Callable[[], AbstractContextManager[Callable[[], Any]]]
AsyncSession = Callable[[], AbstractAsyncContextManager[Callable[[], Awaitable[Any]]]]
#: (case, side)
Place = tuple[str, str]
Progress = Callable[[int], None]

#: one of several workers does this part of a batch: less than a few ms, and their starts and ends
#: would be most of what is measured
SHARE = 4


@dataclass(slots=True)
class Samples:
    """Seconds per operation.  `wall`, `cpu`: of each batch; `single`: of each operation."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    single: array[float] = field(default_factory=lambda: array("d"))

    def add(self, marks: list[list[float]], cpu_s: float) -> None:
        """`marks`: for each worker the moments between its operations."""
        count = sum(len(own) - 1 for own in marks)
        spent_s = max(own[-1] for own in marks) - min(own[0] for own in marks)
        self.wall.append(spent_s / count)
        self.cpu.append(cpu_s / count)
        for own in marks:
            self.single.extend(b - a for a, b in pairwise(own))


def figures(samples: Samples, inner: int) -> dict[str, float]:
    """In µs; `inner`: how many make up what was timed as one."""
    each_s = statistics.median(samples.wall) / inner
    hundredths = statistics.quantiles(samples.single, n=100)
    return {
        "us": round(each_s * 1e6, 3),
        "p50_us": round(hundredths[49] / inner * 1e6, 3),
        "p99_us": round(hundredths[98] / inner * 1e6, 3),
        "cpu_us": round(statistics.median(samples.cpu) / inner * 1e6, 3),
        "ops_s": round(1 / each_s),
    }


def measure(
    sides: Mapping[Place, Session],
    counts: Mapping[str, int],
    workers: int,
    rounds: int,
    progress: Progress,
) -> dict[Place, Samples]:
    """Threads.  `counts`: operations of a batch by case."""
    found = {place: Samples() for place in sides}
    with ThreadPoolExecutor(workers, "worker") as threads, _uncollected():
        for number in range(-1, rounds):  # the first round warms up
            for place in random.sample(list(sides), len(sides)):
                taken = _batch(sides[place], _share(counts[place[0]], workers), workers, threads)
                if number >= 0:
                    found[place].add(*taken)
            _between(number, progress)
    return found


async def measure_async(
    sides: Mapping[Place, AsyncSession],
    counts: Mapping[str, int],
    workers: int,
    rounds: int,
    progress: Progress,
) -> dict[Place, Samples]:
    """Tasks on one event loop."""
    found = {place: Samples() for place in sides}
    with _uncollected():
        for number in range(-1, rounds):
            for place in random.sample(list(sides), len(sides)):
                count = _share(counts[place[0]], workers)
                taken = await _batch_async(sides[place], count, workers)
                if number >= 0:
                    found[place].add(*taken)
            _between(number, progress)
    return found


def _share(count: int, workers: int) -> int:
    """Operations of one worker in a batch."""
    return count if workers == 1 else count // SHARE


def _batch(
    session: Session, count: int, workers: int, threads: ThreadPoolExecutor
) -> tuple[list[list[float]], float]:
    barrier = threading.Barrier(workers)

    def work(_: int) -> tuple[list[float], float]:
        clock = time.perf_counter
        with session() as operate:
            barrier.wait()
            cpu_s, marks = time.thread_time(), [clock()]
            for _ in range(count):
                operate()
                marks.append(clock())
            return marks, time.thread_time() - cpu_s

    if workers == 1:
        marks, cpu_s = work(0)
        return [marks], cpu_s
    done = list(threads.map(work, range(workers)))
    return [marks for marks, _ in done], sum(cpu_s for _, cpu_s in done)


async def _batch_async(
    session: AsyncSession, count: int, workers: int
) -> tuple[list[list[float]], float]:
    barrier = asyncio.Barrier(workers)
    cpu_s = 0.0

    async def work() -> list[float]:
        nonlocal cpu_s
        clock = time.perf_counter
        async with session() as operate:
            await barrier.wait()
            cpu_s = cpu_s or time.thread_time()  # one thread serves all
            marks = [clock()]
            for _ in range(count):
                await operate()
                marks.append(clock())
        return marks

    if workers == 1:  # no task of its own
        return [await work()], time.thread_time() - cpu_s
    done = await asyncio.gather(*(work() for _ in range(workers)))
    return done, time.thread_time() - cpu_s


@contextmanager
def _uncollected() -> Iterator[None]:
    """The collector runs between the rounds only, not in somebody's batch."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _between(number: int, progress: Progress) -> None:
    gc.collect()
    if number >= 0:
        progress(number + 1)
