"""A dial keeps its deadline, although psycopg looks up from its socket only every 0.1 s."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest
from psycopg import errors as e

from resilient.core.model import Endpoint, Health
from resilient.lab import Lab
from resilient.monitor.sockets import Link
from resilient.postgres import ConnectionPool
from resilient.postgres.session.dial import Dial

from .conftest import settings_of

HERE = Endpoint("here", "127.0.0.1", 5432)


def silent() -> Generator[Any, Any, None]:
    """A server that takes the connection and says nothing."""
    while True:
        yield 0, 1


def dial(left_s: float, watched: list[Link]) -> Dial:
    deadline_at = time.monotonic() + left_s
    return Dial(HERE, Link(HERE, 0), deadline_at, lambda seen: None, watched.append)


def test_the_monitor_keeps_one_that_is_near_from_the_start() -> None:
    """What is left of a checkout's time may be a microsecond: psycopg would wait 0.1 s."""
    watched: list[Link] = []
    near = dial(0.05, watched)
    next(near.guard(silent()))
    assert watched == [near.link]


def test_the_monitor_keeps_another_once_nothing_came() -> None:
    watched: list[Link] = []
    far = dial(60.0, watched)
    gen = far.guard(silent())
    next(gen)
    gen.send(1)  # a packet
    assert watched == []
    gen.send(None)  # none for a tenth of a second
    gen.send(None)
    assert watched == [far.link]


def test_a_deadline_that_has_passed_ends_it() -> None:
    gen = dial(0.0, []).guard(silent())
    next(gen)
    with pytest.raises(e.ConnectionTimeout, match="in time"):
        gen.send(None)


@pytest.mark.lab
def test_how_little_time_was_left_says_nothing_of_the_server(lab: Lab) -> None:
    """Whoever comes first at the end of it, the dial or the monitor."""
    with ConnectionPool(lab.dsn, settings=settings_of(lab), min_size=1) as pool:
        pool.wait()
        core = pool._core
        writer = core.topology.writer
        assert writer is not None
        dialled = core.dial(writer.endpoint, core.wanted, time.monotonic() - 1)
        gen = dialled.guard(silent())
        next(gen)
        with pytest.raises(e.ConnectionTimeout) as caught:
            gen.send(1)
        core.dial_failed(dialled, caught.value)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            view = core.topology.find(writer.endpoint)
            assert view is not None
            assert view.health is Health.UP
            time.sleep(0.002)
