"""One resolution over the wire, as a generator of waits that sync and async both drive.

A generator here yields the `Wait`s that it is waiting for, all at once, and is sent the
sockets that are ready (none: a time is over).
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias, TypeVar

from resilient._parse import NameServer
from resilient.core.dns import Absent, Failed, Family, Found, Result, merge, restrict
from resilient.core.dns_cache import FAILURE_S
from resilient.core.dns_query import (
    Ask,
    Heard,
    Malformed,
    News,
    Outcome,
    Policy,
    Question,
    ServerHealth,
    Turn,
    question,
)

from .._dataclass import dataclass
from ._sources import Configuration
from ._wire import Wait, exchange

__all__ = ["Early", "Fetched", "Plan", "Waits", "carry_out", "fetch", "fetch_records"]

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

    As glibc does: a candidate that ends in SERVFAIL is passed over, one that fails otherwise
    ends the search, except for the name as it was given.  If that is known to be absent, it
    stands, for a moment; else a failure proves no absence.
    """
    given = plan.key.removesuffix(".")
    absents: dict[str, Absent] = {}
    failed: Failed | None = None
    parts: dict[Family, Result] = {}
    for name in plan.names:
        if failed is not None and not failed.servfail and name != given:
            continue
        policy = _share(plan, name)
        parts = yield from _families(name, replace(plan, policy=policy), health, early)
        result = merge(parts[4], parts[6]) if plan.family == "any" else parts[plan.family]
        if isinstance(result, Found):
            return Fetched(result, parts)
        if isinstance(result, Failed):
            failed = result
        else:
            absents[name] = result
    if failed is not None:
        if given in absents:
            brief_s = min(FAILURE_S, absents[given].ttl_s)
            return Fetched(Absent(absents[given].exists, brief_s), {})
        return Fetched(failed, parts if len(plan.names) == 1 else {})
    ttl_s = min(absent.ttl_s for absent in absents.values())
    absent = Absent(any(absent.exists for absent in absents.values()), ttl_s)
    return Fetched(absent, parts if len(absents) == 1 else {})


def _share(plan: Plan, name: str) -> Policy:
    """A candidate's part of the time: one that is silent leaves some for the given name."""
    if name == plan.names[-1]:
        return plan.policy
    left_s = plan.policy.deadline - time.monotonic()
    reserve_s = min(left_s / 2, 1.5 * plan.policy.timeout_s)
    return replace(plan.policy, deadline=plan.policy.deadline - reserve_s)


def fetch_records(asked: Question, plan: Plan, health: ServerHealth) -> Waits[Result]:
    """Ask for records of any type, such as SRV."""
    return (yield from carry_out(_machine(asked, plan, health), plan.config.servers))


def _machine(asked: Question, plan: Plan, health: ServerHealth) -> Generator[Turn, News, Result]:
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
    known = dict(plan.known)
    if plan.config.no_aaaa and 6 in wanted:
        known[6] = Absent(exists=True, ttl_s=plan.config.timeout_s)
    jobs: dict[Family, _Job] = {
        family: carry_out(
            _machine(Question(name, _RDTYPES[family]), plan, health), plan.config.servers
        )
        for family in wanted
        if family not in known
    }
    # `single-request`: there are servers and firewalls that lose the second of two at once.
    batches = [{f: job} for f, job in jobs.items()] if plan.config.single_request else [jobs]
    try:
        for batch in batches:
            known = yield from _together(batch, replace(plan, known=known), early)
    finally:
        for job in jobs.values():
            job.close()
    return {
        family: restrict(result, plan.networks) if isinstance(result, Found) else result
        for family, result in known.items()
    }


_Job: TypeAlias = Waits[Result]


