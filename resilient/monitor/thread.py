"""The one background thread of a process: an asyncio loop for probes, DNS and verdicts.

It carries no user traffic and runs no user code, so a blocked application loop delays no
verdict.  Nor has it a caller's context: what it does isn't a part of anybody's request, and
outlives them.  Whoever needs it calls `acquire` and, when done, `release`; the last release ends
the thread.  A forked child starts its own; a parent's thread doesn't exist there.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, cast

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREAD_NAME = "resilient-monitor"
#: how long the last release waits for the loop's tasks to end, in seconds
JOIN_S = 5.0
#: how long they have to close what they hold before they are interrupted, in seconds
END_S = 2.0


class Aside(selectors.DefaultSelector):
    """A selector that is no one's running loop while it waits.

    asyncio notes the running loop for the operating system's thread.  Where threads are greenlets
    (gevent, eventlet), all of them are in that thread: they run while this one waits, and to them
    the monitor's loop isn't running.
    """

    def __init__(self) -> None:
        super().__init__()
        #: what others have there
        self._theirs: tuple[Any, Any] = (None, None)

    def select(self, timeout: float | None = None) -> Any:
        ours = self.give_way()
        try:
            return super().select(timeout)
        finally:
            self._theirs = _exchange(ours)

    def give_way(self) -> tuple[Any, Any]:
        """Put theirs back; what was there."""
        return _exchange(self._theirs)

    def come_in(self) -> None:
        """Before the loop runs, perhaps beside one that runs already."""
        self._theirs = _exchange((None, sys.get_asyncgen_hooks()))


def _exchange(new: tuple[Any, Any]) -> tuple[Any, Any]:
    """The running loop and who looks after asynchronous generators; these instead."""
    before = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
    loop, hooks = new
    asyncio._set_running_loop(loop)
    if hooks is not None:
        sys.set_asyncgen_hooks(*hooks)
    return before


class MonitorThread:
    """An asyncio loop on a daemon thread.  Use `acquire`, not the constructor."""

    def __init__(self) -> None:
        # Named, not the default: an application may install another policy (uvloop),
        # whose loop does not promise add_reader on descriptors that libpq owns.
        self._selector = Aside()
        self.loop: asyncio.AbstractEventLoop = asyncio.SelectorEventLoop(self._selector)
        self.pid = os.getpid()
        self._users = 0
        self._thread = threading.Thread(target=self._main, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._selector.come_in()
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(_end_tasks())
            self.loop.close()
            self._selector.give_way()

    @property
    def current(self) -> bool:
        """True when the caller runs on this very thread."""
        return threading.get_ident() == self._thread.ident

    def call(self, fn: Callable[[*Ts], object], *args: *Ts) -> bool:
        """Run `fn(*args)` on the loop soon.  False when the loop has ended (or was forked)."""
        if self.pid != os.getpid():
            return False
        try:
            self.loop.call_soon_threadsafe(fn, *args, context=Context())
        except RuntimeError:  # the loop is closed
            return False
        return True

    def submit(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; `.result(timeout)` from any other thread."""
        try:
            return Context().run(asyncio.run_coroutine_threadsafe, coro, self.loop)
        except RuntimeError:
            coro.close()
            raise

    def _stop(self) -> None:
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)

    def _join(self) -> None:
        if not self.current:
            self._thread.join(JOIN_S)


async def _end_tasks() -> None:
    """End all other tasks of this loop, and let them close what they hold."""
    loop = asyncio.get_running_loop()
    me = cast(asyncio.Task[Any], asyncio.current_task())
    if others := asyncio.all_tasks() - {me}:
        for task in others:
            # A second cancellation would interrupt the closing that the first one began.
            if not task.cancelling():
                task.cancel()
        await asyncio.wait(others, timeout=END_S)
    # Timers go on beginning tasks where a pool was left open: those come to nothing.
    loop.set_task_factory(_stillborn)
    if others := asyncio.all_tasks() - {me}:
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=END_S)
    for _ in range(3):  # a closed transport lets go of its socket a turn or two later
        await asyncio.sleep(0)


class _Never(asyncio.Future[Any]):
    """Stands for a task.  `create_task` gives it its name, from Python 3.13 on by this method."""

    def set_name(self, name: object) -> None:
        pass


def _stillborn(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Future[Any]:
    coro.close()
    never = _Never(loop=loop)
    never.cancel()
    return never


_lock = threading.RLock()  # re-entrant: a finaliser may call `release` inside `acquire`
_monitor: MonitorThread | None = None


def acquire() -> MonitorThread:
    """The process's monitor, started when nobody had it.  Pair with `release`."""
    global _monitor
    with _lock:
        if _monitor is None or _monitor.pid != os.getpid():
            _monitor = MonitorThread()
        _monitor._users += 1
        return _monitor


def release(monitor: MonitorThread) -> None:
    """Give the monitor back.  The last one to do so ends and joins the thread."""
    global _monitor
    with _lock:
        if monitor.pid != os.getpid():
            return
        monitor._users -= 1
        if monitor._users > 0:
            return
        if _monitor is monitor:
            _monitor = None
    monitor._stop()
    monitor._join()


def _after_fork_in_child() -> None:
    # The thread did not survive the fork, and its lock may have been held by it.
    global _lock, _monitor
    _lock = threading.RLock()
    _monitor = None


def _at_exit() -> None:
    # A daemon thread inside a selector at interpreter shutdown is fine for CPython, but a
    # task that logs then is not: end it while everything still works.
    with _lock:
        monitor = _monitor
    if monitor is not None and monitor.pid == os.getpid():
        monitor._stop()
        monitor._join()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
