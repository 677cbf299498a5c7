"""Who holds the lease, as Patroni's REST API tells (`GET /cluster`): on the monitor's loop.

A change of the holder is news of a promotion, and the one named is probed at once.  With
`LEASE=patroni` it also rules: see `core.topology`.  What isn't answered for `STALE_S` is
forgotten: a client without its lease source is one that never had any.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .._logs import Line
from .._parse import split_user
from ..core.model import Endpoint, Topology
from ..core.topology_events import Leased
from ..errors import ResolutionError
from ..settings import Settings
from . import resolvers
from .resolvers import SharedResolver

logger = logging.getLogger("resilient.monitor")

#: while nobody may write, or the writer is under suspicion, it is asked this often, in seconds
TROUBLED_S = 0.25
#: Patroni looks at its lease every 10 s (`loop_wait`), which lasts 30 s (`ttl`)
STALE_S = 10.0
ROLES = frozenset({"leader", "master", "primary"})


class Holder(NamedTuple):
    """As it is told: a name or an address, its port, and the timeline if that is known."""

    host: str
    port: int
    timeline: int | None


def holder_of(cluster: Any) -> Holder | None:
    """From the JSON of `GET /cluster`; None: nobody holds it.  ValueError: it is something else."""
    try:
        members = cluster["members"]
        leaders = [member for member in members if member["role"] in ROLES]
        if len(leaders) != 1:
            return None
        (leader,) = leaders
        timeline = leader.get("timeline")
        known = int(timeline) if isinstance(timeline, int) else None
        return Holder(str(leader["host"]), int(leader["port"]), known)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a Patroni cluster: {error!r}") from None


class LeaseWatch:
    """Follows the holder.  `ask_now(endpoint)` is called when it is another one."""

    def __init__(
        self,
        settings: Settings,
        apply: Callable[[Leased], None],
        ask_now: Callable[[Endpoint], None],
        labels: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`labels`: what its lines say of who follows it."""
        self._labels = labels
        self._settings = settings
        self._apply = apply
        self._ask_now = ask_now
        self._urls = list(settings.patroni_urls)
        self._topology = Topology()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._resolver: SharedResolver | None = None
        self._holder: Holder | None = None
        self._told = Leased()
        self._heard_at = 0.0
        self._error = ""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._urls:
            self._resolver = resolvers.hold(self._settings)
            self._task = loop.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._resolver is not None:
            await self._resolver.close()

    def topology_changed(self, new: Topology) -> None:
        """Endpoints come and go, and trouble is asked about at once."""
        known = {view.endpoint for view in self._topology.endpoints}
        before, self._topology = self._topology, new
        lost = _troubled(new) and not _troubled(before)
        if lost or known != {view.endpoint for view in new.endpoints}:
            self._wake.set()

    async def _follow(self) -> None:
        # A monitor without a lease source needs no HTTP client.
        import httpx2

        timeout_s = self._settings.probe_timeout_s
        # With a transport of its own: a program may have put our client in the place of httpx2's.
        plain = httpx2.AsyncHTTPTransport(trust_env=False)
        async with httpx2.AsyncClient(
            timeout=timeout_s, transport=plain, trust_env=False
        ) as client:
            while True:
                self._wake.clear()
                try:
                    await self._look(client)
                except Exception:
                    logger.exception("%s", Line(event="lease.failed", **self._labels()))
                pause_s = self._settings.probe_interval_s
                try:
                    async with asyncio.timeout(
                        min(pause_s, TROUBLED_S) if _troubled(self._topology) else pause_s
                    ):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _look(self, client: Any) -> None:
        """Ask one source after the other, the one that answered last first."""
        error = ""
        for url in list(self._urls):
            try:
                bare, auth = split_user(url)
                response = await client.get(f"{bare.rstrip('/')}/cluster", auth=auth)
                response.raise_for_status()
                holder = holder_of(response.json())
            except Exception as exc:  # whatever it is, the next one may know
                error = f"{bare}: {' '.join(str(exc).split()) or type(exc).__name__}"
                continue
            self._urls.remove(url)
            self._urls.insert(0, url)
            self._heard_at = time.monotonic()
            self._note("")
            await self._take(holder)
            return
        self._note(error)
        if time.monotonic() - self._heard_at > STALE_S:
            await self._take(None)

    async def _take(self, holder: Holder | None) -> None:
        endpoints = () if holder is None else await self._endpoints(holder)
        if holder != self._holder:
            line = Line(
                event="lease.held",
                holder=f"{holder.host}:{holder.port}" if holder else "-",
                timeline=holder.timeline if holder else None,
                known=",".join(endpoint.place for endpoint in endpoints) or "-",
                **self._labels(),
            )
            logger.info("%s", line)
            self._holder = holder
            for endpoint in endpoints:
                self._ask_now(endpoint)
        told = Leased(endpoints, holder.timeline if holder else None)
        if self._settings.lease == "patroni" and told != self._told:
            self._told = told
            self._apply(told)

    async def _endpoints(self, holder: Holder) -> tuple[Endpoint, ...]:
        """Those that we know by the holder's name or one of its addresses."""
        known = [view.endpoint for view in self._topology.endpoints if view.port == holder.port]
        named = tuple(e for e in known if holder.host.lower() in (e.address, e.name.lower()))
        if named or self._resolver is None:
            return named
        try:
            ipaddress.ip_address(holder.host)
        except ValueError:
            pass
        else:
            return ()
        try:
            answer = await self._resolver.resolve(holder.host, "any")
        except ResolutionError:
            return ()
        return tuple(endpoint for endpoint in known if endpoint.address in answer.addresses)

    def _note(self, error: str) -> None:
        if error and error != self._error:
            logger.warning("%s", Line(event="lease.unknown", reason=error, **self._labels()))
        self._error = error


def _troubled(topology: Topology) -> bool:
    return not topology.calm
