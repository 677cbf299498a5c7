"""`RESILIENT_DNS=system`: the C library's answers, on a thread, followed by asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from dns_world import UPSTREAM, Asked, Web1, World, glibc, tasks, threads, use_hosts

from resilient import Settings
from resilient.dns import AsyncResolver, Change, Resolver
from resilient.errors import NameNotFound, NameServersFailed, NameTimeout
from resilient.lab.namespace import inside, refusal

pytestmark = pytest.mark.skipif(not inside(), reason=refusal())

OURS = pytest.mark.parametrize("ask", [threads, tasks])
Ask = Callable[..., Asked]
FOUR = {"q": "a.test", "type": "A", "answers": [["a.test", "A", 300, UPSTREAM]]}
ALIAS = [["w.test", "CNAME", 300, "a.test"], ["a.test", "A", 300, "192.0.2.7"]]


@OURS
def test_answers_and_errors_are_those_of_getaddrinfo(ask: Ask) -> None:
    script = [
        *(FOUR, {"q": "w.test", "type": "A", "answers": ALIAS}),
        *({"q": "sick.test", "rcode": "SERVFAIL"}, {"q": "*", "type": "AAAA", "soa": 1}),
    ]
    with World(script, hosts="127.0.0.9 localhost h.test\n"):
        for name in ("a.test", "w.test", "h.test", "localhost", "127.1"):
            assert ask(name, dns="system").addresses == glibc(name).addresses != set()
            assert ask(name, "any", dns="system").addresses == glibc(name, "any").addresses
        assert isinstance(ask("no.test", dns="system").error, NameNotFound)
        assert isinstance(ask("a..b", dns="system").error, NameNotFound)
        assert isinstance(ask("sick.test", dns="system").error, NameServersFailed)


@OURS
def test_a_call_that_hangs_ends_at_the_deadline(ask: Ask) -> None:
    with World([{"q": "*", "drop": True}], conf="options timeout:1 attempts:1\n"):
        asked = ask("a.test", dns="system", dns_deadline_s=0.3)
        assert isinstance(asked.error, NameTimeout)
        assert 0.29 <= asked.took_s < 0.6


async def _followed(resolver: Any) -> float:
    changes: list[Change] = []
    resolver.watch("h.test", changes.append)
    await asyncio.sleep(0.3)
    use_hosts("127.0.0.3 h.test\n")
    began = time.monotonic()
    while not changes:
        assert time.monotonic() < began + 4
        await asyncio.sleep(0.01)
    assert changes[0].new.addresses == ("127.0.0.3",)
    return time.monotonic() - began


async def test_a_change_is_found_by_asking() -> None:
    settings = Settings(dns="system")
    with World([], hosts="127.0.0.2 h.test\n"):
        with Resolver(settings) as resolver:
            assert await _followed(resolver) < 1.4
        use_hosts("127.0.0.2 h.test\n")
        async with AsyncResolver(settings) as resolver:
            assert await _followed(resolver) < 1.4


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_http_goes_by_it(kind: str) -> None:
    with World([], hosts=f"{UPSTREAM} h.test\n") as world, Web1(kind, dns="system") as client:
        assert client.get(f"http://h.test:{world.port}/").status_code == 200
        assert world.asked() == []
