"""One resolution over the wire, as a generator of waits that sync and async both drive.

A generator here yields the `Wait`s that it is waiting for, all at once, and is sent the
sockets that are ready (none: a time is over).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias, TypeVar

from resilient._parse import NameServer
from resilient.core.dns import Absent, Failed, Family, Found, Result, merge, restrict
from resilient.core.dns_cache import FAILURE_S
from resilient.core.dns_query import Ask, Outcome, Policy, Question, ServerHealth, question

from .._dataclass import dataclass
from ._sources import Configuration
from ._wire import Wait, exchange

__all__ = ["Early", "Fetched", "Plan", "Waits", "fetch", "fetch_records"]

T = TypeVar("T")
Waits: TypeAlias = Generator[tuple[Wait, ...], Collection[socket.socket], T]
#: told of one family's addresses while the other family is still being asked for
Early: TypeAlias = Callable[[Found], None]

#: how long the answer of one family waits for the other's, where somebody wants to connect
#: or AAAA has been silent before (RFC 8305 section 3)
RESOLUTION_DELAY_S = 0.05
_RDTYPES: dict[Family, str] = {4: "A", 6: "AAAA"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch, decided before the first packet.

    `names` are the candidates of the search list, `known` what needs no asking for one of
    two families, `hold_s` how long AAAA may delay an answer; `dated` is the injected clock.
    """

    key: str
    family: Family
    names: tuple[str, ...]
    known: Mapping[Family, Result]
    config: Configuration
    policy: Policy
    hold_s: float
    started: float
    dated: float
    networks: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome, and with family "any" that of each family (if one name decided it)."""

    result: Result
    parts: Mapping[Family, Result]


def fetch(plan: Plan, health: ServerHealth, early: Early | None = None) -> Waits[Fetched]:
    """Ask for the candidates in turn until one exists.  `early` is told of one family's
    addresses when they have waited for the other's for 50 ms.

    A candidate that *fails* ends the search: the next one might be another environment's
    host of the same name, and a failure proves no absence.  Only if the name as it was
    given is known to be absent, that stands.
    """
    given = plan.key.removesuffix(".")
    absents: dict[str, Absent] = {}
    parts: dict[Family, Result] = {}
    for name in plan.names:
        parts = yield from _families(name, plan, health, early)
        result = merge(parts[4], parts[6]) if plan.family == "any" else parts[plan.family]
        if isinstance(result, Failed) and given in absents:
            brief_s = min(FAILURE_S, absents[given].ttl_s)
            return Fetched(Absent(absents[given].exists, brief_s), {})
        if not isinstance(result, Absent):
            return Fetched(result, parts)
        absents[name] = result
    ttl_s = min(absent.ttl_s for absent in absents.values())
    absent = Absent(any(absent.exists for absent in absents.values()), ttl_s)
    return Fetched(absent, parts if len(absents) == 1 else {})


def fetch_records(asked: Question, plan: Plan, health: ServerHealth) -> Waits[Result]:
    """Ask for records of any type, such as SRV."""
    job = _carry_out(_machine(asked, plan, health), plan.config.servers)
    results = yield from _together({4: job}, plan, None)
    return results[4]


def _machine(
    asked: Question, plan: Plan, health: ServerHealth
) -> Generator[Ask, tuple[Outcome, float], Result]:
    return question(
        asked,
        plan.config.labels,
        health,
        plan.policy,
        now=time.monotonic(),
        dated=plan.dated,
        rotate=plan.config.rotate,
    )


def _families(
    name: str, plan: Plan, health: ServerHealth, early: Early | None
) -> Waits[dict[Family, Result]]:
    wanted: tuple[Family, ...] = (4, 6) if plan.family == "any" else (plan.family,)
    jobs = {
        family: _carry_out(_machine(Question(name, _RDTYPES[family]), plan, health), servers)
        for servers in (plan.config.servers,)
        for family in wanted
        if family not in plan.known
    }
    results = yield from _together(jobs, plan, early)
    return {
        family: restrict(result, plan.networks) if isinstance(result, Found) else result
        for family, result in results.items()
    }


_Job: TypeAlias = Generator[Wait, bool, Result]


def _carry_out(
    machine: Generator[Ask, tuple[Outcome, float], Result], servers: tuple[NameServer, ...]
) -> _Job:
    try:
        ask = next(machine)
        while True:
            outcome = yield from exchange(ask, servers[ask.server])
            ask = machine.send((outcome, time.monotonic()))
    except StopIteration as stop:
        result: Result = stop.value
        return result


def _together(
    jobs: Mapping[Family, _Job], plan: Plan, early: Early | None
) -> Waits[dict[Family, Result]]:
    """Run the questions at the same time; a silent AAAA doesn't hold back the others."""
    results: dict[Family, Result] = dict(plan.known)
    waits: dict[Family, Wait] = {}
    begun = time.monotonic()
    limit = early_at = float("inf")
    try:
        for family, job in jobs.items():
            _advance(family, job, None, waits, results)
        while waits:
            now = time.monotonic()
            if limit == float("inf") and _final(results.get(4)):
                limit = max(begun + plan.hold_s, now + RESOLUTION_DELAY_S)
            if 6 in waits and limit < waits[6].until:
                waits[6] = replace(waits[6], until=limit)
            if early is not None and now >= early_at:
                _tell(early, results, plan)
                early, early_at = None, float("inf")
            elif early is not None and early_at == float("inf") and _found(results):
                early_at = now + RESOLUTION_DELAY_S
            ready = yield tuple(
                wait if wait.until <= early_at else replace(wait, until=early_at)
                for wait in waits.values()
            )
            now = time.monotonic()
            if 6 in waits and now >= limit and waits[6].sock not in ready:
                del waits[6]
                results[6] = Failed(timeout=True, reason="AAAA: no answer")
            for family, wait in tuple(waits.items()):
                if wait.sock in ready or now >= wait.until:
                    _advance(family, jobs[family], wait.sock in ready, waits, results)
    finally:
        for job in jobs.values():
            job.close()
    return results


def _found(results: Mapping[Family, Result]) -> Found | None:
    return next((found for found in results.values() if isinstance(found, Found)), None)


def _tell(early: Early, results: Mapping[Family, Result], plan: Plan) -> None:
    found = _found(results)
    allowed = None if found is None else restrict(found, plan.networks)
    if isinstance(allowed, Found):
        early(allowed)


def _final(result: Result | None) -> bool:
    return isinstance(result, Found) or (isinstance(result, Absent) and not result.exists)


def _advance(
    family: Family,
    job: _Job,
    ready: bool | None,
    waits: dict[Family, Wait],
    results: dict[Family, Result],
) -> None:
    try:
        waits[family] = next(job) if ready is None else job.send(ready)
    except StopIteration as stop:
        waits.pop(family, None)
        results[family] = stop.value
