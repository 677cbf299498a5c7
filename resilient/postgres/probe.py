"""Probing PostgreSQL from the monitor's loop.

A probe rides an idle connection of a pool (`loans`): thousands of clients must not mean as
many backends more.  Where none is idle, or while the probe before is unanswered, it has a side
connection; one that finds it busy dials another, so that two probes don't share one fate.  A
side connection closes after `IDLE_S` without use.  Its parameters are those that a pool last
resolved; the address is always given, so libpq asks no resolver.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from psycopg import errors as e
from psycopg import generators, pq, waiting
from psycopg.conninfo import make_conninfo

from .._dataclass import dataclass
from ..core.model import Endpoint, FailureKind, Observation, Role
from ..monitor.prober import Answer, ClusterListener, ProbeError, Prober
from . import loans
from .classify import connect_failure
from .role import Questions, RoleError, question
from .target import dial_params
from .witness import Witness

if TYPE_CHECKING:
    from .base import PoolCore

logger = logging.getLogger("resilient.monitor")

#: a side connection that no probe needed for so many seconds is closed
IDLE_S = 5.0
#: and one that is as old is replaced: behind its address may be several servers, or another one
LIFE_S = 10.0
#: the same where new sessions write nothing by default: the setting may be a role's, which only
#: new ones see change
BARRED_LIFE_S = 1.0
#: how often a server is asked how many sessions it has, and for each of them, in seconds; the
#: first time within
CENSUS_S, CENSUS_SESSION_S, FIRST_CENSUS_S = 10.0, 0.1, 2.0
#: how often a probe on a pool's connection looks whether that was ruled out, in seconds
RIDE_TICK_S = 0.1
#: how often a waiting libpq generator is looked at besides its socket, in seconds
TICK_S = 1.0
#: a lent session that may write where new ones may not, or the other way round, is no reason to
#: ask on a new one for so long, in seconds
DIFFERS_S = 10.0
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
    begun_at: float
    idle_since: float = 0.0


class _Census:
    """When a server is asked how many sessions it has.

    It looks at each of them to answer (about 10 µs where there are 80), so the more it has, the
    less often it is asked: the work grows with their number, not with its square.
    """

    def __init__(self) -> None:
        self._at: dict[Endpoint, float] = {}
        self._rng = random.Random()

    def due(self, endpoint: Endpoint) -> bool:
        """Is it to be asked now?"""
        now = time.monotonic()
        if now < self._at.setdefault(endpoint, now + FIRST_CENSUS_S * self._rng.random()):
            return False
        self._at[endpoint] = now + CENSUS_S  # if there is no answer
        return True

    def told(self, endpoint: Endpoint, sessions: int) -> None:
        """It has answered."""
        pause_s = max(CENSUS_S, sessions * CENSUS_SESSION_S) * (0.5 + self._rng.random())
        self._at[endpoint] = time.monotonic() + pause_s

    def prune(self, keep: frozenset[Endpoint]) -> None:
        """These are left."""
        self._at = {endpoint: at for endpoint, at in self._at.items() if endpoint in keep}


class PgProber(Prober):
    """Probes of one cluster.  Only touched on the monitor's loop, but for `params`."""

    def __init__(self, params: tuple[tuple[str, str], ...]) -> None:
        #: connection parameters but those of the place; a pool replaces them when a secret
        #: or another setting changed
        self.params = params
        self._idle: defaultdict[Endpoint, list[_Side]] = defaultdict(list)
        self._closed = False
        self._sweep: asyncio.TimerHandle | None = None
        #: endpoints with a probe on a lent connection, and those whose last one took long
        self._riding: set[Endpoint] = set()
        self._slow: set[Endpoint] = set()
        #: those that told a side connection more than their role
        self._open: set[Endpoint] = set()
        self._census = _Census()
        #: of pools that keep no connection to ride on: how many sessions they have
        self._beside: dict[Endpoint, int] = {}
        #: those whose new sessions write nothing by default; replaced, never changed: any thread
        self._read_only: frozenset[Endpoint] = frozenset()
        #: when a session was last begun there, by a pool or for a probe
        self._begun: dict[Endpoint, float] = {}
        #: those with a pooler in between
        self._pooled: frozenset[Endpoint] = frozenset()
        #: when a lent session was last found to differ from that
        self._differed: dict[Endpoint, float] = {}
        #: those where nobody listened when they were last dialled
        self._refused: set[Endpoint] = set()

    async def ride(
        self, endpoint: Endpoint, listeners: list[ClusterListener], alone: bool, hold_s: float = 0.0
    ) -> Answer | None:
        """While others are unanswered none rides, but where the last answer of a ride came and
        was merely late: dialling takes several times as long, and must not make slow look
        dead."""
        late = endpoint in self._slow and not self._idle.get(endpoint)
        if endpoint in self._riding or not (alone or late):
            return None
        stale = time.monotonic() - self._begun.get(endpoint, 0.0) > LIFE_S
        if stale and (hold_s or endpoint in self._read_only):
            # Nobody writes: behind this address may be another server by now, or a new session
            # of the same one may.
            return None
        pools = cast("list[PoolCore]", listeners)
        sessions = sum(loans.sessions(core, endpoint) for core in pools)
        if any(loans.keeps(core, endpoint) for core in pools):
            self._beside.pop(endpoint, None)
        else:
            self._beside[endpoint] = sessions
        cores = [(loans.idle(core, endpoint), core) for core in pools]
        # Where most are idle, a caller misses one least.
        cores.sort(key=lambda pair: -pair[0])
        give_up_at = time.monotonic() + loans.HOP_S
        self._riding.add(endpoint)
        try:
            for count, core in cores:
                if not count or time.monotonic() > give_up_at:
                    break
                loan = await loans.borrow(core, endpoint)
                if loan is not None:
                    spare = count > 1 or loans.unread(core)
                    mine = sessions if self._census.due(endpoint) else 0
                    return await self._ride(loan, endpoint, hold_s if spare else 0.0, mine)
        finally:
            self._riding.discard(endpoint)
        return None

    async def _ride(
        self, loan: loans.Loan, endpoint: Endpoint, hold_s: float, mine: int
    ) -> Answer | None:
        """Whatever isn't a plain answer may be the session's doing: a side connection tells."""
        self._slow.discard(endpoint)
        late_at = time.monotonic() + loans.LATE_S
        late = asyncio.get_running_loop().call_later(loans.LATE_S, loan.late)
        pgconn, seen_by = loan.conn.pgconn, loan.conn._link.witness
        # The session lives in the incarnation that the witness names: it can't outlive it.
        known = isinstance(seen_by, Witness) and seen_by.marks
        flushed = seen_by.flushed.seen if known else None
        try:
            gen = loan.watch(question(pgconn, _questions(loan.conn), flushed, hold_s, mine))
            seen, held_s = await waiting.wait_async(gen, pgconn.socket, RIDE_TICK_S)
        except (RoleError, loans.Abandoned, e.Error):
            return None
        finally:
            late.cancel()
            await loan.settle()
        if time.monotonic() > late_at:
            self._slow.add(endpoint)
        if seen.clients is not None:
            self._census.told(endpoint, seen.clients * mine)
        seen = self._own_options(seen)
        seen = replace(seen, begun_at=loan.conn._link.begun_at)
        loan.conn._link.observed = seen
        if not seen.system_id and endpoint in self._open:
            return None
        if seen.read_only != (endpoint in self._read_only) and seen.role is Role.PRIMARY:
            # The session's own doing, or news: a new one tells, which isn't asked again soon.
            now = time.monotonic()
            if now >= self._differed.get(endpoint, 0.0):
                self._differed[endpoint] = now + DIFFERS_S
                for side in self._idle.pop(endpoint, []):
                    side.pgconn.finish()
                return None
            seen = replace(seen, read_only=not seen.read_only)
        return Answer(seen, held_s)

    async def probe(self, endpoint: Endpoint) -> Observation:
        sides = self._idle[endpoint]
        life_s = BARRED_LIFE_S if endpoint in self._read_only else LIFE_S
        while sides and time.monotonic() - sides[0].begun_at > life_s:
            sides.pop(0).pgconn.finish()  # a new one may meet another server
        side = sides.pop() if sides else None
        if side is not None:
            try:
                return await self._ask(endpoint, side)
            except ProbeError as exc:
                if exc.kind is not FailureKind.LOST and exc.kind is not FailureKind.SHUTDOWN:
                    raise
                # The old connection is gone; what its server is, a new one tells at once.
        return await self._ask(endpoint, await self._dial(endpoint))

    async def _dial(self, endpoint: Endpoint) -> _Side:
        begun_at = time.monotonic()
        if endpoint in self._refused:
            await self._knock(endpoint)
        params = dict(self.params) | dial_params(endpoint)
        params.setdefault("application_name", APPLICATION_NAME)
        try:
            gen = generators.connect(make_conninfo("", **params))
            side = _Side(await waiting.wait_conn_async(gen, TICK_S), begun_at)
            if endpoint in self._pooled:
                self.reached(endpoint)
            return side
        except e.Error as exc:
            text = " ".join(str(exc).split())
            unproved = any(words in text for words in UNPROVED)
            kind = FailureKind.REFUSED if unproved else connect_failure(exc.sqlstate, text)
            if kind is FailureKind.REFUSED and not unproved and endpoint.address:
                self._refused.add(endpoint)
            raise ProbeError(kind, text) from exc
        except OSError as exc:
            raise ProbeError(connect_failure(None, str(exc)), str(exc)) from exc

    async def _knock(self, endpoint: Endpoint) -> None:
        """Does anybody listen again?  A quarter of libpq's work (29 µs of this process, 121)."""
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        loop = asyncio.get_running_loop()
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as knocking:
                await loop.sock_connect(knocking, (endpoint.address, endpoint.port))
        except ConnectionRefusedError as exc:
            text = f"connection refused: nobody listens at {endpoint}"
            raise ProbeError(FailureKind.REFUSED, text) from exc
        except OSError:
            pass  # libpq says it better
        self._refused.discard(endpoint)

    async def _ask(self, endpoint: Endpoint, side: _Side) -> Observation:
        pgconn = side.pgconn
        beside = self._beside.get(endpoint)
        asks = beside is not None and self._census.due(endpoint)
        mine = 1 + (beside or 0) if asks else 0  # this session is ours as well
        try:
            gen = question(pgconn, None, None, 0.0, mine)
            seen, _ = await waiting.wait_async(gen, pgconn.socket, TICK_S)
        except RoleError as exc:
            pgconn.finish()
            raise ProbeError(exc.kind, str(exc)) from exc
        except e.Error as exc:
            pgconn.finish()
            raise ProbeError(FailureKind.LOST, " ".join(str(exc).split())) from exc
        except BaseException:
            pgconn.finish()
            raise
        self._keep(endpoint, side)
        if seen.clients is not None:
            self._census.told(endpoint, seen.clients * mine)
        if seen.system_id:
            self._open.add(endpoint)
        seen = replace(self._own_options(seen), begun_at=side.begun_at)
        self.told(endpoint, seen)
        return seen

    def told(self, endpoint: Endpoint, seen: Observation) -> None:
        """A session that was begun a moment ago says whether new ones may write, and whether a
        pooler is in between."""
        self._begun[endpoint] = max(seen.begun_at or 0.0, self._begun.get(endpoint, 0.0))
        if seen.read_only != (endpoint in self._read_only):
            self._read_only = self._read_only ^ {endpoint}
        if seen.pooled and endpoint not in self._pooled:
            self._pooled = self._pooled | {endpoint}
            logger.info("event=pooler.recognised endpoint=%s", endpoint)

    def _own_options(self, seen: Observation) -> Observation:
        """What the conninfo itself asks for is no news of the server."""
        own = "default_transaction_read_only" in dict(self.params).get("options", "")
        return replace(seen, read_only=False) if own else seen

    def _keep(self, endpoint: Endpoint, side: _Side) -> None:
        if self._closed or side.pgconn.status != pq.ConnStatus.OK:
            side.pgconn.finish()
            return
        # The last one put back is used first, so the first ones are those that idle.
        side.idle_since = time.monotonic()
        self._idle[endpoint].append(side)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_S, self._expire)

    def _expire(self) -> None:
        """Close what idled for `IDLE_S`; look again when the next will have."""
        self._sweep = None
        now = time.monotonic()
        for sides in self._idle.values():
            while sides and now - sides[0].idle_since >= IDLE_S - 1e-3:
                sides.pop(0).pgconn.finish()
        left = [sides[0].idle_since for sides in self._idle.values() if sides]
        if left:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(min(left) + IDLE_S - now, self._expire)

    def abandon(self, null: int) -> None:
        """In a forked child: let the parent's connections be, whatever happens here."""
        for sides in self._idle.values():
            for side in sides:
                if side.pgconn.status == pq.ConnStatus.OK:
                    os.dup2(null, side.pgconn.socket)
        self._idle.clear()

    async def prune(self, keep: frozenset[Endpoint]) -> None:
        self._census.prune(keep)
        self._beside = {one: count for one, count in self._beside.items() if one in keep}
        self._slow &= keep
        self._open &= keep
        self._refused &= keep
        self._read_only &= keep
        self._pooled &= keep
        self._begun = {one: at for one, at in list(self._begun.items()) if one in keep}
        self._differed = {one: at for one, at in self._differed.items() if one in keep}
        for endpoint in [known for known in self._idle if known not in keep]:
            for side in self._idle.pop(endpoint):
                side.pgconn.finish()

    async def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        await self.prune(frozenset())


def _questions(conn: Any) -> Questions | None:
    """What a pool's connection has prepared for us; None: it prepares nothing."""
    link = conn._link
    if conn._prepared.prepare_threshold is None or link.pooled:
        return None
    link.questions = link.questions or Questions()
    return cast(Questions, link.questions)
