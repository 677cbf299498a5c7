"""What the drop-in adds to a request: httpx2 bare against ours, on a quiet loopback server.

    python benchmarks/http_overhead.py [--requests 3000] [--json]

Short blocks of requests alternate between a bare client, ours and a second bare client, so that
the machine's noise hits all alike.  Compared are the lower quartiles of the time per request;
the ratio of the two bare clients says what noise alone gives.  `cpu_ratio` is the same for the
processor time of
the calling thread, which the server's share doesn't dilute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import sys
import time
from typing import Any

import httpx2

import resilient.http

#: requests of one client before it is the next one's turn
BLOCK = 20
#: blocks per client before anything is measured
WARM_UP = 10
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"


def serve(listener: socket.socket) -> None:
    """One response per request, on any number of kept connections."""

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(RESPONSE * data.count(b"\r\n\r\n"))

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        await server.serve_forever()

    asyncio.run(main())


class Times:
    """Seconds per request of one client."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def add(self, wall_s: float, cpu_s: float) -> None:
        self.wall.append(wall_s)
        self.cpu.append(cpu_s)


def now() -> tuple[float, float]:
    return time.perf_counter(), time.thread_time()


def quiet(times: list[float]) -> float:
    """The lower quartile: what a request takes when nothing else is going on."""
    return statistics.quantiles(times, n=4)[0]


def summary(bare: Times, ours: Times, again: Times) -> dict[str, float]:
    wall = (quiet(bare.wall) + quiet(again.wall)) / 2
    cpu = (quiet(bare.cpu) + quiet(again.cpu)) / 2
    return {
        "bare_us": wall * 1e6,
        "ours_us": quiet(ours.wall) * 1e6,
        "ratio": quiet(ours.wall) / wall,
        "noise_ratio": quiet(again.wall) / quiet(bare.wall),
        "cpu_ratio": quiet(ours.cpu) / cpu,
    }


def measure_sync(url: str, requests: int) -> dict[str, float]:
    """The blocking clients."""
    with httpx2.Client() as bare, resilient.http.Client() as ours, httpx2.Client() as again:
        rows = [(client, Times()) for client in (bare, ours, again)]
        for block in range(-WARM_UP, requests // BLOCK):
            for client, times in rows:
                for _ in range(BLOCK):
                    wall_s, cpu_s = now()
                    client.get(url)
                    end_s, cpu_end_s = now()
                    if block >= 0:
                        times.add(end_s - wall_s, cpu_end_s - cpu_s)
    return summary(*[times for _, times in rows])


async def measure_async(url: str, requests: int) -> dict[str, float]:
    """The asyncio clients."""
    bare, ours, again = httpx2.AsyncClient(), resilient.http.AsyncClient(), httpx2.AsyncClient()
    async with bare, ours, again:
        rows = [(client, Times()) for client in (bare, ours, again)]
        for block in range(-WARM_UP, requests // BLOCK):
            for client, times in rows:
                for _ in range(BLOCK):
                    wall_s, cpu_s = now()
                    await client.get(url)
                    end_s, cpu_end_s = now()
                    if block >= 0:
                        times.add(end_s - wall_s, cpu_end_s - cpu_s)
    return summary(*[times for _, times in rows])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=3000, help="requests per client")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://localhost:{listener.getsockname()[1]}/"
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(listener,), daemon=True
    )
    server.start()
    listener.close()
    try:
        result = {
            "sync": measure_sync(url, options.requests),
            "async": asyncio.run(measure_async(url, options.requests)),
        }
    finally:
        server.kill()
        server.join()
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    for kind, row in result.items():
        print(
            f"{kind:5}  bare {row['bare_us']:6.1f} µs  ours {row['ours_us']:6.1f} µs  ratio"
            f" {row['ratio']:.3f} (noise {row['noise_ratio']:.3f}), cpu {row['cpu_ratio']:.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
