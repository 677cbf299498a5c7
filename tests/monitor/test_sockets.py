"""`Link.abort`: wakes who is blocked, touches nobody else's socket."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from resilient.core.model import Endpoint
from resilient.monitor.sockets import Link, LinkRegistry

WHERE = Endpoint("db.test", "127.0.0.1", 5432)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def link_to(sock: socket.socket, generation: int = 0) -> Link:
    link = Link(WHERE, generation)
    link.bind(sock.fileno())
    return link


def test_abort_wakes_a_blocked_read(pair: tuple[socket.socket, socket.socket]) -> None:
    here, _ = pair
    link = link_to(here)
    woken: list[tuple[bytes, float]] = []
    reader = threading.Thread(target=lambda: woken.append((here.recv(1), time.monotonic())))
    reader.start()
    time.sleep(0.05)
    aborted_at = time.monotonic()
    assert link.abort("dead")
    reader.join(5)
    assert woken[0][0] == b""
    assert woken[0][1] - aborted_at < 0.5
    assert link.evicted == "dead"


def test_a_reused_number_is_not_touched(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    link = link_to(here)
    number = here.fileno()
    other, peer = socket.socketpair()
    with other, peer:
        here.close()
        os.dup2(other.fileno(), number)  # what the next `open` of the process does
        try:
            assert not link.abort("dead")
            other.sendall(b"x")
            assert peer.recv(1) == b"x"
        finally:
            os.close(number)
    assert link.evicted == "dead"
    assert there.recv(1) == b""


def test_abort_without_a_socket_only_condemns() -> None:
    link = Link(WHERE, 0)
    assert not link.abort("dead")
    assert link.evicted == "dead"


def test_abort_of_a_closed_socket_is_quiet(pair: tuple[socket.socket, socket.socket]) -> None:
    link = link_to(pair[0])
    pair[0].close()
    assert not link.abort("dead")


def test_abort_twice_and_of_an_ended_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with client, accepted:
            link = link_to(client)
            assert link.abort("dead")
            assert link.abort("dead again")


def test_abort_leaks_no_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    link = link_to(pair[0])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        link.abort("dead")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_registry_holds_links_weakly(pair: tuple[socket.socket, socket.socket]) -> None:
    registry = LinkRegistry()
    kept, dropped = link_to(pair[0], 1), link_to(pair[1], 2)
    registry.add(kept)
    registry.add(dropped)
    assert registry.select(lambda link: link.generation == 1) == [kept]
    del dropped
    assert registry.select(lambda link: True) == [kept]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when data came")
def test_when_its_server_has_sent_something() -> None:
    """Data, not what a kernel does for a process that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as here, server.accept()[0] as there:
            link = link_to(here)
            time.sleep(0.3)
            here.sendall(b"x")  # acknowledged by the kernel
            assert link.received_ago_s() > 0.2
            there.sendall(b"x")
            time.sleep(0.05)
            assert link.received_ago_s() < 0.2
        assert math.isinf(link.received_ago_s())  # closed


def test_nobody_knows_of_a_unix_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    assert math.isinf(link_to(pair[0]).received_ago_s())
    assert math.isinf(Link(WHERE, 0).received_ago_s())
