"""Runs psycopg's own tests of connections and cursors on connections that record.

Loaded with `-p recorded` beside `plugin` by `make peer-tests`.  Every connection that the
suite makes is one that a pool would have given out: BEGIN merged, statements recorded, the
piggyback behind them.  (Not for the tests that list the session's prepared statements or
messages, which would find the piggyback there.)
"""

from __future__ import annotations

import os
import re
from typing import Any

import psycopg
import pytest

from resilient.core.model import Endpoint
from resilient.monitor.sockets import Link
from resilient.postgres.commit.knowledge import Knowledge
from resilient.postgres.commit.resolver import Resolver
from resilient.postgres.replay.replayer import Replayer
from resilient.postgres.session.derived import derive
from resilient.settings import Settings

#: `PEER_OFF=1`: nothing is recorded, as with everything switched off
OFF = os.environ.get("PEER_OFF") == "1"
SETTINGS = Settings(replay="off", commit_resolver="off") if OFF else Settings()
WITHOUT_PIGGYBACK = SETTINGS if OFF else Settings(commit_resolver="off")
#: tests that list what the session holds, or sends
LISTING = re.compile(r"test_prepared|trace|implicit_begin")
in_force = [SETTINGS]


def pytest_runtest_setup(item: pytest.Item) -> None:
    in_force[0] = WITHOUT_PIGGYBACK if LISTING.search(item.nodeid) else SETTINGS


class Core:
    """The pool's part, which these connections don't have."""

    place = None
    known = Knowledge(SETTINGS.commit_resolver)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def lost(self, link: Any, exc: BaseException, broken: bool) -> None:
        return None

    def withdraw(self) -> bool:
        return True

    def locks_out(self, link: Link, refusal: BaseException) -> bool:
        return False

    def crowded(self) -> bool:
        return False

    def met(self, endpoint: Endpoint, seen: Any) -> None:
        pass

    def look_up(self, reads: list[Any], idle: int) -> bool:
        return False

    def cut_at(self, when_s: float, link: Link, why: str) -> None:
        return None


def _raise(self: Any, exc: Exception, *more: Any, **named: Any) -> Any:
    raise exc
    yield


# There is nowhere to go: what is lost is lost, as psycopg has it.
Replayer.recover = _raise  # type: ignore[method-assign]
Resolver.lost = _raise  # type: ignore[method-assign]


def engage(conn: Any) -> Any:
    keeper = conn._resilient
    link = Link(Endpoint("", "127.0.0.1", 0), 0)
    if conn.pgconn.status == 0:
        link.bind(conn.pgconn.socket)
    keeper.wire.attach(link)
    keeper.on_checkout(Core(in_force[0]))
    return conn


class Recorded(derive(psycopg.Connection)):  # type: ignore[misc]
    __module__ = "psycopg"

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        return engage(super().connect(*args, **kwargs))


class AsyncRecorded(derive(psycopg.AsyncConnection)):  # type: ignore[misc]
    __module__ = "psycopg"

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Any:
        return engage(await super().connect(*args, **kwargs))


Recorded.__qualname__ = Recorded.__name__ = "Connection"
AsyncRecorded.__qualname__ = AsyncRecorded.__name__ = "AsyncConnection"
psycopg.Connection = Recorded
psycopg.AsyncConnection = AsyncRecorded
psycopg.connect = Recorded.connect


@pytest.fixture(scope="session")
def conn_cls() -> Any:
    return Recorded


@pytest.fixture(scope="session")
def aconn_cls() -> Any:
    return AsyncRecorded
