"""The monitor's thread: one per process, gone after the last release, new after a fork."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from resilient.monitor import thread


def running() -> int:
    return sum(item.name == thread.THREAD_NAME for item in threading.enumerate())


def soon(test: Callable[[], bool], limit_s: float = 5.0) -> bool:
    end = time.monotonic() + limit_s
    while not test() and time.monotonic() < end:
        time.sleep(0.005)
    return test()


@pytest.fixture(autouse=True)
def nobody_else() -> None:
    assert running() == 0, "an earlier test left its monitor behind"


def test_all_share_one_thread_and_the_last_release_ends_it() -> None:
    first, second = thread.acquire(), thread.acquire()
    assert first is second
    assert running() == 1
    thread.release(first)
    assert running() == 1
    thread.release(second)
    assert running() == 0
    assert first.loop.is_closed()


def test_a_new_one_starts_after_the_last_release() -> None:
    first = thread.acquire()
    thread.release(first)
    second = thread.acquire()
    assert second is not first
    thread.release(second)


@pytest.mark.parametrize("begun", [True, False], ids=["closing", "at work"])
def test_the_end_interrupts_no_task_that_closes_what_it_holds(begun: bool) -> None:
    closed = []

    async def holding() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for step in range(3):
                await asyncio.sleep(0.02)
                closed.append(step)

    async def start() -> asyncio.Task[None]:
        task = asyncio.create_task(holding())
        await asyncio.sleep(0)
        if begun:
            task.cancel()
            await asyncio.sleep(0)
        return task

    monitor = thread.acquire()
    task = monitor.submit(start()).result(5)
    thread.release(monitor)
    assert task.done()
    assert closed == [0, 1, 2]


def test_a_task_that_does_not_end_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "END_S", 0.05)

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    async def start() -> asyncio.Task[None]:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        return task

    monitor = thread.acquire()
    task = monitor.submit(start()).result(5)
    thread.release(monitor)
    assert task.done()


def test_the_end_waits_for_no_tasks_that_a_timer_begins_again_and_again() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    def tick(loop: asyncio.AbstractEventLoop) -> None:
        loop.create_task(work())
        loop.call_soon(tick, loop)

    monitor = thread.acquire()
    monitor.call(tick, monitor.loop)
    began = time.monotonic()
    thread.release(monitor)
    assert time.monotonic() - began < thread.JOIN_S
    assert monitor.loop.is_closed()


def test_many_threads_get_the_same_one() -> None:
    got: list[thread.MonitorThread] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        got.append(thread.acquire())

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(got)) == 1
    for monitor in got:
        thread.release(monitor)
    assert running() == 0


def test_call_runs_on_the_loop_and_says_false_afterwards() -> None:
    monitor = thread.acquire()
    where: list[bool] = []
    assert monitor.call(lambda: where.append(monitor.current))
    assert soon(lambda: where == [True])
    assert not monitor.current
    thread.release(monitor)
    assert not monitor.call(lambda: None)


def test_submit_returns_the_result_and_raises_after_the_end() -> None:
    monitor = thread.acquire()

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert monitor.submit(answer()).result(5) == 42
    thread.release(monitor)
    with pytest.raises(RuntimeError):
        monitor.submit(answer())


def test_the_end_cancels_what_still_runs() -> None:
    monitor = thread.acquire()
    seen: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append("cancelled")

    monitor.submit(forever())
    assert soon(lambda: len(asyncio.all_tasks(monitor.loop)) == 1)
    thread.release(monitor)
    assert seen == ["cancelled"]


def test_releasing_from_the_loop_itself_does_not_hang() -> None:
    monitor = thread.acquire()
    monitor.call(thread.release, monitor)
    assert soon(lambda: running() == 0)


def test_the_loop_is_a_selector_loop_whatever_the_policy() -> None:
    monitor = thread.acquire()
    assert isinstance(monitor.loop, asyncio.SelectorEventLoop)
    thread.release(monitor)


def in_child(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_child_makes_its_own() -> None:
    in_child(
        """
import os, threading
from resilient.monitor import thread
parent = thread.acquire()
child = os.fork()
if child == 0:
    mine = thread.acquire()
    fresh = mine is not parent and mine.pid == os.getpid()
    refused = not parent.call(print, "in the wrong process")
    thread.release(parent)  # not ours: no effect
    alive = any(t.name == thread.THREAD_NAME for t in threading.enumerate())
    thread.release(mine)
    os._exit(0 if fresh and refused and alive else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 0, status
assert parent.call(lambda: None)
thread.release(parent)
"""
    )


def test_an_interpreter_that_never_released_ends_quietly() -> None:
    in_child("from resilient.monitor import thread; thread.acquire()")


def test_the_process_id_is_remembered() -> None:
    monitor = thread.acquire()
    assert monitor.pid == os.getpid()
    thread.release(monitor)


def test_what_it_does_is_no_part_of_the_callers_request() -> None:
    """A timer that is set for a request outlives it, and must not keep what the request had."""
    request: ContextVar[str] = ContextVar("request", default="nobody's")
    monitor = thread.acquire()
    seen: list[str] = []
    token = request.set("somebody's")
    try:

        async def look() -> str:
            return request.get()

        monitor.call(lambda: seen.append(request.get()))
        monitor.call(monitor.loop.call_later, 0.01, lambda: seen.append(request.get()))
        assert monitor.submit(look()).result(5) == "nobody's"
        assert soon(lambda: len(seen) == 2)
        assert seen == ["nobody's", "nobody's"]
    finally:
        request.reset(token)
        thread.release(monitor)


def test_a_timer_that_begins_tasks_while_the_loop_ends() -> None:
    """As where a pool was left open: they come to nothing, whatever Python does with a task."""
    monitor = thread.acquire()
    loop, troubles, begun = monitor.loop, [], []

    async def never() -> None:
        begun.append("too late")

    def begin() -> None:
        task = loop.create_task(never(), name="named")
        task.add_done_callback(lambda done: None)
        loop.call_later(0, begin)

    def prepare() -> None:
        loop.set_exception_handler(lambda _, said: troubles.append(said))
        loop.call_later(0, begin)

    assert monitor.call(prepare)
    assert soon(lambda: bool(begun))
    thread.release(monitor)
    assert loop.is_closed()
    assert troubles == []
