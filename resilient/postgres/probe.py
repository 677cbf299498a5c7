"""Probing PostgreSQL from the monitor's loop.

An in-band probe borrows an idle connection of a pool (`borrowing`): thousands of clients must not
mean as many backends more.  Where none is idle, or while the probe before is unanswered, a probe
is a dedicated one, on a connection of its own; where that is busy it dials another, so that two
probes don't share one fate.  A dedicated connection closes after `IDLE_S` without use.  Its
parameters are those that a pool last resolved; the address is always given,
so libpq asks no resolver.
"""

# long: one object, and what it decides with
from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any, cast

from psycopg import errors as e
from psycopg import pq, waiting
from psycopg.abc import PQGen

from .._dataclass import dataclass
from .._logs import Line
from ..core.model import Endpoint, FailureKind, Observation, Role
from ..core.refusals import NOT_NOW
from ..monitor.prober import Answer, ClusterListener, Gate, ProbeError, Prober
from . import bounded
from .classify import connect_failure, credentials_refused, login_of
from .commit import losses
from .commit.facts import CommitFacts
from .pool import borrowing
from .role import Questions, RoleError, question
from .session.keeper import link_of
from .target import dial_params

logger = logging.getLogger("resilient.monitor")

#: a dedicated connection that no probe needed for so many seconds is closed
IDLE_S = 5.0
#: and one that is as old is replaced: behind its address may be several servers, or another one
LIFE_S = 10.0
#: the same where new sessions write nothing by default: the setting may be a role's, which only
#: new ones see change
BARRED_LIFE_S = 1.0
#: how often a server is asked how many sessions it has, and for each of them, in seconds; the
#: first time within
COUNT_S, COUNT_SESSION_S, FIRST_COUNT_S = 10.0, 0.1, 2.0
#: how often a probe on a pool's connection looks whether that was ruled out, in seconds
IN_BAND_TICK_S = 0.1
#: how often a waiting libpq generator is looked at besides its socket, in seconds
TICK_S = 1.0
#: a lent session that may write where new ones may not, or the other way round, is no reason to
#: ask on a new one for so long, in seconds
DIFFERS_S = 10.0
#: a server that has answered without a login isn't asked so again for so many seconds
GREETED_S = 0.5
#: manual 55.7: may we talk encrypted?
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
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


class _SessionCount:
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
        if now < self._at.setdefault(endpoint, now + FIRST_COUNT_S * self._rng.random()):
            return False
        self._at[endpoint] = now + COUNT_S  # if there is no answer
        return True

    def answered(self, endpoint: Endpoint, sessions: int) -> None:
        """It has answered."""
        pause_s = max(COUNT_S, sessions * COUNT_SESSION_S) * (0.5 + self._rng.random())
        self._at[endpoint] = time.monotonic() + pause_s

    def prune(self, keep: frozenset[Endpoint]) -> None:
        """These are left."""
        self._at = {endpoint: at for endpoint, at in self._at.items() if endpoint in keep}


