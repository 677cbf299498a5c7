"""The helper thread of a `Resolver`: refreshes ahead of expiry and keeps watched names
fresh, all at once on one poll."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress

from resilient._logs import Line
from resilient.core.dns_cache import Known

from ._drive import poll
from ._engine import Engine, Key, notify
from ._fetch import Fetched, Plan, Waits
from ._wire import Wait

__all__ = ["Flight", "Helper"]

logger = logging.getLogger("resilient.dns")

THREAD_NAME = "resilient-dns"
#: how long `close` waits for the thread, in seconds: a callback may be running
JOIN_S = 5.0


class Flight:
    """One question under way, led by a caller or by the helper.

    `known` stays None if its leader was interrupted: those who wait choose another.
    """

    __slots__ = ("done", "known")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.known: Known | None = None


class _Running:
    """One refresh under way."""

    def __init__(self, plan: Plan, flight: Flight, engine: Engine) -> None:
        self.plan = plan
        self.flight = flight
        self.waits: Waits[Fetched] = engine.fetch(plan)
        self.wanted: tuple[Wait, ...] = ()
        self.fetched: Fetched | None = None

    def begin(self) -> bool:
        """Send the first questions.  True while there is more to wait for."""
        try:
            self.wanted = next(self.waits)
        except StopIteration as stop:
            self.fetched = stop.value
        return self.fetched is None

    def step(self, ready: Collection[socket.socket]) -> bool:
        """Go on if a socket of ours is ready or a time is over.  True while it runs."""
        mine = [wait.sock for wait in self.wanted if wait.sock in ready]
        if not mine and time.monotonic() < min(wait.until for wait in self.wanted):
            return True
        try:
            self.wanted = self.waits.send(mine)
        except StopIteration as stop:
            self.fetched = stop.value
        return self.fetched is None


class Helper:
    """Started by the first `wake`, ended by `close`."""

    def __init__(self, engine: Engine, lock: threading.Lock, flights: dict[Key, Flight]) -> None:
        self._engine = engine
        self._lock = lock
        self._flights = flights
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._closed = False
        self._running: list[_Running] = []

    def wake(self) -> None:
        """Look at the schedule again, now."""
        with self._starting:
            if self._closed:
                return
            if self._thread is None:
                try:
                    self._start()
                except (OSError, RuntimeError) as exc:
                    # No descriptor or thread to be had: names are asked for when they expire.
                    logger.warning("%s", Line(event="dns.helper_failed", reason=str(exc)))
            self._poke()

    def _start(self) -> None:
        pair = socket.socketpair()
        try:
            for end in pair:
                end.setblocking(False)
            thread = threading.Thread(target=self._main, name=THREAD_NAME, daemon=True)
            self._pair = pair
            thread.start()
        except BaseException:
            self._pair = None
            for end in pair:
                end.close()
            raise
        self._thread = thread

    def _poke(self) -> None:
        if self._pair is not None:
            with suppress(BlockingIOError):  # it is full of reasons to wake already
                self._pair[1].send(b"\0")

    def close(self) -> None:
        """End the thread, which closes its sockets.  Idempotent; a callback may call it."""
        with self._starting:
            self._closed = True
            self._poke()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)

    def _main(self) -> None:
        assert self._pair is not None
        inbox = self._pair[0]
        try:
            while not self._closed:
                self._start_due()
                ready = self._wait(inbox)
                if inbox in ready:
                    self._drain(inbox)
                self._running = [each for each in self._running if self._goes_on(each, ready)]
        finally:
            for each in self._running:
                each.waits.close()
                self._end(each)
            with self._starting:
                for end in self._pair:
                    end.close()
                self._thread = self._pair = None
            self._running = []

    def _start_due(self) -> None:
        calls = []
        started = []
        with self._lock:
            for key in self._engine.cache.due(self._engine.clock()):
                if key in self._flights:
                    continue  # a caller is asking already
                plan, changes = self._engine.refresh(key)
                calls += self._engine.calls(changes)
                if plan is not None:
                    flight = self._flights[key] = Flight()
                    started.append(_Running(plan, flight, self._engine))
        notify(calls)
        for running in started:
            if running.begin():
                self._running.append(running)
            else:
                self._land(running)

    def _wait(self, inbox: socket.socket) -> Collection[socket.socket]:
        wanted = [wait for each in self._running for wait in each.wanted]
        untils = [wait.until for wait in wanted]
        at = self._engine.cache.next_refresh()
        if at is not None:
            # The schedule is dated by the injected clock, the wait is real.
            untils.append(time.monotonic() + max(0.0, at - self._engine.clock()))
        until = min(untils, default=None)
        return poll([*wanted, Wait(inbox, False, float("inf"))], until)

    def _goes_on(self, each: _Running, ready: Collection[socket.socket]) -> bool:
        if each.step(ready):
            return True
        self._land(each)
        return False

    def _land(self, each: _Running) -> None:
        assert each.fetched is not None
        try:
            with self._lock:
                each.flight.known, changes = self._engine.finish(each.plan, each.fetched)
                calls = self._engine.calls(changes)
        finally:
            self._end(each)
        notify(calls)

    def _end(self, each: _Running) -> None:
        key = (each.plan.key, each.plan.family)
        with self._lock:
            if self._flights.get(key) is each.flight:
                del self._flights[key]
        each.flight.done.set()

    def _drain(self, inbox: socket.socket) -> None:
        with suppress(BlockingIOError):
            while inbox.recv(4096):
                pass
