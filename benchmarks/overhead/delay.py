"""A network between client and server: a round trip of so many milliseconds.

By netem on this namespace's loopback, which every packet passes once in each direction: half of the
round trip each.  Where the kernel has no netem, by a proxy that keeps what it hears in either
direction for half of the round trip.  Its own work comes on top of that, for all sides alike.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from resilient.lab.namespace import inside

from .database import Place

__all__ = ["delayed"]

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29
_LO = ("dev", "lo", "root")


@contextlib.contextmanager
def delayed(place: Place, round_trip_ms: float) -> Iterator[tuple[Place, str]]:
    """Where the servers are reached over that network, and how it is made."""
    why = _netem("add", *_LO, "netem", "delay", f"{round_trip_ms * 500:g}us")
    if not why:
        try:
            yield place, "netem"
        finally:
            _netem("del", *_LO)
        return
    with _proxy(place, round_trip_ms / 2000) as reached:
        yield reached, f"proxy (no netem: {why})"


def _netem(*args: str) -> str:
    """Empty if it was done, else why not."""
    if not inside():
        return "no namespace of our own"
    if shutil.which("tc") is None:
        return "tc (Debian: iproute2) isn't installed"
    done = subprocess.run(["tc", "qdisc", *args], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""


@contextlib.contextmanager
def _proxy(place: Place, one_way_s: float) -> Iterator[Place]:
    """Listens on the servers' own addresses, on another port, the same on all."""
    with contextlib.ExitStack() as stack:
        port = 0
        listeners = []
        for host in place.hosts:
            listeners.append(stack.enter_context(socket.create_server((host, port), backlog=100)))
            port = listeners[0].getsockname()[1]
        numbers = [listener.fileno() for listener in listeners]
        told = map(str, (place.port, one_way_s, *numbers))
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overhead.delay", *told],
            pass_fds=numbers,
        )
        try:
            yield replace(place, port=port)
        finally:
            process.terminate()
            process.wait()


def main(argv: list[str]) -> None:
    """A process for each connection: they must not wait for each other."""
    port, one_way_s = int(argv[1]), float(argv[2])
    listeners = [socket.socket(fileno=int(number)) for number in argv[3:]]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    libc = ctypes.CDLL(None)
    # sleep until the moment itself, not up to 50 µs longer
    libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    while True:
        for listener in select.select(listeners, [], [])[0]:
            client = listener.accept()[0]
            if os.fork():
                client.close()
                continue
            with contextlib.suppress(OSError):
                server = socket.create_connection((listener.getsockname()[0], port))
                _carry(client, server, one_way_s)
            os._exit(0)


def _carry(client: socket.socket, server: socket.socket, one_way_s: float) -> None:
    """Until one side ends; what is on its way then still arrives."""
    other = {client: server, server: client}
    for sock in other:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    under_way: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        # select, for its microseconds: epoll counts in milliseconds
        for sock in select.select([client, server], [], [], wait_s)[0]:
            data = sock.recv(1 << 16)
            under_way.append((time.monotonic() + one_way_s, other[sock], data))
        while under_way and under_way[0][0] <= time.monotonic():
            _, receiver, data = under_way.popleft()
            if not data:
                return
            receiver.sendall(data)


if __name__ == "__main__":
    main(sys.argv)
