"""Many names, each used once: what is kept of them, and who still asks for them."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

from dns_lab import Lab, a, until_async

ANY = [a("*", "192.0.2.1") | {"answers": [["*", "A", 1, "192.0.2.1"]]}, {"q": "*", "soa": 9}]


async def test_names_used_once_leave_memory_and_questions_as_they_were(kind: Any) -> None:
    with Lab(ANY) as lab:
        resolver = kind(lab.settings(dns_cache_size=100, dns_refresh_ahead=0.8))

        async def use(first: int, count: int) -> None:
            for i in range(first, first + count):
                await resolver.resolve(f"h{i}.test")
            lab.servers[0].queries.clear()
            for log in (lab.servers[0].sources, lab.servers[0].ids):
                log.clear()
            lab.servers[0].times.clear()
            lab.servers[0].edns.clear()

        tracemalloc.start()
        await use(0, 200)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await use(200, 500)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert kept < 50_000  # 100 bytes a name; an entry has thousands
        await asyncio.sleep(1.2)  # all TTLs are over
        assert lab.count == 0
        await resolver.close()


async def test_a_watch_that_ended_asks_nobody(kind: Any) -> None:
    with Lab(ANY) as lab:
        resolver = kind(lab.settings(dns_refresh_ahead=0.5))
        for i in range(20):
            ends = resolver.watch(f"h{i}.test", lambda change: None)
            assert await until_async(lambda i=i: lab.count > i)  # type: ignore[misc]
            await resolver.resolve(f"h{i}.test")
            ends()
        await asyncio.sleep(1.2)
        assert lab.count == 20
        await resolver.close()
