"""`Resolver`: the engine under a lock; callers ask on their own threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Self

from resilient.core.dns import Answer, Family, Mode
from resilient.core.dns_cache import Known, Slot
from resilient.settings import Settings

from ._drive import drive
from ._engine import Callback, Engine, Key, notify
from ._fetch import Plan
from ._helper import Flight, Helper
from ._srv import Service, ServiceCache, fetch_services

__all__ = ["Resolver"]


class Resolver:
    """Resolves names on the calling thread; safe to share between threads.

    `clock` dates TTLs, staleness and cached failures; timeouts run on real time.  There is
    at most one helper thread (daemon), from the first refresh or watch to `close`.  Errors
    of `resolve`: `NameNotFound` (final), `NameTimeout`, `NameServersFailed`; all are also
    `socket.gaierror`.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        hosts_path: str = "/etc/hosts",
        resolv_conf_path: str = "/etc/resolv.conf",
    ) -> None:
        self._engine = Engine(settings, clock, hosts_path, resolv_conf_path)
        self._cache = self._engine.cache
        self._clock = clock
        self._services = ServiceCache(self._engine)
        self._closed = False
        self._start_over()

    def _start_over(self) -> None:
        """Locks and flights of this process; a parent's mean nothing after fork."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._flights: dict[Key, Flight] = {}
        self._helper = Helper(self._engine, self._lock, self._flights)

    def resolve(self, name: str, family: Family = 4, *, fresh: bool = False) -> Answer:
        """The addresses of `name`; from the cache while they live.

        `family`: 4, 6 or "any".  Raises `NameNotFound`, `NameTimeout` or `NameServersFailed`,
        within `DNS_DEADLINE_S`.  `fresh` goes around the cache, for use after a connect failure;
        it asks at most once per name and 250 ms over all callers.
        """
        if not fresh:
            answer = self._cache.hit(name, family, self._clock())
            if answer is not None:
                if self._cache.rescheduled:
                    self._plan_refresh()
                return answer
        return self._resolve(name, family, fresh)

    def refresh(self, name: str, family: Family = 4) -> Answer:
        """`resolve(name, family, fresh=True)`."""
        return self._resolve(name, family, True)

    def resolve_srv(self, name: str) -> tuple[Service, ...]:
        """The hosts and ports behind an SRV name such as `_postgresql._tcp.example.org`, in
        the order to try them (RFC 2782)."""
        self._check_open()
        with self._lock:
            plan = self._services.plan(name)
        if not isinstance(plan, Plan):
            return plan
        result = drive(fetch_services(plan, self._engine))
        with self._lock:
            return self._services.finish(plan, result)

    def invalidate(self, name: str) -> None:
        """Forget everything that is cached for `name`."""
        with self._lock:
            key = self._engine.key(name)
            self._cache.invalidate(key)
            self._services.invalidate(key)

    def report_dead(self, address: str) -> None:
        """Order `address` last for a while: a connect to it has just failed."""
        with self._lock:
            self._engine.report_dead(address)

    def mode(self, name: str, family: Family = 4) -> Mode:
        """`strict` or `rotating`: how a change of this name's answers is read.  `family`: 4, 6
        or "any"."""
        with self._lock:
            return self._engine.mode(name, family)

    def watch(self, name: str, callback: Callback, family: Family = 4) -> Callable[[], None]:
        """Call `callback(change)` whenever `name` means something else, on the helper thread
        or on the thread of the caller that found it.

        `family`: 4, 6 or "any".  Returns a function that ends it.  The name is kept fresh without
        being used.
        """
        self._check_open()
        with self._lock:
            key = (self._engine.key(name), family)
            self._engine.watch(key, callback)
        self._plan_refresh()

        def unsubscribe() -> None:
            with self._lock:
                self._engine.unwatch(key, callback)

        return unsubscribe

    def close(self) -> None:
        """End the helper thread, if there is one.  Idempotent."""
        self._closed = True
        with self._lock:
            self._engine.forget()
        if self._pid == os.getpid():
            self._helper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- one flight per (name, family)

    def _resolve(self, name: str, family: Family, fresh: bool) -> Answer:
        self._check_open()
        with self._lock:
            answer = self._engine.local(name, family)
        if answer is not None:
            return answer
        key = (self._engine.key(name), family)
        while True:
            self._check_open()
            flight, plan, known = self._board(key, fresh)
            if isinstance(known, float | int):
                time.sleep(known)
                continue
            if known is not None:
                self._plan_refresh()
                return self._engine.serve(name, known)
            assert flight is not None
            if plan is not None:
                return self._engine.serve(name, self._fly(key, flight, plan))
            self._follow(key, flight)
            if flight.known is not None:
                return self._engine.serve(name, flight.known)

    def _board(
        self, key: Key, fresh: bool
    ) -> tuple[Flight | None, Plan | None, Known | float | None]:
        """What is known; else the flight to wait for, with a plan for the one who leads it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and fresh:
                return flight, None, None
            known = self._engine.begin(key, fresh=fresh)
            if flight is not None and not isinstance(known, Slot):
                return flight, None, None  # it knows more than an absence from before
            if known is not None:
                return None, None, known
            flight = self._flights[key] = Flight()
            return flight, self._engine.plan(key, fresh=fresh), None

    def _follow(self, key: Key, flight: Flight) -> None:
        """Wait for another's flight; one that can't be in the air any more is struck off."""
        if not flight.done.wait(self._engine.sources.configuration().deadline_s + 1):
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]

    def _fly(self, key: Key, flight: Flight, plan: Plan) -> Known:
        try:
            fetched = drive(self._engine.fetch(plan))
            with self._lock:
                flight.known, changes = self._engine.finish(plan, fetched)
                calls = self._engine.calls(changes)
        finally:
            # Even if interrupted: the others then choose a new leader among themselves.
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.done.set()
        notify(calls)
        self._plan_refresh()
        return flight.known

    def _plan_refresh(self) -> None:
        self._cache.rescheduled = False
        if not self._closed and self._cache.next_refresh() is not None:
            self._helper.wake()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the resolver is closed")
        if self._pid != os.getpid():
            self._start_over()
