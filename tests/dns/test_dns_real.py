"""The same with servers that others wrote: knot as the authority, a caching unbound in front."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from dns_lab import until_async
from pg_servers import Pool, Servers

from resilient import Settings
from resilient.dns import Change, NameNotFound, inspect
from resilient.lab.dns_real import Knot, Unbound, missing
from resilient.lab.ports import choose_port

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

NAME = "writer.db.test"
A, B = "127.0.65.1", "127.0.66.1"


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[Knot, Unbound]]:
    port = choose_port(["127.0.0.57", "127.0.0.58"], None, 53, "dns_port", False)
    with (
        Knot("127.0.0.57", port, "db.test") as knot,
        Unbound("127.0.0.58", port, {"db.test": knot}) as unbound,
    ):
        knot.set_records("a.db.test", "A", [A], 60)
        knot.set_records("b.db.test", "A", [B], 60)
        yield knot, unbound


def settings(server: object, **given: Any) -> Settings:
    return Settings(dns_nameservers=str(server), dns_search=[], **given)


def test_inspect_tells_the_authority_from_a_cache(real: tuple[Knot, Unbound]) -> None:
    knot, unbound = real
    knot.flip("inspect.db.test", "a.db.test", 7)
    own, kept = (inspect("inspect.db.test", settings(server)) for server in (knot, unbound))
    assert (own.authoritative, own.cached, own.server) == (True, False, str(knot))
    assert (kept.authoritative, kept.cached, kept.server) == (False, True, str(unbound))
    assert own.ttl_s == 7
    assert kept.ttl_s <= 7
    assert own.addresses == kept.addresses == (A,)


async def test_a_flip_behind_a_cache_is_told_in_time(kind: Any, real: tuple[Knot, Unbound]) -> None:
    knot, unbound = real
    knot.flip(NAME, "a.db.test", 1)
    resolver = kind(settings(unbound))
    changes: list[Change] = []
    assert await until_async(lambda: inspect(NAME, settings(unbound)).addresses == (A,))
    resolver.watch(NAME, changes.append)
    assert (await resolver.resolve(NAME)).addresses == (A,)
    knot.flip(NAME, "b.db.test", 1)
    assert await until_async(lambda: inspect(NAME, settings(unbound)).addresses == (B,))
    served_at = time.monotonic()  # the server that we ask has it
    assert await until_async(lambda: bool(changes))
    assert time.monotonic() - served_at <= 1.3
    assert changes[0].new.chain == (NAME, "b.db.test")
    with pytest.raises(NameNotFound):
        await resolver.resolve("absent.db.test")
    await resolver.close()


async def test_a_silent_authority_is_covered_by_what_is_known(
    kind: Any, real: tuple[Knot, Unbound]
) -> None:
    """knot stands still: once unbound's TTL is over it fails, and our own answer serves."""
    knot, unbound = real
    knot.flip("stale.db.test", "a.db.test", 1)
    resolver = kind(settings(unbound, dns_timeout_s=0.3, dns_tries=1))
    await resolver.resolve("stale.db.test")
    knot.pause()
    try:
        end = time.monotonic() + 5
        while not (answer := await resolver.resolve("stale.db.test")).stale:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert answer.addresses == (A,)
    finally:
        knot.resume()
        await resolver.close()


async def test_pools_follow_a_failover(real: tuple[Knot, Unbound]) -> None:
    knot, unbound = real
    with Servers([A, B]) as servers:
        knot.flip("pool.db.test", "a.db.test", 1)
        dsn = f"host=pool.db.test port={servers.port} user=postgres dbname=postgres"
        async with (
            Pool("sync", dsn, settings(unbound)) as one,
            Pool("async", dsn, settings(unbound)) as other,
        ):
            assert await one.where() == await other.where() == A
            servers.members[0].kill()
            flipped_at = knot.flip("pool.db.test", "b.db.test", 1)
            await asyncio.gather(one.arrives(B, 5), other.arrives(B, 5))
            # unbound may keep the old record for its TTL; from then on TTL + 300 ms
            assert time.monotonic() - flipped_at <= 1 + 1 + 0.3


async def test_a_cache_is_asked_when_its_record_is_over(real: tuple[Knot, Unbound]) -> None:
    """Not before, but for a look a second; and then at once."""
    knot, unbound = real
    with Servers([A, B]) as servers:
        knot.flip("kept.db.test", "a.db.test", 4)
        dsn = f"host=kept.db.test port={servers.port} user=postgres dbname=postgres"
        async with Pool("sync", dsn, settings(unbound)) as pool:
            assert await pool.where() == A
            await asyncio.sleep(5)  # it has been refreshed: the TTL was seen to fall
            servers.members[0].kill()
            knot.flip("kept.db.test", "b.db.test", 4)
            told_at = 0.0

            async def told() -> None:
                nonlocal told_at
                while inspect("kept.db.test", settings(unbound)).addresses != (B,):
                    await asyncio.sleep(0.01)
                told_at = time.monotonic()

            async def arrived() -> float:
                await pool.arrives(B, 8)
                return time.monotonic()

            _, arrived_at = await asyncio.gather(told(), arrived())
            assert arrived_at - told_at <= 0.06 + 0.15  # and a connection
