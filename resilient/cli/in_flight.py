"""How many sessions of a server are in flight: it is asked once a second, each by a thread of
its own, so that one that hangs holds up none of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import psycopg

from ..core.model import Endpoint, Topology
from ..postgres.target import dial_params

__all__ = ["InFlight"]

EVERY_S = 1.0
#: an older number isn't shown
STALE_S = 3.0
#: others' sessions, whatever they do but wait for their client; of other roles only those are
#: seen that this one may see (manual 28.2.3)
QUERY = """\
SELECT count(*) FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'
 AND application_name NOT LIKE 'resilient%'"""


class InFlight:
    """The numbers, by endpoint, of those in the present topology.

    `params`: connection parameters but those of the place.
    """

    def __init__(self, topology: Callable[[], Topology], params: Mapping[str, str]) -> None:
        self._topology = topology
        self._params = dict(params)
        self._seen: dict[Endpoint, tuple[float, int]] = {}
        self._asked: set[Endpoint] = set()
        self._over = threading.Event()
        self._main = threading.Thread(target=self._follow, name="watch-in-flight", daemon=True)

    def __enter__(self) -> Self:
        self._main.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()

    def at(self, endpoint: Endpoint) -> int | None:
        """How many now; None: it doesn't tell."""
        seen_at, count = self._seen.get(endpoint, (0.0, 0))
        return count if time.monotonic() - seen_at < STALE_S else None

    def _follow(self) -> None:
        while not self._over.wait(0.2):
            for view in self._topology().endpoints:
                if view.endpoint not in self._asked:
                    self._asked.add(view.endpoint)
                    threading.Thread(
                        target=self._ask,
                        args=(view.endpoint,),
                        name=f"watch-{view.endpoint}",
                        daemon=True,
                    ).start()

    def _ask(self, endpoint: Endpoint) -> None:
        params: dict[str, Any] = {
            **self._params,
            **dial_params(endpoint),
            "connect_timeout": 2,
            "tcp_user_timeout": 3000,
            "application_name": "resilient watch",
        }
        while not self._over.wait(EVERY_S / 2):
            try:
                with psycopg.connect(autocommit=True, **params) as conn:
                    while not self._over.wait(EVERY_S / 2):
                        row = conn.execute(QUERY).fetchone()
                        self._seen[endpoint] = time.monotonic(), int(row[0]) if row else 0
            except psycopg.Error:
                continue  # it is asked again; its state is the monitor's to tell
