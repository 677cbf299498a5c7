"""Hosts and ports by SRV records (RFC 2782), such as `_postgresql._tcp.example.org`."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from resilient.core.dns import Absent, Failed, Found, Result
from resilient.core.dns_query import Question
from resilient.errors import NameNotFound

from .._dataclass import dataclass
from ._engine import Engine, draw
from ._fetch import Plan, Waits, fetch_records

__all__ = ["Service", "ServiceCache", "fetch_services"]


@dataclass(frozen=True, slots=True)
class Service:
    """One place where a service is offered; the lowest `priority` is tried first.

    `expires_at` is a point on the resolver's clock, as in `Answer`.
    """

    host: str
    port: int
    priority: int = 0
    weight: int = 0
    expires_at: float = 0.0


class ServiceCache:
    """SRV answers for their TTL; failures and absences aren't kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: OrderedDict[str, tuple[float, tuple[Service, ...]]] = OrderedDict()

    def plan(self, name: str) -> Plan | tuple[Service, ...]:
        """What is cached for `name`, drawn anew by weight, or how to ask for it."""
        plain = self._engine.key(name).removesuffix(".")
        until, services = self._kept.get(plain, (0.0, ()))
        if self._engine.clock() < until:
            return _drawn(services)
        config, started = self._engine.sources.configuration(), time.monotonic()
        return Plan(
            key=plain,
            family=4,
            names=(plain,),
            known={},
            config=config,
            policy=config.policy(started + config.deadline_s),
            hold_s=0.0,
            started=started,
            dated=self._engine.clock(),
        )

    def finish(self, plan: Plan, result: Result) -> tuple[Service, ...]:
        """Keep the answer and give it in the order to try; else the error."""
        self._engine.record(plan, result)
        if isinstance(result, Absent | Failed):
            raise self._engine.error(plan.key, result)
        limits = self._engine.cache.limits
        ttl_s = max(limits.floor_s, min(result.ttl_s, limits.ceiling_s))
        services = tuple(_parsed(result, self._engine.clock() + ttl_s))
        if not services:  # a target of "." says that the service isn't offered
            raise NameNotFound(f"{plan.key}: the service is not offered", name=plan.key)
        if limits.size:
            self._kept[plan.key] = (services[0].expires_at, services)
            self._kept.move_to_end(plan.key)
            if len(self._kept) > limits.size:
                self._kept.popitem(last=False)
        return _drawn(services)

    def invalidate(self, key: str) -> None:
        """Forget one name."""
        self._kept.pop(key.removesuffix("."), None)


def fetch_services(plan: Plan, engine: Engine) -> Waits[Result]:
    """Ask for the SRV records of `plan`'s name."""
    return fetch_records(Question(plan.key, "SRV"), plan, engine.health)


def _parsed(found: Found, expires_at: float) -> list[Service]:
    services = []
    for text in found.data:
        priority, weight, port, host = text.split(" ", 3)
        if host and int(port):
            services.append(Service(host, int(port), int(priority), int(weight), expires_at))
    return services


def _drawn(services: Sequence[Service]) -> tuple[Service, ...]:
    """By priority; within one, each next by weighted chance (RFC 2782, "Weight").  The key
    u^(1/w) draws without replacement in proportion to the weights; 0 has a small chance."""
    return tuple(
        sorted(services, key=lambda s: (s.priority, -(draw() ** (1 / (s.weight or 0.01)))))
    )