class PgProber(Prober):
    """Probes of one cluster.  Only touched on the monitor's loop, but for `params`."""

    def __init__(self, params: tuple[tuple[str, str], ...], place: object = None) -> None:
        #: the configured names, see `PoolCore.place`
        self.place = place
        #: connection parameters but those of the place; a pool replaces them when a secret
        #: or another setting changed
        self.params = params
        self._idle: defaultdict[Endpoint, list[_Side]] = defaultdict(list)
        self._closed = False
        self._sweep: asyncio.TimerHandle | None = None
        #: endpoints with an in-band probe, and those whose last one took long
        self._in_band: set[Endpoint] = set()
        self._slow: set[Endpoint] = set()
        #: those that told a dedicated one more than their role
        self._open: set[Endpoint] = set()
        self._session_count = _SessionCount()
        #: of pools that keep no connection for in-band probes: how many sessions they have
        self._beside: dict[Endpoint, int] = {}
        #: of all who would log in; and until when who refused it counts as alive
        self.gate: Gate | None = None
        self._rejected: dict[Endpoint, float] = {}
        #: those that are made on threads
        self._logins: defaultdict[Endpoint, list[bounded.Login]] = defaultdict(list)
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

    async def ask_in_band(
        self, endpoint: Endpoint, listeners: list[ClusterListener], alone: bool, hold_s: float = 0.0
    ) -> Answer | None:
        """While others are unanswered no probe is in-band, but where the last such answer came and
        was merely late: dialling takes several times as long, and must not make slow look
        dead."""
        late = endpoint in self._slow and not self._idle.get(endpoint)
        if endpoint in self._in_band or not (alone or late):
            return None
        stale = time.monotonic() - self._begun.get(endpoint, 0.0) > LIFE_S
        if stale and (hold_s or endpoint in self._read_only):
            # Nobody writes: behind this address may be another server by now, or a new session
            # of the same one may.
            return None
        pools = cast("list[borrowing.Lender]", listeners)
        sessions = sum(borrowing.sessions(core, endpoint) for core in pools)
        if any(borrowing.keeps(core, endpoint) for core in pools):
            self._beside.pop(endpoint, None)
        else:
            self._beside[endpoint] = sessions
        cores = [(borrowing.idle(core, endpoint), core) for core in pools]
        # Where most are idle, a caller misses one least.
        cores.sort(key=lambda pair: -pair[0])
        give_up_at = time.monotonic() + borrowing.HOP_S
        self._in_band.add(endpoint)
        try:
            for count, core in cores:
                if not count or time.monotonic() > give_up_at:
                    break
                borrowed = await borrowing.borrow(core, endpoint)
                if borrowed is not None:
                    spare = count > 1 or borrowing.unread(core)
                    mine = sessions if self._session_count.due(endpoint) else 0
                    return await self._ask_in_band(
                        borrowed, endpoint, hold_s if spare else 0.0, mine
                    )
        finally:
            self._in_band.discard(endpoint)
        return None

    async def _ask_in_band(
        self, borrowed: borrowing.Borrowed, endpoint: Endpoint, hold_s: float, mine: int
    ) -> Answer | None:
        """Whatever isn't a plain answer may be the session's doing: a dedicated probe tells."""
        self._slow.discard(endpoint)
        late_at = time.monotonic() + borrowing.OVERDUE_S
        late = asyncio.get_running_loop().call_later(borrowing.OVERDUE_S, borrowed.late)
        pgconn, seen_by = borrowed.conn.pgconn, borrowed.link.commit_facts
        # The session lives in the incarnation that the commit facts name: it can't outlive it.
        known = seen_by if isinstance(seen_by, CommitFacts) and seen_by.marks else None
        flushed = known.flushed.seen if known else None
        try:
            asked = question(pgconn, _questions(borrowed.conn), flushed, hold_s, mine)
            gen = borrowed.watch(self._owing(pgconn, endpoint, asked))
            seen, held_s = await waiting.wait_async(gen, pgconn.socket, IN_BAND_TICK_S)
        except (RoleError, borrowing.Abandoned, e.Error):
            return None
        finally:
            late.cancel()
            await borrowed.settle()
        if time.monotonic() > late_at:
            self._slow.add(endpoint)
        if seen.clients is not None:
            self._session_count.answered(endpoint, seen.clients * mine)
        seen = self._own_options(seen)
        seen = replace(seen, begun_at=borrowed.link.begun_at)
        borrowed.link.observed = seen
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
            await self._connect_check(endpoint)
        secret = self.params
        await self._wait_for_leave(endpoint, secret)
        params = dict(secret) | dial_params(endpoint)
        params.setdefault("application_name", APPLICATION_NAME)
        pgconn: pq.abc.PGconn | None = None
        refused = False
        try:
            pgconn = await self._log_in(endpoint, params)
            if endpoint in self._pooled:
                self.reached(endpoint)
            return _Side(pgconn, begun_at)
        except bounded.TooMuch as exc:
            raise ProbeError(FailureKind.ERROR, str(exc)) from exc
        except e.Error as exc:
            text = " ".join(str(exc).split())
            unproved = any(words in text for words in UNPROVED)
            kind = FailureKind.REFUSED if unproved else connect_failure(exc.sqlstate, text)
            if kind is FailureKind.REFUSED and not unproved and endpoint.address:
                self._refused.add(endpoint)
            refused = not unproved and credentials_refused(exc.sqlstate, text, login_of(exc))
            if refused:
                self._rejected[endpoint] = time.monotonic() + GREETED_S
                if self.gate is not None:
                    self.gate.log_in_refused(endpoint, secret, text)
            raise ProbeError(kind, text) from exc
        except OSError as exc:
            raise ProbeError(connect_failure(None, str(exc)), str(exc)) from exc
        finally:
            if self.gate is not None and not refused:
                self.gate.logged_in(endpoint, secret, pgconn is not None)

    async def _wait_for_leave(
        self, endpoint: Endpoint, secret: tuple[tuple[str, str], ...]
    ) -> None:
        """Who may not log in asks whether the server lives without that."""
        while self.gate is not None and (wait_s := self.gate.may_log_in(endpoint, secret)):
            if wait_s < NOT_NOW:
                await asyncio.sleep(wait_s)
                continue
            if endpoint.address and time.monotonic() > self._rejected.get(endpoint, 0.0):
                await self._greet(endpoint)
                self._rejected[endpoint] = time.monotonic() + GREETED_S
            raise ProbeError(FailureKind.REJECTED, self.gate.refusal(endpoint))

    async def _greet(self, endpoint: Endpoint) -> None:
        """Does it answer the question for encryption?  That comes before any credentials."""
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        loop = asyncio.get_running_loop()
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as greeting:
                await loop.sock_connect(greeting, (endpoint.address, endpoint.port))
                await loop.sock_sendall(greeting, SSL_REQUEST)
                answer = await loop.sock_recv(greeting, 1)
        except OSError as exc:
            raise ProbeError(connect_failure(None, str(exc)), f"{endpoint}: {exc}") from exc
        if not answer:
            raise ProbeError(FailureKind.LOST, f"{endpoint} closed the connection")

    async def _log_in(self, endpoint: Endpoint, params: dict[str, str]) -> pq.abc.PGconn:
        """On a thread where a password may have to be computed with: this one keeps the time.
        What goes on there for long can't be ended, so it isn't begun again."""
        login = bounded.Login(params)
        if not bounded.has_password(params):
            return await login.here()
        under_way = self._logins[endpoint]
        under_way[:] = [other for other in under_way if not other.over]
        if any(other.laborious for other in under_way):
            text = f"authentication at {endpoint} demands too much computing"
            raise ProbeError(FailureKind.ERROR, text)
        under_way.append(login)
        return await login.elsewhere()

    async def _connect_check(self, endpoint: Endpoint) -> None:
        """Does anybody listen again?  A quarter of libpq's work (29 µs of this process, 121)."""
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        loop = asyncio.get_running_loop()
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as checking:
                await loop.sock_connect(checking, (endpoint.address, endpoint.port))
        except ConnectionRefusedError as exc:
            text = f"connection refused: nobody listens at {endpoint}"
            raise ProbeError(FailureKind.REFUSED, text) from exc
        except OSError:
            pass  # libpq says it better
        self._refused.discard(endpoint)

    async def _ask(self, endpoint: Endpoint, side: _Side) -> Observation:
        pgconn = side.pgconn
        beside = self._beside.get(endpoint)
        asks = beside is not None and self._session_count.due(endpoint)
        mine = 1 + (beside or 0) if asks else 0  # this session is ours as well
        try:
            gen = self._owing(pgconn, endpoint, question(pgconn, None, None, 0.0, mine))
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
            self._session_count.answered(endpoint, seen.clients * mine)
        if seen.system_id:
            self._open.add(endpoint)
        seen = replace(self._own_options(seen), begun_at=side.begun_at)
        self.met(endpoint, seen)
        return seen

    def _owing(
        self, pgconn: pq.abc.PGconn, endpoint: Endpoint, asked: PQGen[Answer]
    ) -> PQGen[Answer]:
        """The answer; and what came late is asked about, where it is this server that tells."""
        answer = yield from asked
        if losses.owed(self.place, answer.seen):
            yield from losses.look_again(pgconn, self.place, endpoint, self.labels())
        return answer

    def met(self, endpoint: Endpoint, seen: Observation) -> None:
        """A session that was begun a moment ago says whether new ones may write, and whether a
        pooler is in between."""
        self._begun[endpoint] = max(seen.begun_at or 0.0, self._begun.get(endpoint, 0.0))
        if seen.read_only != (endpoint in self._read_only):
            self._read_only = self._read_only ^ {endpoint}
        if seen.pooled and endpoint not in self._pooled:
            self._pooled = self._pooled | {endpoint}
            off = "prepared names of ours, kept answers to probes, read_only=True in autocommit"
            said = {"endpoint": endpoint.place, "off": off, **self.labels()}
            logger.info("%s", Line(event="pooler.recognised", **said))

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
        self._session_count.prune(keep)
        self._beside = {one: count for one, count in self._beside.items() if one in keep}
        self._slow &= keep
        self._open &= keep
        self._refused &= keep
        self._rejected = {one: at for one, at in self._rejected.items() if one in keep}
        for endpoint in [known for known in self._logins if known not in keep]:
            del self._logins[endpoint]
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
    link = link_of(conn)
    if conn._prepared.prepare_threshold is None or link is None or link.pooled:
        return None
    link.questions = link.questions or Questions()
    return cast(Questions, link.questions)
