"""Every scenario of `dns.yaml`, on both resolvers, over real sockets with a fake clock."""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from dns_lab import FakeClock, Lab

from resilient.dns import Answer, AsyncResolver, Resolver
from resilient.errors import NameNotFound, NameServersFailed, NameTimeout

HERE = Path(__file__).parent
SCENARIOS = [
    scenario
    for file in sorted(HERE.glob("dns*.yaml"))
    for scenario in yaml.safe_load(file.read_text())["scenarios"]
]
ERRORS = {"notfound": NameNotFound, "temporary": NameServersFailed, "timeout": NameTimeout}
OPTIONS = {
    "min_ttl": "dns_ttl_floor_s",
    "max_ttl": "dns_ttl_ceiling_s",
    "neg_ttl_max": "dns_negative_ceiling_s",
    "serve_stale_s": "dns_stale_s",
    "rotate": "dns_rotate",
    "timeout_s": "dns_timeout_s",
    "tries": "dns_tries",
    "deadline_s": "dns_deadline_s",
    "search": "dns_search",
    "ndots": "dns_ndots",
    "size": "dns_cache_size",
}
Outcome = Answer | BaseException


class SyncShell:
    """Runs lookups on `Resolver`, callers as threads."""

    def __init__(self, settings: Any, clock: FakeClock) -> None:
        self.resolver = Resolver(settings, clock, hosts_path="", resolv_conf_path="")

    def many(self, name: str, family: Any, n: int) -> list[Outcome]:
        def one(_: int) -> Outcome:
            try:
                return self.resolver.resolve(name, family)
            except OSError as exc:
                return exc

        with ThreadPoolExecutor(n) as pool:
            return list(pool.map(one, range(n)))

    def second_of_two(self, name: str) -> Outcome:
        # A thread can't be cancelled: its caller stops waiting.
        return self.many(name, 4, 2)[1]

    def close(self) -> None:
        self.resolver.close()


class AsyncShell:
    """Runs lookups on `AsyncResolver`, callers as tasks."""

    def __init__(self, settings: Any, clock: FakeClock) -> None:
        self.runner = asyncio.Runner()
        self.resolver = AsyncResolver(settings, clock, hosts_path="", resolv_conf_path="")

    def many(self, name: str, family: Any, n: int) -> list[Outcome]:
        async def run() -> list[Outcome]:
            calls = (self.resolver.resolve(name, family) for _ in range(n))
            return await asyncio.gather(*calls, return_exceptions=True)

        return self.runner.run(run())

    def second_of_two(self, name: str) -> Outcome:
        async def run() -> Outcome:
            first = asyncio.create_task(self.resolver.resolve(name))
            second = asyncio.create_task(self.resolver.resolve(name))
            await asyncio.sleep(0.05)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return await second

        return self.runner.run(run())

    def close(self) -> None:
        self.runner.run(self.resolver.close())
        self.runner.close()


def _settings(lab: Lab, options: dict[str, Any]) -> Any:
    given = {OPTIONS[key]: value for key, value in options.items() if key != "cache"}
    if options.get("cache", True) is False:
        given["dns_cache_size"] = 0
    return lab.settings(**given)


class Run:
    """One scenario on one shell: what was asked and heard since the last expectation."""

    def __init__(self, lab: Lab, shell: Any, clock: FakeClock) -> None:
        self.lab, self.shell, self.clock = lab, shell, clock
        self.started = clock.now
        self.before = lab.counts
        self.outcomes: list[Outcome] = []
        self.firsts: set[str] = set()
        self.took = 0.0

    def step(self, step: dict[str, Any]) -> None:
        if "at" in step:
            self.clock.now = self.started + step["at"]
        if "lookup" in step:
            self._mark()
            begun = time.monotonic()
            name, family, n = step["lookup"], step.get("family", 4), step.get("n", 1)
            self.outcomes = self.shell.many(name, family, n)
            self.took = time.monotonic() - begun
        if "do" in step:
            self._mark()
            self.do(step["do"])
        self.check(step.get("expect", {}))

    def _mark(self) -> None:
        self.before = self.lab.counts

    def do(self, what: str) -> None:
        if cleared := re.fullmatch(r"clear (\S+)", what):
            self.shell.resolver.invalidate(cleared[1])
        elif two := re.match(r"two lookups of (\S+) at once", what):
            self.outcomes = [self.shell.second_of_two(two[1])]
        elif picked := re.match(r"pick the first address of (\d+) lookups", what):
            name = self.lab.servers[0].queries[-1][0]
            outcomes = [self.shell.many(name, 4, 1)[0] for _ in range(int(picked[1]))]
            self.firsts = {o.addresses[0] for o in outcomes if isinstance(o, Answer)}
        else:
            raise NotImplementedError(what)

    def check(self, expect: dict[str, Any]) -> None:
        asked = [now - then for now, then in zip(self.lab.counts, self.before, strict=True)]
        for key, value in expect.items():
            if key in ("addrs", "addrs_each", "second_addrs"):
                for outcome in self.outcomes:
                    assert isinstance(outcome, Answer), outcome
                    assert sorted(outcome.addresses) == sorted(value)
            elif key == "first_addrs":
                assert self.firsts == set(value)
            elif key == "error":
                for outcome in self.outcomes:
                    assert type(outcome) is ERRORS[value], repr(outcome)
            elif key == "queries" and isinstance(value, dict):
                assert {i: asked[i] for i in value} == value
            elif key == "queries":
                assert sum(asked) == value, [s.queries for s in self.lab.servers]
            elif key == "max_queries":
                assert sum(asked) <= value
            elif key == "within_s":
                assert self.took <= value
            elif key == "ttl_left":
                assert isinstance(self.outcomes[0], Answer)
                assert self.outcomes[0].expires_at - self.clock.now == pytest.approx(value, abs=1)
            else:
                raise NotImplementedError(key)


@pytest.mark.parametrize("shell_class", [SyncShell, AsyncShell])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s["id"])
def test_scenario(scenario: dict[str, Any], shell_class: Any) -> None:
    clock = FakeClock()
    with Lab(*scenario["servers"]) as lab:
        shell = shell_class(_settings(lab, scenario.get("resolver", {})), clock)
        try:
            run = Run(lab, shell, clock)
            for step in scenario["steps"]:
                run.step(step)
        finally:
            shell.close()
