"""What a name costs: a cache hit (ns), and an uncached lookup against dnspython alone (µs).

    python benchmarks/dns_cache.py [--json]

The name server is a process of its own on loopback.  The uncached lookups alternate in
batches between the two, so that a change of the machine's mood meets both; the ratio is
that of the medians.  Targets: a hit below 1 µs, the ratio at most 1.1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import dns.asyncresolver
import dns.resolver

from resilient import Settings
from resilient.dns import AsyncResolver, Resolver

NAME = "bench.test"
HITS, HIT_BATCHES = 20_000, 25
LOOKUPS, BATCHES = 20, 60


def serve(sock: socket.socket) -> None:
    """Answer every A question with one address, as quickly as Python can."""
    answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01"
    while True:
        data, source = sock.recvfrom(512)
        end = data.index(b"\0", 12) + 5
        head = data[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
        sock.sendto(head + data[12:end] + answer, source)


def hit_ns(resolver: Resolver) -> float:
    """Median ns of a hit, sync."""
    resolver.resolve(NAME)
    costs = []
    for _ in range(HIT_BATCHES):
        begun = time.perf_counter_ns()
        for _ in range(HITS):
            resolver.resolve(NAME)
        costs.append((time.perf_counter_ns() - begun) / HITS)
    return statistics.median(costs)


async def hit_ns_async(resolver: AsyncResolver) -> float:
    """Median ns of a hit, awaited."""
    await resolver.resolve(NAME)
    costs = []
    for _ in range(HIT_BATCHES):
        begun = time.perf_counter_ns()
        for _ in range(HITS):
            await resolver.resolve(NAME)
        costs.append((time.perf_counter_ns() - begun) / HITS)
    return statistics.median(costs)


def alternate(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Median µs of one lookup of each, in alternating batches."""
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(BATCHES):
        for which, call in enumerate((ours, theirs)):
            begun = time.perf_counter_ns()
            for _ in range(LOOKUPS):
                call()
            costs[which].append((time.perf_counter_ns() - begun) / LOOKUPS / 1000)
    return statistics.median(costs[0]), statistics.median(costs[1])


async def alternate_async(
    ours: Callable[[], Awaitable[object]], theirs: Callable[[], Awaitable[object]]
) -> tuple[float, float]:
    """The same, awaited."""
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(BATCHES):
        for which, call in enumerate((ours, theirs)):
            begun = time.perf_counter_ns()
            for _ in range(LOOKUPS):
                await call()
            costs[which].append((time.perf_counter_ns() - begun) / LOOKUPS / 1000)
    return statistics.median(costs[0]), statistics.median(costs[1])


def _peer(peer: Any, port: int) -> Any:
    peer.nameservers, peer.port = ["127.0.0.1"], port
    return peer


async def measure_async(port: int, cached: Settings, uncached: Settings) -> dict[str, float]:
    """The figures of `AsyncResolver`."""
    peer = _peer(dns.asyncresolver.Resolver(configure=False), port)
    async with AsyncResolver(cached) as hot, AsyncResolver(uncached) as cold:
        ours, theirs = await alternate_async(
            lambda: cold.resolve(NAME), lambda: peer.resolve(NAME, "A")
        )
        return {
            "async_hit_ns": await hit_ns_async(hot),
            "async_uncached_us": ours,
            "async_dnspython_us": theirs,
            "async_ratio": ours / theirs,
        }


def measure(port: int) -> dict[str, float]:
    """All figures."""
    given = {"dns_nameservers": [f"127.0.0.1:{port}"], "dns_search": []}
    cached, uncached = Settings(**given), Settings(**given, dns_cache_size=0)
    peer = _peer(dns.resolver.Resolver(configure=False), port)
    with Resolver(cached) as hot, Resolver(uncached) as cold:
        ours, theirs = alternate(lambda: cold.resolve(NAME), lambda: peer.resolve(NAME, "A"))
        figures = {
            "sync_hit_ns": hit_ns(hot),
            "sync_uncached_us": ours,
            "sync_dnspython_us": theirs,
            "sync_ratio": ours / theirs,
        }
    return figures | asyncio.run(measure_async(port, cached, uncached))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    as_json = parser.parse_args().json
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        server = multiprocessing.get_context("fork").Process(
            target=serve, args=(sock,), daemon=True
        )
        server.start()
        try:
            figures = measure(sock.getsockname()[1])
        finally:
            server.terminate()
            server.join()
    if as_json:
        print(json.dumps(figures))
        return
    print(f"{'':22}{'sync':>10}{'async':>10}")
    for label, key in (
        ("cache hit, ns", "hit_ns"),
        ("uncached, µs", "uncached_us"),
        ("dnspython alone, µs", "dnspython_us"),
        ("ratio", "ratio"),
    ):
        print(f"{label:22}{figures[f'sync_{key}']:10.2f}{figures[f'async_{key}']:10.2f}")


if __name__ == "__main__":
    main()
