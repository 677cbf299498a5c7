"""What both resolvers share: everything but waiting and locking.

`begin` says whether a question must go out (a `Plan`) or not, `finish` takes in what came
back.  `Resolver` calls these under its lock, `AsyncResolver` on its loop.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from typing import TypeAlias

from resilient._logs import Line
from resilient.core.dns import (
    PARTIAL_S,
    Absent,
    Answer,
    Change,
    Failed,
    Family,
    Found,
    Mode,
    Result,
    merge,
)
from resilient.core.dns_cache import Cache, CacheLimits, Known, Slot
from resilient.core.dns_change import BypassLimiter, Detector
from resilient.core.dns_names import address_of, candidates, is_localhost, normalise
from resilient.core.dns_query import ServerHealth
from resilient.core.dns_select import rank
from resilient.errors import NameNotFound, NameServersFailed, NameTimeout, ResolutionError
from resilient.settings import Settings, from_environment

from ._fetch import Early, Fetched, Plan, Waits, fetch
from ._otel import record_lookup
from ._sources import Sources
from ._system import SystemLookups
from ._watchers import WATCH_FLOOR_S, Callback, Watched, log_change, notify

__all__ = ["Callback", "Engine", "Key", "notify"]

logger = logging.getLogger("resilient.dns")

Key: TypeAlias = tuple[str, Family]
Changes: TypeAlias = list[tuple[Key, Change]]

#: how long a request waits for servers when an expired answer could stand in, in seconds
#: (the client response timer of RFC 8767 section 5), but at least for two servers
STALE_PATIENCE_S = 1.8
#: an address seen dead is last choice for so long
DEAD_S = 30.0
_FAMILIES: tuple[Family, ...] = (4, 6, "any")

# Of our own, so that nobody who seeds or watches the global one meets us there.
_rng = random.Random()
os.register_at_fork(after_in_child=_rng.seed)
#: a number from [0, 1)
draw = _rng.random


class Engine:
    """One resolver's memory and rules."""

    def __init__(
        self,
        settings: Settings | None,
        clock: Callable[[], float],
        hosts_path: str,
        resolv_conf_path: str,
    ) -> None:
        self.settings = settings = settings if settings is not None else from_environment()
        self.clock = clock
        limits = CacheLimits(
            size=settings.dns_cache_size,
            floor_s=settings.dns_ttl_floor_s,
            ceiling_s=settings.dns_ttl_ceiling_s,
            negative_ceiling_s=settings.dns_negative_ceiling_s,
            stale_s=settings.dns_stale_s,
            refresh_ahead=settings.dns_refresh_ahead,
        )
        self.sources = Sources(settings, hosts_path, resolv_conf_path)
        self.cache = Cache(limits, draw, lambda text: rank(text, self.sources.reach()))
        self.health = ServerHealth()
        self._system = SystemLookups() if settings.dns == "system" else None
        self.limiter = BypassLimiter()
        self.watched = Watched()
        self._detector = Detector(
            settings.dns_mode, settings.dns_cache_size, self.watched.__contains__
        )
        self._networks = tuple(ip_network(text) for text in settings.dns_allowed_networks)

    # -- names that need no asking

    def key(self, name: str) -> str:
        """The name under which `name` is cached.  `NameNotFound` if it can't be one."""
        address = address_of(name)
        if address is not None:
            return address
        try:
            plain = normalise(name)
        except ValueError as exc:
            raise NameNotFound(str(exc), name=name) from None
        # Only where there is a search list does the final dot make another question.
        dotted = name.endswith(".") and self.sources.configuration().search
        return f"{plain}." if dotted else plain

    def local(self, name: str, family: Family) -> Answer | None:
        """A literal's, localhost's or the hosts file's answer; None: ask on."""
        if family not in _FAMILIES:
            raise ValueError(f"family={family!r}: accepted are 4, 6 and 'any'")
        address = address_of(name)
        if address is not None:
            endless = float("inf")
            return self._of_family(name, family, (address,), (address,), endless)
        plain = self.key(name).removesuffix(".")
        if self._system is not None:
            return None  # it reads the hosts file itself, as nsswitch.conf says
        ttl_s = self.settings.dns_ttl_ceiling_s
        hosts = self.sources.hosts()
        listed = hosts.addresses.get(plain)
        if listed is not None:
            chain = tuple(dict.fromkeys((plain, hosts.canonical[plain])))
            with suppress(NameNotFound):  # a family that the file lacks is left to the servers
                return self._of_family(name, family, listed, chain, ttl_s)
        if is_localhost(plain):
            return self._of_family(name, family, ("127.0.0.1", "::1"), (plain,), ttl_s)
        return None

    def _of_family(
        self,
        name: str,
        family: Family,
        addresses: tuple[str, ...],
        chain: tuple[str, ...],
        ttl_s: float,
    ) -> Answer:
        fit = tuple(a for a in addresses if family == "any" or (":" in a) == (family == 6))
        if not fit:
            raise NameNotFound(f"{name}: no address of family {family}", name=name)
        dead = self.cache.dead(self.clock())
        ordered = tuple(sorted(fit, key=dead.__contains__))
        return Answer(ordered, chain[-1], chain, ttl_s, self.clock() + ttl_s)

    # -- names that may be asked

    def begin(
        self, key: Key, *, fresh: bool = False, every_s: float | None = None
    ) -> Known | float | None:
        """What is known of `key`; None: ask; a number: ask in so many seconds.

        `fresh` goes around what is cached.  An absence or a failure would end the caller's
        work, so that whoever is left with one asks again, whatever an SOA says.  Neither
        happens more often than the limiter allows, over all callers; `every_s` is that of a
        caller who has reckoned with who answers (`core.dns_pace`).
        """
        now = self.clock()
        known = self.cache.known(*key, now)
        useful = isinstance(known, Slot)
        limited = 0.0
        if fresh or (known is not None and not useful):
            # That a name isn't there may have been heard with another family's question.
            whole = isinstance(known, Absent) and not known.exists and not fresh
            keys: list[Key] = [(key[0], each) for each in _FAMILIES] if whole else [key]
            asked_at = time.monotonic()
            limited = max(self.limiter.wait_s(each, asked_at, every_s) for each in keys)
            if not limited:
                return None
        if useful:
            self.cache.touch(*key, now)
        return limited if known is None and limited else known

    def plan(self, key: Key, *, background: bool = False, fresh: bool = False) -> Plan:
        """Decide on a question that is about to go out."""
        name, family = key
        now, started = self.clock(), time.monotonic()
        self.limiter.note(key, started)
        config = self.sources.configuration()
        patience_s = config.deadline_s
        # A refresh is bounded like that too: callers may be joining it when the old answer
        # expires.  The servers it didn't reach come first next time.
        if background or self.cache.has_stale(name, family, now):
            patience_s = min(patience_s, max(STALE_PATIENCE_S, 2 * config.timeout_s))
        names = candidates(name.removesuffix("."), name.endswith("."), config.search, config.ndots)
        anew = background or fresh or len(names) > 1 or self._system is not None
        known = {} if anew else self._known_parts(name, family)
        silent_before = not background and self.cache.timed_out_before(name, 6)
        return Plan(
            key=name,
            family=family,
            names=names,
            known=known,
            config=config,
            policy=config.policy(started + patience_s),
            hold_s=0.0 if silent_before else config.timeout_s,
            started=started,
            dated=now,
            networks=self._networks,
        )

    def fetch(self, plan: Plan, early: Early | None = None) -> Waits[Fetched]:
        """Ask for it; `early` as in `_fetch.fetch`.  Whatever happens, there is an outcome for
        those who wait, and a watch goes on."""
        try:
            if self._system is not None:
                return (yield from self._system.fetch(plan))
            return (yield from fetch(plan, self.health, early))
        except Exception as exc:
            logger.exception("%s", Line(event="dns.failed", name=str(plan.key)))
            return Fetched(Failed(timeout=False, reason=f"{type(exc).__name__}: {exc}"), {})

    def _known_parts(self, name: str, family: Family) -> dict[Family, Result]:
        """With family "any": what the cache knows of one family alone."""
        parts: dict[Family, Result] = {}
        if family != "any":
            return parts
        now = self.clock()
        for each in _FAMILIES[:2]:
            known = self.cache.known(name, each, now)
            if isinstance(known, Slot):
                answer = known.answers[0]
                left_s = answer.expires_at - now
                # Below the floor, storing it once more would make it live longer.
                if not answer.stale and left_s >= self.cache.limits.floor_s:
                    parts[each] = Found(answer.chain, answer.addresses, left_s)
            elif known is not None:
                parts[each] = known
        # Without an address from the one, the other's absence is asked about again.
        return parts if any(isinstance(part, Found) for part in parts.values()) else {}

    def finish(self, plan: Plan, fetched: Fetched) -> tuple[Known, Changes]:
        """Take in an outcome: what to serve for it, and what it changes."""
        now = self.clock()
        changes: Changes = []
        for family, part in fetched.parts.items():
            if family != plan.family and family not in plan.known:
                alone = part
                if isinstance(part, Absent) and isinstance(fetched.result, Found):
                    alone = Absent(exists=True, ttl_s=part.ttl_s)  # the name is there
                self._store((plan.key, family), alone, now, changes)
        key = (plan.key, plan.family)
        result, older = self._completed(plan.key, fetched, now)
        known = self._store(key, result, now, changes, asked=True)
        if older is not None and isinstance(known, Slot):
            known.stale_from = older.stale_from
            if older.answers[0].stale:
                known.answers = tuple(replace(answer, stale=True) for answer in known.answers)
        if isinstance(known, Failed):
            # What is still live, or stale, is better than nothing (RFC 8767).
            known = self.cache.known(*key, now) or known
        if self._system is None:  # which tells no TTL
            self.watched.take_in(key, fetched.result, now)
        self.record(plan, fetched.result)
        return known, changes

    def early(self, found: Found) -> Answer:
        """What one family gave, for those who can't wait for the other; it isn't kept."""
        limits, now = self.cache.limits, self.clock()
        ttl_s = float(max(limits.floor_s, min(found.ttl_s, limits.ceiling_s)))
        dead = self.cache.dead(now)
        addresses = tuple(sorted(found.data, key=dead.__contains__))
        return Answer(addresses, found.chain[-1], found.chain, ttl_s, now + ttl_s)

    def _completed(self, name: str, fetched: Fetched, now: float) -> tuple[Result, Slot | None]:
        """An answer of one family, with what is remembered of the one that *failed*, and the
        slot that this is from.  Else a lost packet would look like a change of addresses."""
        failed: list[Family] = [
            family for family, part in fetched.parts.items() if isinstance(part, Failed)
        ]
        if len(failed) != 1 or not isinstance(fetched.result, Found) or len(fetched.parts) != 2:
            return fetched.result, None
        slot = self.cache.known(name, failed[0], now)
        if (
            not isinstance(slot, Slot)
            or now + PARTIAL_S > slot.stale_from + self.settings.dns_stale_s
        ):
            return fetched.result, None
        kept = slot.answers[0]
        if kept.canonical_name != fetched.result.chain[-1]:
            return fetched.result, None  # the alias has moved: what was behind it is history
        parts = {**fetched.parts, failed[0]: Found(kept.chain, kept.addresses, PARTIAL_S)}
        return merge(parts[4], parts[6]), slot

    def _store(
        self, key: Key, result: Result, now: float, changes: Changes, asked: bool = False
    ) -> Known:
        known: Known
        if isinstance(result, Found):
            known = self.cache.store_found(*key, result, now)
            if asked or key in self.watched:  # else one change would be told three times
                changes += self.observe(key, known.answers[0], now)
            again = min(known.refresh_at, known.until)
        elif isinstance(result, Absent):
            known = result
            self.cache.store_absent(*key, result, now)
            again = now + min(result.ttl_s, self.settings.dns_negative_ceiling_s)
        else:
            known = result
            again = self.cache.store_failed(*key, result, now)
        if key in self.watched:
            some = isinstance(known, Slot) or isinstance(self.cache.known(*key, now), Slot)
            self.cache.schedule(*key, self.watched.refresh_at(key, some, again, now))
        return known

    def record(self, plan: Plan, result: Result) -> None:
        """Measure a lookup that went out."""
        error = None
        if not isinstance(result, Found):
            error = type(self.error(plan.key, result)).__name__
        record_lookup(plan.key, time.monotonic() - plan.started, error)

    def serve(self, name: str, known: Known) -> Answer:
        """The answer, or the error that says why there is none."""
        if isinstance(known, Slot):
            return known.take()
        raise self.error(name, known)

    def error(self, name: str, why: Absent | Failed) -> ResolutionError:
        """A new exception for each caller, so that tracebacks don't mix."""
        if isinstance(why, Absent):
            what = "no address of this family" if why.exists else "no such name"
            return NameNotFound(f"{name}: {what}", name=name)
        kind = NameTimeout if why.timeout else NameServersFailed
        return kind(f"{name}: {why.reason}", name=name)

    # -- changes

    def observe(self, key: Key, answer: Answer, now: float) -> Changes:
        """Compare with what the name answered before; a change is logged."""
        change = self._detector.observe(*key, answer, self.cache.dead(self.clock()))
        if change is None or change.old is None:
            return []
        log_change(key[1], change)
        return [(key, change)]

    def calls(self, changes: Changes) -> list[tuple[Callback, Change]]:
        """Whom to tell: the watchers of the name and family that changed."""
        return self.watched.calls(changes)

    def mode(self, name: str, family: Family) -> Mode:
        """How changes of `name` are read, as its answers so far or the settings have it."""
        return self._detector.mode(self.key(name), family)

    def watch(self, key: Key, callback: Callback) -> None:
        """Tell `callback` of changes from now on; the name is refreshed without being used."""
        self.watched.add(key, callback)
        if address_of(key[0]) is None:
            self.cache.schedule(*key, self.clock())

    def unwatch(self, key: Key, callback: Callback) -> None:
        """The end of `watch`; once too often does no harm."""
        if self.watched.remove(key, callback):
            self.cache.unschedule(*key)

    def refresh(self, key: Key) -> tuple[Plan | None, Changes]:
        """A name off the schedule: how to ask for it, or what the hosts file changed."""
        name, family = key
        try:
            answer = self.local(name, family)
            if answer is None:
                return self.plan(key, background=True), []
        except Exception:
            logger.exception("%s", Line(event="dns.failed", name=name))
            self.cache.schedule(name, family, self.clock() + WATCH_FLOOR_S)
            return None, []
        now = self.clock()
        self.cache.schedule(name, family, now + max(WATCH_FLOOR_S, min(5.0, answer.ttl_s)))
        return None, self.observe(key, answer, now)

    def forget(self) -> None:
        """The resolver is closed: nothing is known or watched any more."""
        self.watched.clear()
        self.cache.clear()

    def report_dead(self, address: str) -> None:
        """An address just seen dead comes last while another exists."""
        self.cache.report_dead(address, self.clock(), DEAD_S)
