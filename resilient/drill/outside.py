"""Somebody outside: can anybody write, and which server is it?

A bare connection for every try, as a client without any help would make it; tries don't wait for
each other, so one that hangs on a dead server holds up none.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import psycopg

from ..core.model import Endpoint
from ..errors import ResilientError
from ..monitor.sockets import Link
from .workload import TABLE

__all__ = ["Observer", "Sight"]

#: between two tries, and how many may be under way
EVERY_S, MOST = 0.1, 8
CONNECT_TIMEOUT_S = 2
#: a try that hangs for longer is cut off: as many of them would leave no room for another
PATIENCE_S = 5.0
#: ids below zero are the observer's
WRITE = f"""\
INSERT INTO {TABLE} VALUES (%s, 'observer')
RETURNING host(inet_server_addr()), pg_postmaster_start_time()::text,
 current_setting('synchronous_standby_names') <> ''"""  # noqa: S608  # a constant


@dataclass(frozen=True, slots=True)
class Sight:
    """A write that succeeded, at a monotonic moment.  `server`: its own address (None: a Unix
    socket), `since`: when it was started, so a restart in place is another one."""

    at: float
    server: str | None
    since: str
    synchronous: bool


class Observer:
    """Tries all the time, from `with` to its end; `sights` grows.

    `dsn`: the connection string, or what gives the one of now where addresses move."""

    def __init__(self, dsn: str | Callable[[], str]) -> None:
        self._dsn: Callable[[], str] = dsn if callable(dsn) else lambda: dsn
        self._ids = itertools.count(-1, -1)
        self._over = threading.Event()
        self._room = threading.BoundedSemaphore(MOST)
        self._under_way: dict[Link, float] = {}
        self._thread = threading.Thread(target=self._try_on, name="drill-observer", daemon=True)
        self.sights: list[Sight] = []
        self.error = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(EVERY_S + 1)

    def first_after(self, known: Sight) -> Sight | None:
        """The first write on another server, or on the same one restarted."""
        then = (known.server, known.since)
        seen = sorted(self.sights, key=lambda sight: sight.at)
        return next((s for s in seen if s.at > known.at and (s.server, s.since) != then), None)

    def _try_on(self) -> None:
        while not self._over.wait(EVERY_S):
            late_at = time.monotonic() - PATIENCE_S
            for link, began_at in list(self._under_way.items()):
                if began_at < late_at and not link.aborted:
                    link.abort("it hangs")
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._try, name="drill-observer-try", daemon=True).start()

    def _try(self) -> None:
        link = Link(Endpoint("observer", "", 0), 0)
        try:
            with psycopg.connect(
                self._dsn(),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                target_session_attrs="read-write",
                application_name="resilient drill observer",
            ) as conn:
                link.bind(conn.pgconn.socket)
                self._under_way[link] = time.monotonic()
                row = conn.execute(WRITE, (next(self._ids),)).fetchone()
            if row is not None:
                self.sights.append(Sight(time.monotonic(), *row))
        except (psycopg.Error, ResilientError) as error:
            self.error = " ".join(str(error).split())
        finally:
            self._under_way.pop(link, None)
            self._room.release()
