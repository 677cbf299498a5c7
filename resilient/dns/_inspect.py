"""One look at a name, past every cache of ours: what `resilient doctor` reports of it."""

from __future__ import annotations

import time
from dataclasses import replace

from resilient.core.dns import Absent, Failed, Family, Found, Reply, Result, wire_ttl
from resilient.core.dns_names import candidates
from resilient.core.dns_query import Ask, Outcome, Policy, Question, question
from resilient.settings import Settings

from .._dataclass import dataclass
from ._drive import drive
from ._engine import Engine
from ._fetch import Waits, carry_out
from ._sources import Configuration

__all__ = ["Inspection", "Link", "inspect"]

_RDTYPES: dict[Family, str] = {4: "A", 6: "AAAA"}


@dataclass(frozen=True, slots=True)
class Link:
    """One record set on the way from the name to its addresses.  `ttl_s` as it was sent."""

    name: str
    rdtype: str
    ttl_s: float
    data: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a name means now, and who says so.

    `source` is `server`, `hosts` (the hosts file), `localhost` or `literal`; the fields from
    `server` on belong to the first.  `ttl_s` is the least TTL of the chain as it was sent,
    `kept_s` for how long a resolver with these settings keeps it (floor and ceiling).
    `authoritative`: the server owns the zone; otherwise the answer is `cached` by it, and its
    TTLs count down from what the zone says.
    """

    name: str
    canonical_name: str
    chain: tuple[Link, ...]
    addresses: tuple[str, ...]
    ttl_s: float
    kept_s: float
    took_s: float
    source: str
    server: str = ""
    authoritative: bool = False

    @property
    def cached(self) -> bool:
        """The server answered from memory."""
        return self.source == "server" and not self.authoritative


def inspect(name: str, settings: Settings | None = None, family: Family = 4) -> Inspection:
    """Resolve `name` once, asking a server even if the answer were cached.

    Blocks up to `DNS_DEADLINE_S`.  `settings`: the environment's unless given.  `family` "any"
    means IPv4 and, where there is none, IPv6.
    Raises as `Resolver.resolve` does.
    """
    engine = Engine(settings, time.monotonic, "/etc/hosts", "/etc/resolv.conf")
    begun = time.monotonic()
    local = _local(engine, name, family, begun)
    if local is not None:
        return local
    config, key = engine.sources.configuration(), engine.key(name)
    names = candidates(key.removesuffix("."), key.endswith("."), config.search, config.ndots)
    policy = config.policy(begun + config.deadline_s)
    absent = Absent(exists=False, ttl_s=0)
    for each in names:
        for rdtype in ("A", "AAAA") if family == "any" else (_RDTYPES[family],):
            asked = Question(each, rdtype)
            result, heard = drive(_listen(asked, config, engine, policy))
            if isinstance(result, Found):
                told = _told(key, rdtype, result, heard, engine)
                return replace(told, took_s=time.monotonic() - begun)
            if isinstance(result, Failed):
                raise engine.error(name, result)
            absent = result
    raise engine.error(name, absent)


def _local(engine: Engine, name: str, family: Family, begun: float) -> Inspection | None:
    answer = engine.local(name, family)
    if answer is None:
        return None
    plain = engine.key(name).removesuffix(".")
    source = "hosts"
    if answer.addresses == (plain,):
        source = "literal"
    elif plain not in engine.sources.hosts().addresses:
        source = "localhost"
    took_s = time.monotonic() - begun
    chain = (Link(answer.canonical_name, "", answer.ttl_s, answer.addresses),)
    return Inspection(
        plain,
        answer.canonical_name,
        chain,
        answer.addresses,
        answer.ttl_s,
        answer.ttl_s,
        took_s,
        source,
    )


Heard = list[tuple[int, Reply]]


def _listen(
    asked: Question, config: Configuration, engine: Engine, policy: Policy
) -> Waits[tuple[Result, Heard]]:
    """Ask, and keep every reply with the index of its server."""
    heard: Heard = []

    def hear(ask: Ask, outcome: Outcome) -> None:
        if isinstance(outcome, Reply) and not outcome.truncated:
            heard.append((ask.server, outcome))

    machine = question(
        asked, config.labels, engine.health, policy, now=time.monotonic(), dated=engine.clock()
    )
    return (yield from carry_out(machine, config.servers, hear)), heard


def _told(name: str, rdtype: str, found: Found, heard: Heard, engine: Engine) -> Inspection:
    chain: list[Link] = []
    index, last = heard[-1]
    for owner in found.chain:
        for _, reply in reversed(heard):  # the latest reply that speaks of it
            at = [r for r in reply.records if r.owner == owner]
            kind = rdtype if any(r.rdtype == rdtype for r in at) else "CNAME"
            records = [r for r in at if r.rdtype == kind]
            if records:
                ttl_s = float(min(wire_ttl(r.ttl) for r in records))
                chain.append(Link(owner, kind, ttl_s, tuple(r.data for r in records)))
                break
    limits = engine.cache.limits
    return Inspection(
        name=name.removesuffix("."),
        canonical_name=found.chain[-1],
        chain=tuple(chain),
        addresses=found.data,
        ttl_s=float(found.ttl_s),
        kept_s=float(max(limits.floor_s, min(found.ttl_s, limits.ceiling_s))),
        took_s=0.0,
        source="server",
        server=engine.sources.configuration().labels[index],
        authoritative=last.authoritative,
    )
