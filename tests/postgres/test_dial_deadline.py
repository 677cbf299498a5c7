"""A dial keeps its deadline, although psycopg looks up from its socket only every 0.1 s."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest
from psycopg import errors as e

from resilient.core.model import Endpoint
from resilient.monitor.sockets import Link
from resilient.postgres.session.dial import Dial

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
