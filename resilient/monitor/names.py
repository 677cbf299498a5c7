"""Keeps a cluster's configured names resolved: as their TTLs end, and at once when in trouble.

A name is followed through `resilient.dns`: the resolver refreshes it ahead of expiry, wakes
us when its answer changed, and says how a change is to be read (`strict`, `rotating`).  While
nobody may write, or the writer is under suspicion, every name is asked again past the cache, as
often as `core.dns_pace` says: the record may move before its TTL ends.

What a failure to resolve means for endpoints that are known:

    SERVFAIL, silence   nothing; the resolver serves what it had, and the probes judge
    NXDOMAIN            who answers probes stays; an address that only DNS knew goes

A service (`_postgresql._tcp.example.org`) is a list of names with ports, each followed so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import field

from .._dataclass import dataclass
from .._logs import Line
from ..core import dns_pace
from ..core.dns_names import address_of
from ..core.model import Endpoint, Health, Topology
from ..core.topology import Resolved
from ..dns import Answer, Change
from ..errors import NameNotFound, ResolutionError
from ..settings import Settings
from . import resolvers
from .resolvers import SharedResolver

FIX = "see this name where it is configured, RESILIENT_DNS_NAMESERVERS and RESILIENT_DNS_SEARCH"
logger = logging.getLogger("resilient.monitor")

RETRY_S = 1.0
#: the shortest pause between two looks that nobody asked for
PAUSE_S = 0.05
#: several clusters that follow one name ask for it no oftener together; a change wakes them all
EVERY_S = 0.9 * dns_pace.BUSY_S
#: the resolver refreshes names by itself no oftener than this
WATCHED_S = 1.0

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ConfiguredName:
    """A name (or literal address, or socket directory) from the configuration.

    `reader`: it is given for reading only.
    """

    host: str
    port: int
    hostaddr: str = ""
    reader: bool = False


@dataclass(slots=True)
class _Target:
    """A host that is followed.  `known`: what the topology was last told, with zones;
    `counted_until`: an absence from a rotating name's answer before then isn't another one."""

    key: str
    unwatch: Callable[[], None]
    reader: bool = False
    known: dict[Endpoint, str | None] = field(default_factory=dict)
    answer: Answer | None = None
    counted_until: float = 0.0


class _Followed:
    """A configured name: itself the one target, or those of a service."""

    def __init__(self, name: ConfiguredName) -> None:
        self.name = name
        self.service = source_domain(name.host) is not None
        self.targets: dict[Place, _Target] = {}
        self.places: tuple[Place, ...] = () if self.service else ((name.host, name.port),)
        self.wake = asyncio.Event()


class NameWatch:
    """Resolves the names of one cluster on the monitor's loop and reports `Resolved`."""

    def __init__(
        self,
        names: tuple[ConfiguredName, ...],
        settings: Settings,
        apply: Callable[[Resolved], None],
        clients: Callable[[], int] = lambda: 0,
        labels: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`clients`: how many there are, this one included; 0: not known.  `labels`: of lines."""
        self.errors: dict[str, str] = {}
        self._clients, self._labels = clients, labels
        self._rng = random.Random()
        self._names = names
        self._settings = settings
        self._apply = apply
        self._resolver: SharedResolver | None = None
        self._followed: list[_Followed] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._health: dict[str, Health] = {}
        self._troubled_at: float | None = None
        #: clients, the most that were told of since all was well: who comes anew tells none
        self._crowd = 0
        #: whether names are asked past the cache: in a crowd a while after the trouble began
        self._asking = False
        self._first: asyncio.TimerHandle | None = None
        self._first_at = self._asked_at = -math.inf

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        for name in self._names:
            if literal(name, self._settings) is not None:
                continue  # see `literals`
            if self._resolver is None:
                self._resolver = resolvers.hold(self._settings)
            followed = _Followed(name)
            self._followed.append(followed)
            self._tasks.append(loop.create_task(self._follow(followed, self._resolver)))

    async def close(self) -> None:
        self._calm()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._resolver is not None:
            await self._resolver.close()

    def topology_changed(self, new: Topology) -> None:
        """Follow the topology into and out of trouble; addresses seen dead come last."""
        before = self._health
        self._health = {view.address: view.health for view in new.endpoints}
        for address, health in self._health.items():
            dead = health is Health.DEAD and before.get(address) is not Health.DEAD
            if dead and address and self._resolver is not None:
                self._resolver.report_dead(address)
        if new.calm and not (new.writer is not None and new.writer.retired):
            self._calm()
        elif self._troubled_at is None and any(
            # Nobody has answered yet, nor failed to: a name that was just resolved is fine.
            view.health is not Health.UNKNOWN
            for view in new.endpoints
        ):
            self._trouble()

    def _trouble(self) -> None:
        """From here on names are asked past the cache; all at once only if they are few."""
        self._troubled_at = time.monotonic()
        first_s = max(0.0, self._first_at - self._troubled_at)
        if not first_s:  # else it was calm for a moment: who draws again would come sooner
            asked_ago_s = self._troubled_at - self._asked_at
            first_s = dns_pace.first_s(self._count(), self._rng.random(), asked_ago_s)
            self._first_at = self._troubled_at + first_s
        if first_s:
            self._spare(first_s)
            self._first = asyncio.get_running_loop().call_later(first_s, self._ask)
        else:
            self._ask()

    def _count(self) -> int:
        self._crowd = max(self._crowd, self._clients())
        return self._crowd

    def _ask(self) -> None:
        self._asking = True
        for followed in self._followed:
            followed.wake.set()

    def _calm(self) -> None:
        if self._troubled_at is not None:
            self._troubled_at, self._asking = None, False
            self._crowd = self._clients() or self._crowd
            self._spare(0.0)
        if self._first is not None:
            self._first.cancel()
            self._first = None

    def _spare(self, least_s: float) -> None:
        """Refresh no name oftener than that, whatever its TTL; 0: as the TTLs say."""
        for followed in self._followed:
            for host, _ in followed.targets:
                if self._resolver is not None:
                    self._resolver.spare(host, "any", least_s)

    # -- one configured name

    async def _follow(self, followed: _Followed, resolver: SharedResolver) -> None:
        while True:
            followed.wake.clear()
            began_at = time.monotonic()
            try:
                pause_s = await self._look(followed, resolver)
            except Exception:
                said = {"name": followed.name.host, **self._labels()}
                logger.exception("%s", Line(event="name.failed", **said))
                pause_s = RETRY_S
            try:
                async with asyncio.timeout(self._pace(followed, resolver, pause_s, began_at)):
                    await followed.wake.wait()
            except TimeoutError:
                continue

    def _pace(
        self, followed: _Followed, resolver: SharedResolver, seconds: float, began_at: float
    ) -> float:
        """How long to sleep on an answer: while in trouble, as long as who gave it allows,
        from one question to the next."""
        now = time.monotonic()
        if self._troubled_at is None:
            return max(PAUSE_S, seconds)
        if not self._asking:  # the first question is yet to come, and wakes us
            return max(PAUSE_S, seconds, dns_pace.crowd_s(self._count()))
        clients, draw = self._count(), self._rng.random()
        heard = [resolver.heard(host, "any") for host, _ in followed.targets] or [None]
        troubled_s = now - self._troubled_at
        pause_s = min(dns_pace.pause_s(h, now, troubled_s, clients, draw) for h in heard)
        if pause_s > WATCHED_S:
            self._spare(2 * pause_s)
        return max(pause_s / 2, began_at + pause_s - now)

    async def _look(self, followed: _Followed, resolver: SharedResolver) -> float:
        """Resolve all there is to it; seconds until the first answer expires."""
        until = float("inf")
        failures = []
        if followed.service:
            try:
                until = await self._list_places(followed, resolver)
            except ResolutionError as exc:
                failures.append(exc)
        for place in followed.places:
            try:
                until = min(until, await self._resolve(followed, place, resolver))
            except ResolutionError as exc:
                failures.append(exc)
                if isinstance(exc, NameNotFound) and place in followed.targets:
                    self._forget_unheard(followed.targets[place])
        self._note(followed.name.host, failures)
        if failures and not self._health:
            # Nobody is known at all, as when a pool is opened before its name is there.
            self._troubled_at = self._troubled_at or time.monotonic()
            self._asking = True
        return RETRY_S if failures else until - time.monotonic()

    async def _list_places(self, followed: _Followed, resolver: SharedResolver) -> float:
        """The targets of a service, and until when that holds."""
        name = followed.name.host
        services = await resolver.resolve_srv(name, fresh=self._asking)
        places = tuple((service.host, service.port) for service in services)
        old, followed.places = followed.places, places
        if sorted(old) != sorted(places):
            was, now = (",".join(f"{h}:{p}" for h, p in sorted(each)) for each in (old, places))
            line = Line(event="name.service", name=name, old=was, new=now, **self._labels())
            logger.info("%s", line)
        for gone in set(old) - set(places):
            target = followed.targets.pop(gone, None)
            if target is not None:
                target.unwatch()
                self._apply(Resolved(target.key, (), reader=target.reader))
        return min(service.expires_at for service in services)

    def _target(self, followed: _Followed, place: Place, resolver: SharedResolver) -> _Target:
        target = followed.targets.get(place)
        if target is None:

            def changed(_: Change) -> None:
                followed.wake.set()

            host, port = place
            key = f"{followed.name.host}>{host}:{port}" if followed.service else f"{host}:{port}"
            unwatch = resolver.watch(host, changed, "any")
            target = _Target(key, unwatch, followed.name.reader)
            followed.targets[place] = target
        return target

    async def _resolve(self, followed: _Followed, place: Place, resolver: SharedResolver) -> float:
        """Take in the answer for one target; when it expires."""
        host, port = place
        target = self._target(followed, place, resolver)
        if self._asking:
            self._asked_at = time.monotonic()
        answer = await resolver.resolve(host, "any", fresh=self._asking, every_s=EVERY_S)
        last, target.answer = target.answer, answer
        if last is not None and _content(answer) == _content(last) and not _newer(answer, last):
            return answer.expires_at
        name = verified_name(followed.name.host, self._settings)
        names = (followed.name.host, host, *answer.chain)
        zone_of = self._settings.zones.zone_of
        answered = {
            Endpoint(name, address, port): zone_of(address, names) for address in answer.addresses
        }
        if last is None:
            found = {"chain": ">".join(answer.chain), "addresses": ",".join(answer.addresses)}
            line = Line(event="name.resolved", name=target.key, **found, **self._labels())
            logger.info("%s", line)
        self._take_in(target, answered, resolver.mode(host, "any") == "rotating")
        return answer.expires_at

    def _take_in(
        self, target: _Target, answered: dict[Endpoint, str | None], rotating: bool
    ) -> None:
        now = time.monotonic()
        if rotating and now < target.counted_until:  # asked past the cache, while in trouble
            if answered.keys() <= target.known.keys():
                return
            target.known |= answered
        else:
            target.known = answered
            ttl_s = target.answer.ttl_s if target.answer is not None else 0.0
            target.counted_until = now + ttl_s / 2
        self._tell(target, rotating)

    def _forget_unheard(self, target: _Target) -> None:
        """The name is gone: its endpoints stay as long as their own probes succeed."""
        heard = (Health.UP, Health.SUSPECT)
        gone = [e for e in target.known if self._health.get(e.address) not in heard]
        target.answer = None
        if gone:
            for endpoint in gone:
                del target.known[endpoint]
            dropped = ",".join(endpoint.place for endpoint in gone)
            line = Line(event="name.gone", name=target.key, dropped=dropped, **self._labels())
            logger.info("%s", line)
            self._tell(target, rotating=False)

    def _tell(self, target: _Target, rotating: bool) -> None:
        known = target.known
        zones = tuple(known.values())
        self._apply(Resolved(target.key, tuple(known), zones, rotating, target.reader))

    def _note(self, host: str, failures: list[ResolutionError]) -> None:
        if not failures:
            self.errors.pop(host, None)
            return
        text = "; ".join(str(exc) for exc in failures)
        if self.errors.get(host) != text:
            said = {"name": host, "reason": text, "fix": FIX, **self._labels()}
            logger.warning("%s", Line(event="name.failed", **said))
        self.errors[host] = text


def source_domain(host: str) -> str | None:
    """`example.org` of a service's name `_postgresql._tcp.example.org`; None for a host."""
    service, _, rest = host.partition(".")
    protocol, _, domain = rest.partition(".")
    if service.startswith("_") and protocol.lower() in ("_tcp", "_udp") and domain:
        return domain
    return None


def verified_name(host: str, settings: Settings) -> str:
    """The name that TLS verifies for a configured one: what `TLS_NAMES` says, else the name
    itself; for a service its domain (RFC 6125 section 6.2.1).  Never one learnt from DNS."""
    given = settings.tls_names.get(host.rstrip(".").lower())
    return given or source_domain(host) or host.removesuffix(".")


def literals(names: tuple[ConfiguredName, ...], settings: Settings) -> list[Resolved]:
    """What is known of the names without asking anybody."""
    events = []
    for name in names:
        fixed = literal(name, settings)
        if fixed is None and source_domain(name.host) is None:
            # Its place among the names is known, and whom it leads to in a moment.
            events.append(Resolved(f"{name.host}:{name.port}", (), reader=name.reader))
        if fixed is not None:
            zone = settings.zones.zone_of(fixed.address, (name.host,))
            event = Resolved(f"{name.host}:{name.port}", (fixed,), (zone,), reader=name.reader)
            events.append(event)
    return events


def literal(name: ConfiguredName, settings: Settings) -> Endpoint | None:
    """The endpoint of something that needs no DNS, None for a name that does."""
    verified = verified_name(name.host, settings)
    if name.hostaddr:
        return Endpoint(verified or name.hostaddr, name.hostaddr, name.port)
    if not name.host or name.host.startswith(("/", "@")):
        return Endpoint(name.host, "", name.port)
    address = address_of(name.host)
    if address is None:
        return None
    return Endpoint(verified, str(ipaddress.ip_address(address)), name.port)


def _content(answer: Answer) -> tuple[frozenset[str], tuple[str, ...]]:
    return frozenset(answer.addresses), answer.chain


def _newer(answer: Answer, last: Answer) -> bool:
    """Heard since, and not the same one from the cache: counts for `rotating` absences."""
    return not answer.stale and answer.expires_at > last.expires_at
