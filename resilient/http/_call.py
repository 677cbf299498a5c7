"""The decisions of one request, for both shells: where, whether again, and with what error.

A shell runs attempts and tells the call how each ended; the call answers with what to do
next.  It does no I/O and waits for nothing.
"""

# long: one request, with all that may happen to it
from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from .. import telemetry
from .._dataclass import dataclass
from ..core.upstream_bounds import bounds
from ..core.upstream_events import Failed, Succeeded
from ..core.upstream_retry import (
    PASSED_ON,
    SAFE,
    Again,
    Failure,
    GiveUp,
    Kind,
    Wait,
    decide,
    may_pass_on,
    may_repeat,
    nobody_back_off_s,
)
from . import _refusals
from ._attempt import FLOW, Attempt, Flow, clock, draw
from ._http2 import unprocessed
from ._library import Library, Untouched, is_malformed
from ._origin import Origin
from ._slot import Slot

#: an error may come this much before the deadline and still be the deadline's
SLACK_S = 0.005
#: option of the request extension, for our own use: wait when nobody takes connections
PATIENT = "_patient"
#: another: seconds for getting a connection, because others are to be asked after this URL
SHARE_S = "_share_s"
_NOTHING: Mapping[str, float | None] = {}


@dataclass(frozen=True, slots=True)
class Policy:
    """What every call of an engine needs of the settings, read once.  Seconds."""

    library: Library
    deadline_s: float
    window_s: float
    attempts: int
    #: the library's request bodies that can be sent once more
    replayable: type
    #: header that tells a server the time that is left
    deadline_header: bytes | None = None


