"""Keeps a cluster's configured names resolved: at TTL's end, and at once when in trouble.

While nobody may write, or the writer is under suspicion, every name is asked again each
`TROUBLED_S` past the cache: the record may move before its TTL ends.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.model import Endpoint, Health, Topology
from ..core.topology import Resolved
from ..dns import Answer, AsyncResolver
from ..errors import ResolutionError
from ..settings import Settings

if TYPE_CHECKING:
    from .cluster import ConfiguredName

logger = logging.getLogger("resilient.monitor")

TROUBLED_S = 0.25
#: troubled names are asked at that pace for so long, then once a second
TROUBLED_FOR_S = 30.0
RETRY_S = 1.0


class NameWatch:
    """Resolves the names of one cluster on the monitor's loop and reports `Resolved`."""

    def __init__(
        self,
        names: tuple[ConfiguredName, ...],
        settings: Settings,
        apply: Callable[[Resolved], None],
    ) -> None:
        self.errors: dict[str, str] = {}
        self._names = names
        self._settings = settings
        self._apply = apply
        self._resolver: AsyncResolver | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._troubled = asyncio.Event()
        self._troubled_at = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        for name in self._names:
            fixed = literal(name)
            if fixed is not None:
                zone = self._settings.zones.zone_of(fixed.address, (name.host,))
                self._apply(Resolved(f"{name.host}:{name.port}", (fixed,), (zone,)))
                continue
            if self._resolver is None:
                self._resolver = AsyncResolver(self._settings)
            self._tasks.append(loop.create_task(self._follow(name, self._resolver)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._resolver is not None:
            await self._resolver.close()

    def topology_changed(self, new: Topology) -> None:
        """Follow the topology into and out of trouble."""
        if new.writer is not None and new.writer.health is Health.UP and not new.writer.retired:
            self._troubled.clear()
        elif not self._troubled.is_set():
            self._troubled_at = time.monotonic()
            self._troubled.set()

    async def _follow(self, name: ConfiguredName, resolver: AsyncResolver) -> None:
        key = f"{name.host}:{name.port}"
        last: Answer | None = None
        while True:
            pause_s = RETRY_S
            try:
                answer = await resolver.resolve(
                    name.host, family="any", fresh=self._troubled.is_set()
                )
            except ResolutionError as exc:
                # Endpoints that are known stay: their own probes judge them.
                if self.errors.get(name.host) != str(exc):
                    logger.warning("name=%s error=%r", name.host, str(exc))
                self.errors[name.host] = str(exc)
            else:
                self.errors.pop(name.host, None)
                if last is None or _content(answer) != _content(last) or not answer.stale:
                    self._apply(self._resolved(name, key, answer, last))
                last = answer
                pause_s = max(0.05, answer.expires_at - time.monotonic())
            await self._pause(pause_s)

    def _resolved(
        self, name: ConfiguredName, key: str, answer: Answer, last: Answer | None
    ) -> Resolved:
        endpoints = tuple(Endpoint(name.host, address, name.port) for address in answer.addresses)
        names = (name.host, *answer.chain, answer.canonical_name)
        zones = tuple(self._settings.zones.zone_of(address, names) for address in answer.addresses)
        mode = self._settings.dns_mode.get(name.host.rstrip(".").lower())
        several = len({*answer.addresses, *(last.addresses if last else ())}) > 1
        moved = last is not None and last.canonical_name != answer.canonical_name
        single = len(answer.addresses) == 1
        rotating = mode == "rotating" if mode else several and not single and not moved
        if last is None or _content(answer) != _content(last):
            logger.info("name=%s chain=%s addresses=%s", name.host, names, answer.addresses)
        return Resolved(key, endpoints, zones, rotating)

    async def _pause(self, seconds: float) -> None:
        """Sleep until the answer ends; less while in trouble."""
        if self._troubled.is_set():
            long = time.monotonic() - self._troubled_at > TROUBLED_FOR_S
            await asyncio.sleep(min(seconds, RETRY_S) if long else TROUBLED_S)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._troubled.wait()
        except TimeoutError:
            return


def literal(name: ConfiguredName) -> Endpoint | None:
    """The endpoint of something that needs no DNS, None for a name that does."""
    if name.hostaddr:
        return Endpoint(name.host or name.hostaddr, name.hostaddr, name.port)
    if not name.host or name.host.startswith(("/", "@")):
        return Endpoint(name.host, "", name.port)
    try:
        return Endpoint(name.host, str(ipaddress.ip_address(name.host)), name.port)
    except ValueError:
        return None


def _content(answer: Answer) -> tuple[frozenset[str], str]:
    return frozenset(answer.addresses), answer.canonical_name
