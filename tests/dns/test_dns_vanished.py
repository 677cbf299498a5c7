"""A name that vanishes and comes back: our memory never makes its absence longer.

The yardstick is a client without any cache, which has the name with its first question after
it came back.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from dns_lab import Lab, Rule, a, until_async

from resilient.dns import Change
from resilient.errors import ResolutionError

GONE: dict[str, Rule] = {
    "absent": {"q": "*", "rcode": "NXDOMAIN", "soa": 900},
    "no address": {"q": "*", "soa": 900},
    "failing": {"q": "*", "rcode": "SERVFAIL"},
    "refused": {"q": "*", "rcode": "REFUSED"},
}
#: for so long nobody has an address; behind it, plain would have one at once
AWAY_S = 0.7
LATE_S = 0.4
BACK = [a("a.test", "192.0.2.1"), a("a.test", "2001:db8::1")]


async def _comes_back(resolver: Any, lab: Lab, family: Any = 4, **given: Any) -> float:
    """Ask as a busy client does; how long after its return the name is had, in seconds."""
    returned_at: float | None = None
    begun = time.monotonic()
    while True:
        now = time.monotonic()
        if returned_at is None and now >= begun + AWAY_S:
            lab.servers[0].set(BACK)
            returned_at = now
        try:
            await resolver.resolve("a.test", family, **given)
        except ResolutionError:
            assert now < begun + AWAY_S + 5
            await asyncio.sleep(0.005)
        else:
            assert returned_at is not None
            return time.monotonic() - returned_at


@pytest.mark.parametrize(
    ("gone", "family"), [*((gone, "any") for gone in GONE), ("absent", 4), ("failing", 6)]
)
async def test_a_name_that_was_never_there_is_had_when_it_comes(
    kind: Any, gone: str, family: Any
) -> None:
    with Lab([GONE[gone]]) as lab:
        resolver = kind(lab.settings())
        assert await _comes_back(resolver, lab, family) <= LATE_S
        # a few times a second; twice the families, twice the tries
        assert lab.count <= 6 * (AWAY_S + LATE_S) * 4
        await resolver.close()


@pytest.mark.parametrize("gone", ["absent", "failing"])
async def test_a_known_name_vanishes_and_comes_back(kind: Any, gone: str) -> None:
    with Lab([a("a.test", "192.0.2.1", ttl=0)]) as lab:
        resolver = kind(lab.settings())
        await resolver.resolve("a.test")
        lab.servers[0].set([GONE[gone]])
        await asyncio.sleep(0.3)
        assert await _comes_back(resolver, lab) <= LATE_S
        await resolver.close()


async def test_callers_share_the_questions(kind: Any) -> None:
    with Lab([GONE["absent"]]) as lab:
        resolver = kind(lab.settings())
        calls = [_comes_back(resolver, lab) for _ in range(20)]
        await asyncio.gather(*calls)
        assert lab.count <= 6 * (AWAY_S + LATE_S)
        await resolver.close()


async def test_who_goes_around_the_cache_goes_around_failures(kind: Any) -> None:
    """Expired addresses that are dead serve nobody: a failure isn't believed for seconds."""
    with Lab([a("a.test", "192.0.2.1", ttl=0)]) as lab:
        resolver = kind(lab.settings(dns_stale_s=100))
        await resolver.resolve("a.test")
        lab.servers[0].set([GONE["failing"]])
        for _ in range(5):  # failures in a row: the last ones are remembered for 5 s
            assert (await resolver.refresh("a.test")).stale
            await asyncio.sleep(0.25)
        lab.servers[0].set([a("a.test", "192.0.2.2")])
        back = time.monotonic()
        while (await resolver.refresh("a.test")).addresses != ("192.0.2.2",):
            await asyncio.sleep(0.01)
        assert time.monotonic() - back <= LATE_S
        await resolver.close()


async def test_silence_ends_with_the_first_answer(kind: Any) -> None:
    with Lab([{"q": "*", "drop": True}]) as lab:
        resolver = kind(lab.settings(dns_timeout_s=0.2, dns_tries=1))
        assert await _comes_back(resolver, lab) <= LATE_S
        await resolver.close()


@pytest.mark.parametrize("gone", ["absent", "failing"])
async def test_a_watched_name_is_told_of_when_it_comes(kind: Any, gone: str) -> None:
    with Lab([a("a.test", "192.0.2.1", ttl=1)]) as lab:
        resolver = kind(lab.settings())
        changes: list[Change] = []
        await resolver.resolve("a.test")
        resolver.watch("a.test", changes.append)
        assert await until_async(lambda: lab.count >= 2)
        lab.servers[0].set([GONE[gone]])
        asked = lab.count
        assert await until_async(lambda: lab.count >= asked + 3)
        lab.servers[0].set([a("a.test", "192.0.2.2", ttl=1)])
        back = time.monotonic()
        assert await until_async(lambda: bool(changes))
        assert time.monotonic() - back <= LATE_S
        await resolver.close()


async def test_one_family_that_is_gone_hides_no_other(kind: Any) -> None:
    """The name was IPv6 only, vanishes, and comes back with IPv4."""
    rules = [a("a.test", "2001:db8::1", ttl=0), {"q": "*", "soa": 900}]
    with Lab(rules) as lab:
        resolver = kind(lab.settings())
        assert (await resolver.resolve("a.test", "any")).addresses == ("2001:db8::1",)
        lab.servers[0].set([GONE["absent"]])
        with pytest.raises(ResolutionError):
            await resolver.resolve("a.test", "any")
        assert await _comes_back(resolver, lab, "any") <= LATE_S
        await resolver.close()
