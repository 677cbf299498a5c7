"""Probing PostgreSQL from the monitor's loop, over side connections of its own.

One idle side connection per endpoint is kept; a probe that finds it busy (the one before
is unanswered) dials another, so that two probes don't share one fate.  Extras close after
`IDLE_S`.  The parameters are those that a pool last resolved; the address is always given,
so libpq asks no resolver.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass

from psycopg import errors as e
from psycopg import generators, pq, waiting
from psycopg.conninfo import make_conninfo

from ..core.model import Endpoint, FailureKind, Observation
from ..monitor.cluster import ProbeError, Prober
from .classify import connect_failure
from .role import RoleError, observe
from .target import dial_params

IDLE_S = 30.0
#: how often a waiting libpq generator is looked at besides its socket, in seconds
TICK_S = 1.0
APPLICATION_NAME = "resilient-probe"
#: libpq's words for a server that doesn't prove to be whom the conninfo names.  Whatever
#: listens there is not for us: the endpoint is as dead as one that refuses, for every new
#: connection, and no other sslmode is tried.
UNPROVED = (
    "certificate verify failed",
    "does not match host name",
    "could not get server's host name from server certificate",
    "server does not support SSL, but SSL was required",
)


@dataclass(slots=True)
class _Side:
    pgconn: pq.abc.PGconn
    idle_since: float


class PgProber(Prober):
    """Probes of one cluster.  Only touched on the monitor's loop, but for `params`."""

    def __init__(self, params: tuple[tuple[str, str], ...]) -> None:
        #: connection parameters but those of the place; a pool replaces them when a secret
        #: or another setting changed
        self.params = params
        self._idle: defaultdict[Endpoint, list[_Side]] = defaultdict(list)
        self._closed = False

    async def probe(self, endpoint: Endpoint) -> Observation:
        sides = self._idle[endpoint]
        side = sides.pop() if sides else None
        if side is not None:
            try:
                return await self._ask(endpoint, side.pgconn)
            except ProbeError as exc:
                if exc.kind is not FailureKind.LOST and exc.kind is not FailureKind.SHUTDOWN:
                    raise
                # The old connection is gone; what its server is, a new one tells at once.
        return await self._ask(endpoint, await self._dial(endpoint))

    async def _dial(self, endpoint: Endpoint) -> pq.abc.PGconn:
        params = dict(self.params) | dial_params(endpoint)
        params.setdefault("application_name", APPLICATION_NAME)
        try:
            gen = generators.connect(make_conninfo("", **params))
            return await waiting.wait_conn_async(gen, TICK_S)
        except e.Error as exc:
            text = " ".join(str(exc).split())
            unproved = any(words in text for words in UNPROVED)
            kind = FailureKind.REFUSED if unproved else connect_failure(exc.sqlstate, text)
            raise ProbeError(kind, text) from exc
        except OSError as exc:
            raise ProbeError(connect_failure(None, str(exc)), str(exc)) from exc

    async def _ask(self, endpoint: Endpoint, pgconn: pq.abc.PGconn) -> Observation:
        try:
            seen = await waiting.wait_async(observe(pgconn), pgconn.socket, TICK_S)
        except RoleError as exc:
            pgconn.finish()
            raise ProbeError(exc.kind, str(exc)) from exc
        except e.Error as exc:
            pgconn.finish()
            raise ProbeError(FailureKind.LOST, " ".join(str(exc).split())) from exc
        except BaseException:
            pgconn.finish()
            raise
        self._keep(endpoint, pgconn)
        return seen

    def _keep(self, endpoint: Endpoint, pgconn: pq.abc.PGconn) -> None:
        if self._closed or pgconn.status != pq.ConnStatus.OK:
            pgconn.finish()
            return
        now = time.monotonic()
        sides = self._idle[endpoint]
        sides.append(_Side(pgconn, now))
        # The last one put back is used first, so the first ones are those that idle.
        while len(sides) > 1 and now - sides[0].idle_since > IDLE_S:
            sides.pop(0).pgconn.finish()

    def abandon(self, null: int) -> None:
        """In a forked child: let the parent's connections be, whatever happens here."""
        for sides in self._idle.values():
            for side in sides:
                if side.pgconn.status == pq.ConnStatus.OK:
                    os.dup2(null, side.pgconn.socket)
        self._idle.clear()

    async def prune(self, keep: frozenset[Endpoint]) -> None:
        for endpoint in [known for known in self._idle if known not in keep]:
            for side in self._idle.pop(endpoint):
                side.pgconn.finish()

    async def close(self) -> None:
        self._closed = True
        await self.prune(frozenset())