class _Talk:
    """One ask under way: its exchange, and what that waits for."""

    __slots__ = ("ask", "exchange", "noisy", "wait")

    def __init__(self, ask: Ask, server: NameServer) -> None:
        self.ask = ask
        self.exchange = exchange(ask, server)
        self.wait: Wait | None = None
        self.noisy = False

    def advance(self, ready: bool | None) -> Outcome | None:
        """What was heard, if anything; `wait` is None once it is over."""
        try:
            self.wait = next(self.exchange) if ready is None else self.exchange.send(ready)
        except StopIteration as stop:
            self.wait = None
            outcome: Outcome = stop.value
            return outcome
        if self.wait.noise and not self.noisy:
            self.noisy = True
            return Malformed()
        return None


def carry_out(
    machine: Generator[Turn, News, Result],
    servers: tuple[NameServer, ...],
    hear: Callable[[Ask, Outcome], None] | None = None,
) -> _Job:
    """Do what `question` says.  `hear` is told of everything that was heard."""
    talks: list[_Talk] = []
    heard: deque[Heard] = deque()

    def advance(talk: _Talk, ready: bool | None) -> None:
        outcome = talk.advance(ready)
        if outcome is not None:
            heard.append((talk.ask, outcome))
        if talk.wait is None and talk in talks:
            talks.remove(talk)

    try:
        turn = next(machine)
        while True:
            for ask in turn.asks:
                talks.append(_Talk(ask, servers[ask.server]))
                advance(talks[-1], None)
            yield from _listen(talks, turn.until, heard, advance)
            if heard and hear is not None:
                hear(*heard[0])
            turn = machine.send((heard.popleft() if heard else None, time.monotonic()))
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        for talk in talks:
            talk.exchange.close()


def _listen(
    talks: list[_Talk],
    until: float,
    heard: Collection[Heard],
    advance: Callable[[_Talk, bool], None],
) -> Waits[None]:
    """Until one of them has said something, or the time is over."""
    while not heard and time.monotonic() < until:
        waits = [(talk, talk.wait) for talk in talks if talk.wait is not None]
        ready = yield tuple(
            wait if wait.until <= until else replace(wait, until=until) for _, wait in waits
        )
        now = time.monotonic()
        for talk, wait in waits:
            if wait.sock in ready or now >= wait.until:
                advance(talk, wait.sock in ready)


def _together(
    jobs: Mapping[Family, _Job], plan: Plan, early: Early | None
) -> Waits[dict[Family, Result]]:
    """Run the questions at the same time; a silent AAAA doesn't hold back the others."""
    results: dict[Family, Result] = dict(plan.known)
    waits: dict[Family, tuple[Wait, ...]] = {}
    begun = time.monotonic()
    limit = early_at = float("inf")
    for family, job in jobs.items():
        _advance(family, job, None, waits, results)
    while waits:
        now = time.monotonic()
        if limit == float("inf") and _final(results.get(4)):
            limit = max(begun + plan.hold_s, now + RESOLUTION_DELAY_S)
        if early is not None and now >= early_at:
            _tell(early, results, plan)
            early, early_at = None, float("inf")
        elif early is not None and early_at == float("inf") and _found(results):
            early_at = now + RESOLUTION_DELAY_S
        soon = min(early_at, limit if 6 in waits else float("inf"))
        ready = yield tuple(
            wait if wait.until <= soon else replace(wait, until=soon)
            for wanted in waits.values()
            for wait in wanted
        )
        now = time.monotonic()
        for family, wanted in tuple(waits.items()):
            mine = [wait.sock for wait in wanted if wait.sock in ready]
            if not mine and family == 6 and now >= limit:
                del waits[6]
                results[6] = Failed(timeout=True, reason="AAAA: no answer")
            elif mine or now >= min(wait.until for wait in wanted):
                _advance(family, jobs[family], mine, waits, results)
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
    ready: Collection[socket.socket] | None,
    waits: dict[Family, tuple[Wait, ...]],
    results: dict[Family, Result],
) -> None:
    try:
        waits[family] = next(job) if ready is None else job.send(ready)
    except StopIteration as stop:
        waits.pop(family, None)
        results[family] = stop.value
