"""`AsyncResolver`: the engine on the caller's own event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from resilient.core.dns import Answer, Family, Found, Mode
from resilient.core.dns_cache import Known, Slot
from resilient.core.dns_pace import Heard
from resilient.errors import NameServersFailed
from resilient.settings import Settings

from ._drive import drive_async
from ._engine import Callback, Engine, Key, notify
from ._fetch import Plan
from ._srv import Service, ServiceCache, fetch_services

__all__ = ["AsyncResolver"]


class _Flight:
    """One question under way.  `early`: what one family gave, while the other is silent."""

    __slots__ = ("early", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.early: asyncio.Future[Found] = loop.create_future()
        self.task: asyncio.Task[Known]


class AsyncResolver:
    """Resolves names on the running loop, without threads.

    `clock` dates TTLs, staleness and cached failures; timeouts run on real time.  One
    resolver belongs to one loop at a time.  Errors of `resolve`: `NameNotFound` (final),
    `NameTimeout`, `NameServersFailed`; all are also `socket.gaierror`.
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
        self._flights: dict[Key, _Flight] = {}
        self._services = ServiceCache(self._engine)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def resolve(
        self,
        name: str,
        family: Family = 4,
        *,
        fresh: bool = False,
        every_s: float | None = None,
    ) -> Answer:
        """The addresses of `name`; from the cache while they live.

        `family`: 4, 6 or "any".  Raises `NameNotFound`, `NameTimeout` or `NameServersFailed`,
        within `DNS_DEADLINE_S`.  `fresh` goes around the cache, for use after a connect failure;
        it asks at most once per name and 250 ms over all callers, or `every_s` of who asks oftener.
        """
        if not fresh:
            answer = self._cache.hit(name, family, self._clock())
            if answer is not None:
                if self._cache.rescheduled:
                    self._plan_refresh()
                return answer
        return await self._await(name, await self._resolve(name, family, fresh, every_s))

    async def resolve_early(self, name: str, *, fresh: bool = False) -> tuple[Answer, bool]:
        """`resolve(name, "any", fresh=fresh)` for who wants to connect: an answer of one family
        waits for the other's for 50 ms only (RFC 8305 section 3).

        True: the other is still being asked for; `resolve` waits for it.
        """
        found = await self._resolve(name, "any", fresh)
        if isinstance(found, Answer):
            return found, False
        either: set[asyncio.Future[Any]] = {found.task, found.early}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if found.task.done() or not found.early.done():
            return await self._await(name, found), False
        return self._engine.early(found.early.result()), True

    async def refresh(self, name: str, family: Family = 4) -> Answer:
        """`resolve(name, family, fresh=True)`."""
        return await self._await(name, await self._resolve(name, family, True))

    async def resolve_srv(self, name: str) -> tuple[Service, ...]:
        """The hosts and ports behind an SRV name such as `_postgresql._tcp.example.org`, in
        the order to try them (RFC 2782)."""
        self._check_open()
        plan = self._services.plan(name)
        if not isinstance(plan, Plan):
            return plan
        return self._services.finish(plan, await drive_async(fetch_services(plan, self._engine)))

    def invalidate(self, name: str) -> None:
        """Forget everything that is cached for `name`."""
        key = self._engine.key(name)
        self._cache.invalidate(key)
        self._services.invalidate(key)

    def report_dead(self, address: str) -> None:
        """Order `address` last for a while: a connect to it has just failed."""
        self._engine.report_dead(address)

    def mode(self, name: str, family: Family = 4) -> Mode:
        """`strict` or `rotating`: how a change of this name's answers is read.  `family`: 4, 6
        or "any"."""
        return self._engine.mode(name, family)

    def heard(self, name: str, family: Family = 4) -> Heard | None:
        """Who gives a watched name's answers of a `family`, as far as their TTLs tell."""
        return self._engine.watched.heard((self._engine.key(name), family))

    def spare(self, name: str, family: Family, least_s: float) -> None:
        """Refresh a watched name of a `family` no oftener than every `least_s` seconds from here
        on, whatever its TTL; 0: as that says."""
        self._engine.watched.spare((self._engine.key(name), family), least_s)

    def watch(self, name: str, callback: Callback, family: Family = 4) -> Callable[[], None]:
        """Call `callback(change)` on the loop whenever `name` means something else.

        `family`: 4, 6 or "any".  Returns a function that ends it.  The name is kept fresh without
        being used; outside
        a running loop this begins with the next `resolve`.
        """
        self._check_open()
        key = (self._engine.key(name), family)
        self._engine.watch(key, callback)
        self._plan_refresh()
        return lambda: self._engine.unwatch(key, callback)

    async def close(self) -> None:
        """Cancel what is under way; waiters get `NameServersFailed`.  Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = [flight.task for flight in self._flights.values() if self._is_mine(flight)]
        self._flights.clear()
        self._engine.forget()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # -- one flight per (name, family)

    async def _resolve(
        self, name: str, family: Family, fresh: bool, every_s: float | None = None
    ) -> Answer | _Flight:
        """What is known; else the flight to wait for."""
        self._check_open()
        answer = self._engine.local(name, family)
        if answer is not None:
            return answer
        key = (self._engine.key(name), family)
        while True:
            flight = self._flight(key)
            known = None
            if not (fresh and flight):
                known = self._engine.begin(key, fresh=fresh, every_s=every_s)
            if flight and not isinstance(known, Slot):
                return flight  # it knows more than an absence from before
            if not isinstance(known, float | int):
                break
            await asyncio.sleep(known)
            self._check_open()
        if known is not None:
            self._plan_refresh()
            return self._engine.serve(name, known)
        return self._take_off(key, self._engine.plan(key, fresh=fresh))

    async def _await(self, name: str, found: Answer | _Flight) -> Answer:
        if isinstance(found, Answer):
            return found
        try:
            # Shielded: cancelling one caller takes nothing from the others.
            return self._engine.serve(name, await asyncio.shield(found.task))
        except asyncio.CancelledError:
            if self._closed and found.task.cancelled():
                raise NameServersFailed(f"{name}: the resolver was closed", name=name) from None
            raise

    def _flight(self, key: Key) -> _Flight | None:
        flight = self._flights.get(key)
        mine = flight is not None and self._is_mine(flight) and not flight.task.done()
        return flight if mine else None

    def _is_mine(self, flight: _Flight) -> bool:
        # A flight of a loop that has ended is never going to land.
        return flight.task.get_loop() is asyncio.get_running_loop()

    def _take_off(self, key: Key, plan: Plan) -> _Flight:
        loop = asyncio.get_running_loop()
        flight = self._flights[key] = _Flight(loop)
        flight.task = loop.create_task(self._fly(key, flight, plan))
        return flight

    async def _fly(self, key: Key, flight: _Flight, plan: Plan) -> Known:
        try:
            waits = self._engine.fetch(plan, flight.early.set_result)
            known, changes = self._engine.finish(plan, await drive_async(waits))
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
        notify(self._engine.calls(changes))
        self._plan_refresh()
        return known

    # -- refresh ahead

    def _plan_refresh(self) -> None:
        """Set the one timer to the next name that is due."""
        with suppress(RuntimeError):  # no running loop: the next `resolve` comes back here
            loop = asyncio.get_running_loop()
            self._cache.rescheduled = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            at = None if self._closed else self._cache.next_refresh()
            if at is not None:
                self._timer = loop.call_later(max(0.0, at - self._clock()), self._refresh_due)

    def _refresh_due(self) -> None:
        self._timer = None
        for key in self._cache.due(self._clock()):
            if self._flight(key) is None:  # else a caller is asking already
                plan, changes = self._engine.refresh(key)
                if plan is not None:
                    self._take_off(key, plan)
                notify(self._engine.calls(changes))
        self._plan_refresh()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the resolver is closed")
