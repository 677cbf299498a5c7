"""What the tests of probes look at: which were in-band, who has which backend, a slow road."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import psycopg
import pytest

from resilient.lab import Lab
from resilient.postgres import probe


class InBand:
    """What became of the probes that could be in-band: how many were, how many were not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = self.refused = 0
        #: what they were told, and for how long that was kept back, where it was
        self.seen: list[Any] = []
        self.refusals: list[str] = []
        self.held_s: list[float] = []
        original = probe.PgProber.ask_in_band

        async def ask_in_band(prober: Any, *args: Any) -> Any:
            answer = await original(prober, *args)
            if answer is None:
                self.refused += 1
                self.refusals.append(args[0].address)
                return None
            self.taken += 1
            self.seen.append(answer.seen)
            if answer.held_s:
                self.held_s.append(answer.held_s)
            return answer

        monkeypatch.setattr(probe.PgProber, "ask_in_band", ask_in_band)

    def enough(self, count: int) -> Callable[[], bool]:
        """When it has gone on for two seconds, and at least so many more were."""
        begun, before = time.monotonic(), self.taken

        def over() -> bool:
            spent_s = time.monotonic() - begun
            assert spent_s < 30, (self.taken, self.refused)
            return spent_s > 2 and self.taken - before > count

        return over


def backends(lab: Lab, what: str = "usename = 'app'") -> list[int]:
    """How many each server has, the primary's first."""
    query = f"select count(*) from pg_stat_activity where {what}"
    members = [member for member in (lab.primary, *lab.standbys) if member.state.value == "up"]
    return [int(str(lab.admin(member.zone, query)[0][0])) for member in members]


def in_app(lab: Lab, query: str) -> None:
    """As the superuser, in the application's database of the primary."""
    options = "-c synchronous_commit=local"
    with psycopg.connect(
        lab.primary.conninfo, dbname="app", autocommit=True, options=options
    ) as conn:
        conn.execute(query.encode())


def sides(lab: Lab) -> list[int]:
    return backends(lab, "application_name = 'resilient-probe'")


class SlowRoad:
    """A way to the server whose every round trip takes `trip_s`, and a dial `dial_s` more."""

    def __init__(self, address: str, port: int) -> None:
        self._there = address, port
        self.trip_s = self.dial_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.trip_s = self.dial_s = 0.0
        for sock in (self._listener, *self._socks):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._socks):
            sock.close()

    def _start(self, call: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=call, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here = self._listener.accept()[0]
                there = socket.create_connection(self._there)
                self._socks += [here, there]
                self._start(self._carry, here, there, self.dial_s)
                self._start(self._carry, there, here, None)

    def _carry(self, source: socket.socket, to: socket.socket, pause_s: float | None) -> None:
        with suppress(OSError):
            if pause_s:
                time.sleep(pause_s)
            while data := source.recv(65536):
                if pause_s is not None:
                    time.sleep(self.trip_s)
                to.sendall(data)
        with suppress(OSError):
            to.shutdown(socket.SHUT_RDWR)


def settled(pool: Any) -> None:
    """Every connection that the pool counts is in it, and each one works."""
    deadline = time.monotonic() + 5
    while True:
        size, lent, idle = pool._nconns, len(pool._core.lent), len(pool._pool)
        if pool._min_size <= size <= pool._max_size and idle + lent == size and not pool._waiting:
            break
        assert time.monotonic() < deadline, (size, lent, idle)
        time.sleep(0.01)
    assert len({id(conn) for conn in list(pool._pool)}) == len(pool._pool)


def sockets() -> int:
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return sum(link.startswith("socket:") for link in links)


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):  # a pool's loop must not be kept busy
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.005)
