"""The resolvers of a process: one for all who ask with equal DNS settings.

Clusters and HTTP clients that follow one name ask for it once, and again after a failed
connect once in 250 ms at most, however many they are.  Everything here runs on the monitor's
loop, which all users hold; so a forked child, whose loop is another, makes its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import field

from .._dataclass import dataclass
from ..core.dns_change import BypassLimiter
from ..core.dns_pace import Heard
from ..dns import Answer, AsyncResolver, Change, Family, Mode, Service
from ..settings import Settings

Callback = Callable[[Change], object]
Name = tuple[str, Family]
Services = tuple[Service, ...]


@dataclass(slots=True)
class _Common:
    """What the users share.  `watches`: who follows a name, and what ends the resolver's own
    watch of it; a second one there would ask once more."""

    key: str
    loop: asyncio.AbstractEventLoop
    resolver: AsyncResolver
    users: int = 0
    watches: dict[Name, tuple[list[Callback], Callable[[], None]]] = field(default_factory=dict)
    limiter: BypassLimiter = field(default_factory=BypassLimiter)
    services: dict[str, asyncio.Task[Services]] = field(default_factory=dict)

    def watch(self, name: Name, callback: Callback) -> None:
        if name not in self.watches:
            callbacks: list[Callback] = []

            def tell(change: Change) -> None:
                for each in tuple(callbacks):
                    each(change)

            self.watches[name] = callbacks, self.resolver.watch(name[0], tell, name[1])
        self.watches[name][0].append(callback)

    def unwatch(self, name: Name, callback: Callback) -> None:
        if name in self.watches:
            callbacks, end = self.watches[name]
            if callback in callbacks:
                callbacks.remove(callback)
            if not callbacks:
                del self.watches[name]
                end()

    def services_of(self, name: str, fresh: bool) -> asyncio.Task[Services]:
        """The question under way, or the last one's answer while it is too early to ask."""
        key: Name = (name, 4)
        now = self.loop.time()
        last = self.services.get(name)
        again = fresh or last is None
        if last is not None:
            if not last.done():
                return last
            again = again or last.exception() is not None  # the resolver keeps no failure
            if again and self.limiter.wait_s(key, now):
                return last
        if again:
            self.resolver.invalidate(name)
            self.limiter.note(key, now)
        task = self.services[name] = self.loop.create_task(self.resolver.resolve_srv(name))
        task.add_done_callback(_observe)
        return task

    async def close(self) -> None:
        tasks = list(self.services.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.resolver.close()


def _observe(task: asyncio.Task[Services]) -> None:
    """A failure is heard of by somebody, even when all who asked have left."""
    if not task.cancelled():
        task.exception()


class SharedResolver:
    """One user's face of the process's resolver; `close` gives it back.

    The methods are `AsyncResolver`'s.
    """

    def __init__(self, common: _Common) -> None:
        self._common = common
        self._resolver = common.resolver
        self._watches: list[tuple[Name, Callback]] = []
        self._closed = False

    async def resolve(
        self,
        name: str,
        family: Family = 4,
        *,
        fresh: bool = False,
        every_s: float | None = None,
    ) -> Answer:
        return await self._resolver.resolve(name, family, fresh=fresh, every_s=every_s)

    def heard(self, name: str, family: Family = 4) -> Heard | None:
        return self._resolver.heard(name, family)

    def spare(self, name: str, family: Family, least_s: float) -> None:
        self._resolver.spare(name, family, least_s)

    async def resolve_early(self, name: str, *, fresh: bool = False) -> tuple[Answer, bool]:
        return await self._resolver.resolve_early(name, fresh=fresh)

    async def resolve_srv(self, name: str, *, fresh: bool = False) -> Services:
        """`fresh` goes around the cache, once in 250 ms over all users."""
        return await asyncio.shield(self._common.services_of(name, fresh))

    def report_dead(self, address: str) -> None:
        self._resolver.report_dead(address)

    def mode(self, name: str, family: Family = 4) -> Mode:
        return self._resolver.mode(name, family)

    def watch(self, name: str, callback: Callback, family: Family = 4) -> Callable[[], None]:
        key: Name = (name, family)
        self._common.watch(key, callback)
        self._watches.append((key, callback))

        def end() -> None:
            if (key, callback) in self._watches:
                self._watches.remove((key, callback))
                self._common.unwatch(key, callback)

        return end

    async def close(self) -> None:
        """End this user's watches; the last user closes the resolver.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        for name, callback in self._watches:
            self._common.unwatch(name, callback)
        common = self._common
        common.users -= 1
        if common.users == 0:
            if _shared.get(common.key) is common:
                del _shared[common.key]
            await common.close()


_shared: dict[str, _Common] = {}


def hold(settings: Settings) -> SharedResolver:
    """The resolver for these settings, on the running loop.  Pair with its `close`."""
    loop = asyncio.get_running_loop()
    key = repr([(getattr(settings, name), settings.has_chosen(name)) for name in _FIELDS])
    common = _shared.get(key)
    if common is None or common.loop is not loop:
        common = _shared[key] = _Common(key, loop, AsyncResolver(settings))
    common.users += 1
    return SharedResolver(common)


#: the settings that a resolver reads
_FIELDS = tuple(name for name in Settings.fields if name.startswith("dns"))

os.register_at_fork(after_in_child=_shared.clear)