class Call:
    """One request.  `send`: the library's own way from a request to its response."""

    __slots__ = (
        "attempts",
        "back_offs",
        "began_s",
        "connect_s",
        "deadline_s",
        "flow",
        "handed_over",
        "hedge",
        "kept",
        "key",
        "library",
        "limit",
        "marked",
        "news",
        "once",
        "origin",
        "passed_on",
        "patient",
        "policy",
        "pool_s",
        "repeatable",
        "replayable",
        "request",
        "seen",
        "send",
        "share_s",
        "somebody_s",
        "tried",
        "trouble",
        "window_s",
    )

    def __init__(  # noqa: PLR0917  # as many things as a request is made of
        self,
        policy: Policy,
        origin: Origin,
        request: Any,
        send: Callable[[Any], Any],
        once: Callable[[Attempt], Any],
        now: float,
    ) -> None:
        self.policy = policy
        self.library = policy.library
        self.limit = policy.attempts
        self.window_s = policy.window_s
        self.origin, self.request, self.send, self.once = origin, request, send, once
        self.attempts = self.seen = self.back_offs = 0
        self.began_s = now
        self.tried: tuple[Slot, ...] = ()
        #: a connection to another endpoint than the one whose turn it was
        self.handed_over: tuple[Slot, Any] | None = None
        #: while nobody takes connections: what ends the waiting, and what led to it
        self.news: Future[None] | None = None
        self.trouble: Exception | None = None
        #: a bad answer, handed out when no other endpoint has a better one
        self.kept: tuple[Attempt, Any] | None = None
        self.passed_on = self.hedge = False
        self.patient = True  # wait when nobody takes connections
        self.flow: Flow | None = FLOW.get()
        self.key: str | None = None
        self.marked: object = None
        self.share_s: float | None = None
        options = request.extensions.get("resilient")
        if options:
            self._obey(options)
        self._bound(options.get("deadline_s") if options else None, now)
        self.replayable = isinstance(request.stream, policy.replayable)
        method = request.method
        self.repeatable = self.replayable and (
            (method in SAFE and self.marked is None)
            or may_repeat(method, self.marked, request.headers)
        )
        self.hedge = self.hedge and self.repeatable

    def _obey(self, options: Mapping[str, Any]) -> None:
        """What the request's extension says."""
        self.marked = options.get("idempotent")
        self.hedge = bool(options.get("hedge"))
        self.patient = bool(options.get(PATIENT, True))
        self.share_s = options.get(SHARE_S)
        key = options.get("idempotency_key")
        if key and "idempotency-key" not in self.request.headers:
            self.key = key if isinstance(key, str) else str(uuid.uuid4())
            self.marked = True if self.marked is None else self.marked

    # -- time

    def _bound(self, asked_s: float | None, now: float) -> None:
        given = self.request.extensions.get("timeout", _NOTHING)
        explicit = type(given) is not Untouched
        limits = bounds(given, explicit, asked_s, self.policy.deadline_s, now)
        self.deadline_s = limits.deadline_s
        self.connect_s, self.somebody_s = limits.connect_s, limits.somebody_s
        self.pool_s = limits.pool_s
        if self.share_s is not None:
            self.connect_s = min(self.connect_s, now + self.share_s)
            self.somebody_s = min(self.somebody_s, now + self.share_s)

    def _renew(self, now: float) -> None:
        """The next attempt has its own time to get a connection, within the deadline."""
        deadline_s = self.deadline_s
        self._bound(None, now)
        self.connect_s = min(self.connect_s, deadline_s)
        self.somebody_s = min(self.somebody_s, deadline_s)
        self.deadline_s = deadline_s

    def waited(self, attempt: Attempt, now: float) -> None:
        """It has a place for its connection now: that time was `pool`'s, not `connect`'s."""
        waited_s = now - attempt.began_s
        self.pool_s = max(0.0, self.pool_s - waited_s)
        if self.connect_s < self.deadline_s:
            self.connect_s = min(self.connect_s + waited_s, self.deadline_s)

    # -- attempts

    def attempt(self, now: float) -> Attempt:
        """The next attempt; `NameNotFound` when the name is gone, with all its endpoints."""
        if self.handed_over is not None:
            return Attempt(self, self.handed_over[0], now)
        prefer = None
        if self.flow is not None and self.flow.slots:
            prefer = self.flow.slots.get(self.origin)
        slot = self.origin.pick(now, self.tried, self.repeatable, prefer)
        if slot is None:
            raise _refusals.nobody(self) from self.trouble
        attempt = Attempt(self, slot, now)
        attempt.bound = slot is prefer
        return attempt

    def start_hedge(self, silent: Attempt, now: float) -> Attempt | None:
        """A hedge beside an attempt that stays silent; None when there may be none."""
        silent.hedge_at = float("inf")
        if self.attempts >= self.limit or now >= self.deadline_s:
            return None
        busy = (*self.tried, silent.slot, *(primary.slot for primary, _ in silent.primaries))
        if not self.origin.others(busy) or not self.origin.withdraw():
            return None
        slot = self.origin.pick(now, busy, False)
        if slot is None or slot in busy:
            return None
        telemetry.attempted(self.origin.host, "hedge")
        hedge = Attempt(self, slot, now)
        hedge.bound = True
        return hedge

    # -- how they end

    def redirected(self, attempt: Attempt) -> None:
        """The connect was won by another endpoint: that was no attempt."""
        attempt.leave()
        self.attempts -= 1

    def failed(self, attempt: Attempt, exc: Exception, now: float) -> float:
        """Seconds until the next attempt; raises what the caller is to see instead."""
        attempt.leave()
        kind = self._kind(attempt, exc)
        self._report(attempt, kind, exc, now)
        if attempt.slot not in self.tried:
            self.tried = (*self.tried, attempt.slot)
        timed_out = isinstance(exc, self.library.client.TimeoutException)
        if timed_out and not attempt.stranded:
            self._check_time(attempt, kind, exc, now)
        failure = Failure(
            Kind.FINAL if kind is Kind.LOST and self._stands(attempt, exc) else kind,
            self.repeatable,
            self.replayable,
            self.attempts,
            self.limit,
            (self.connect_s if kind is Kind.UNSENT else self.deadline_s) - now,
            self.origin.others(self.tried),
            begun=attempt.sent,
            timed_out=timed_out,
            proved=attempt.stranded,
            nobody=attempt.nobody and self.patient and self.origin.movable,
            settled=attempt.nobody and not self.origin.movable,
            back_offs=self.back_offs,
        )
        verdict = decide(failure, draw(), self._granted)
        if isinstance(verdict, Again):
            telemetry.attempted(self.origin.host, f"{kind}")
            if kind is not Kind.UNSENT:
                self._renew(now)
            return self._again(verdict)
        if isinstance(verdict, Wait):
            return self._back_off(exc, verdict.delay_s, now)
        if attempt.stranded:
            raise _refusals.stranded(self, attempt, now) from exc
        if verdict is GiveUp.BUDGET:
            raise _refusals.budget(self, exc) from exc
        if attempt.dialled > 1 and attempt.nobody and not timed_out:
            raise _refusals.nobody(self) from exc
        raise exc

    def _stands(self, attempt: Attempt, exc: Exception) -> bool:
        """Was it an answer, though one that can't be read, which the caller is to be told?  Such
        an answer goes once to one other endpoint, as a 502 does."""
        spoilt = isinstance(exc, self.library.client.RemoteProtocolError) and is_malformed(exc)
        if not spoilt or attempt.ended:
            return False
        first, self.passed_on = not self.passed_on, True
        request, others = self.request, self.origin.others(self.tried)
        passed = first and may_pass_on(502, request.method, self.marked, request.headers)
        return not (passed and others)

    def _check_time(self, attempt: Attempt, kind: Kind, exc: Exception, now: float) -> None:
        """Raises when a timeout was the end of what somebody allowed."""
        if kind is Kind.UNSENT and self.trouble is not None and now >= self.connect_s - SLACK_S:
            raise _refusals.nobody_in_time(self) from self.trouble
        until_s = self.deadline_s if kind is Kind.UNSENT else attempt.until_s()
        if now >= until_s - SLACK_S:
            raise _refusals.late(self, attempt) from exc
        if isinstance(exc, self.library.client.PoolTimeout):
            raise exc
        if kind is Kind.UNSENT and now >= self.connect_s - SLACK_S:
            raise exc

    def _granted(self) -> bool:
        """Leaving an endpoint that fails for one that works adds no load, however many requests
        were in flight; anything else is the budget's business.  In a full outage nobody works."""
        return self.origin.blameless(self.tried) or self.origin.withdraw()

    def failed_beside(self, attempt: Attempt, exc: Exception, now: float) -> None:
        """It failed where a bad answer of another endpoint was passed on: that one stands."""
        attempt.leave()
        self._report(attempt, self._kind(attempt, exc), exc, now)

    def _back_off(self, exc: Exception, delay_s: float, now: float) -> float:
        """Nobody takes connections, which was no attempt: wait for somebody."""
        self.attempts -= 1
        self.tried = ()
        if not self.back_offs:
            telemetry.attempted(self.origin.host, "nobody")
        self.back_offs += 1
        self.trouble = exc
        left_s = self.somebody_s - now
        if left_s <= SLACK_S:
            raise _refusals.nobody_in_time(self) from exc
        self.news = self.origin.news(self.seen)
        return min(delay_s, left_s)

    def rested(self, now: float) -> float:
        """The wait of `failed` is over, or there are news: 0 to go on, else seconds to
        wait on.  Raises at the deadline."""
        self.news = None
        if self.origin.improvements == self.seen:
            left_s = self.somebody_s - now
            if left_s <= SLACK_S:
                raise _refusals.nobody_in_time(self) from self.trouble
            self.origin.look_again(None, now)
            if not self.origin.withdraw():
                self.back_offs += 1
                self.news = self.origin.news(self.seen)
                return min(nobody_back_off_s(self.back_offs, draw()), left_s)
        return 0.0

    def answered(self, attempt: Attempt, status: int, now: float) -> bool:
        """True: hand the response out.  Else another endpoint is asked at once, and this
        response is kept for the case that it has no better one."""
        slot = attempt.slot
        self.origin.took(now - attempt.began_s)
        if status < 400 and slot.spotless:
            slot.heard_at = now
            return True
        self._heard(attempt, status, now)
        if status < 500 or self.passed_on or not self.replayable:
            return True
        if not may_pass_on(status, self.request.method, self.marked, self.request.headers):
            return True
        tried = self.tried if slot in self.tried else (*self.tried, slot)
        time_left = now < self.deadline_s and self.attempts < self.limit
        if not time_left or not self.origin.others(tried) or not self.origin.withdraw():
            return True
        self.tried, self.passed_on = tried, True
        telemetry.attempted(self.origin.host, "answer")
        self._renew(now)
        return False

    def hedge_failed(self, hedge: Attempt, exc: Exception | None, now: float) -> None:
        """A hedge failed (None: with a bad status)."""
        hedge.leave()
        if exc is not None:
            self._report(hedge, self._kind(hedge, exc), exc, now)
        if hedge.slot not in self.tried:
            self.tried = (*self.tried, hedge.slot)

    def hedge_answered(self, hedge: Attempt, status: int, now: float) -> bool:
        """True when a hedge's response is good enough to be handed out."""
        self._heard(hedge, status, now)
        return status not in PASSED_ON

    def _again(self, verdict: Again) -> float:
        if not self.origin.others(self.tried):
            self.tried = ()  # everybody has been asked: begin anew
        return verdict.delay_s

    def note(self, attempt: Attempt, status: int) -> dict[str, Any]:
        """What a response says in `extensions["resilient"]`; it goes to the caller now."""
        slot = attempt.slot
        met = self.attempts > 1 or self.trouble is not None
        if self.origin.failover is not None and status < 500:
            met = True
            self.origin.flowing(slot, clock())
        self.origin.handed_out(self.attempts)
        if met:
            self.origin.failover_log.resent(self.began_s, self.attempts - 1)
        if self.flow is not None:
            self.flow.slots[self.origin] = slot
        said = {"endpoint": slot.text, "zone": slot.zone, "attempts": self.attempts}
        if self.key is not None:
            said["idempotency_key"] = self.key
        return said

    # -- what is learnt of the endpoint

    def _heard(self, attempt: Attempt, status: int, now: float) -> None:
        slot = attempt.slot
        slot.heard_at = now
        if status >= 500 and status not in (501, 505):
            self.origin.apply(Failed(slot.endpoint, f"HTTP {status}"), now)
        elif not slot.spotless:
            self.origin.apply(Succeeded(slot.endpoint, attempt.began_s), now)

    def _report(self, attempt: Attempt, kind: Kind, exc: Exception, now: float) -> None:
        slot, detail = attempt.slot, str(exc) or type(exc).__name__
        if kind is Kind.UNSENT:  # reported by those who dial
            if not attempt.sent:
                self.origin.look_again(slot.endpoint, now)
        elif kind is Kind.LOST and not attempt.stranded:
            if isinstance(exc, self.library.client.TimeoutException):
                # Slow isn't lost.  Where health checks go on, they know; where none do, an
                # endpoint that answers nobody is an outlier after some of these.
                heard_s = max(slot.byte_at, slot.timed_out_at)  # many at once count once
                if self.origin.config.active or heard_s >= attempt.began_s:
                    return
                slot.timed_out(now - attempt.began_s, self.origin.config.eject_s, now)
                detail = f"no answer for {now - attempt.began_s:.2f} s"
            self.origin.apply(Failed(slot.endpoint, detail), now)

    def _kind(self, attempt: Attempt, exc: Exception) -> Kind:
        client = self.library.client
        broken = isinstance(
            exc, client.NetworkError | client.TimeoutException | client.RemoteProtocolError
        )
        if not broken or attempt.local_fault:
            return Kind.FINAL
        return Kind.LOST if attempt.sent and not unprocessed(exc) else Kind.UNSENT
