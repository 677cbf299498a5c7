"""The decisions of one request, for both shells: where, whether again, and with what error.

A shell runs attempts and tells the call how each ended; the call answers with what to do
next.  It does no I/O and waits for nothing.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any

from .._dataclass import dataclass
from ..core.upstream_events import Failed, Lost, Succeeded, Trouble
from ..core.upstream_retry import (
    IDEMPOTENT,
    RETRIED_STATUS,
    Again,
    Failure,
    GiveUp,
    Kind,
    Wait,
    decide,
    is_idempotent,
    lull_s,
    retry_after_s,
)
from ._attempt import STAGGER_S, Attempt, clock, draw
from ._library import Library
from ._origin import Origin, Slot

#: an error may come this much before the deadline and still be the deadline's
SLACK_S = 0.005
#: option of the request extension, for our own use: wait when nobody takes connections
PATIENT = "_patient"


@dataclass(frozen=True, slots=True)
class Policy:
    """What every call of an engine needs of the settings, read once.  Seconds."""

    library: Library
    deadline_s: float
    window_s: float
    attempts: int
    #: the library's request bodies that can be sent once more
    replayable: type


class Call:
    """One request."""

    __slots__ = (
        "attempts",
        "deadline_s",
        "hedge",
        "idempotent",
        "library",
        "limit",
        "lulls",
        "news",
        "origin",
        "parked",
        "patient",
        "repeatable",
        "replayable",
        "request",
        "seen",
        "tried",
        "trouble",
        "window_s",
    )

    def __init__(self, policy: Policy, origin: Origin, request: Any, now: float) -> None:
        self.library = policy.library
        self.limit = policy.attempts
        self.window_s = policy.window_s
        self.origin = origin
        self.request = request
        self.attempts = self.seen = self.lulls = 0
        self.tried: tuple[Slot, ...] = ()
        #: a connection to another endpoint than the one whose turn it was
        self.parked: tuple[Slot, Any] | None = None
        #: while nobody takes connections: what ends the waiting, and what led to it
        self.news: Future[None] | None = None
        self.trouble: Exception | None = None
        self.replayable = isinstance(request.stream, policy.replayable)
        options, marked = request.extensions.get("resilient"), None
        self.hedge, self.patient = False, True  # patient: wait when nobody takes connections
        if options:
            marked = options.get("idempotent")
            self.hedge = bool(options.get("hedge"))
            self.patient = bool(options.get(PATIENT, True))
            self.deadline_s = now + float(options.get("deadline_s", policy.deadline_s))
        else:
            self.deadline_s = now + policy.deadline_s
        known = marked is None and request.method in IDEMPOTENT
        self.idempotent = known or is_idempotent(request.method, marked, request.headers)
        self.repeatable = self.idempotent and self.replayable

    # -- attempts

    def attempt(self, now: float) -> Attempt:
        """The next attempt; `NameNotFound` when the name is gone, with all its endpoints."""
        if self.parked is not None:
            slot, trial = self.parked[0], False
        else:
            picked = self.origin.pick(now, self.tried, self.repeatable)
            if picked is None:
                raise self._nobody() from self.trouble
            slot, trial = picked
        return Attempt(self, slot, trial, now)

    def silence_s(self, trial: bool, now: float) -> float:
        """Seconds of silence until another endpoint is asked as well."""
        # Half of what is left, so that the next endpoint has time to answer as well.
        silence_s = min(self.window_s, max(0.0, self.deadline_s - now) / 2)
        return min(STAGGER_S, silence_s) if trial or self.hedge else silence_s

    def rival(self, silent: Attempt, now: float) -> Attempt | None:
        """An attempt beside one that stays silent; None when there may be none, or none
        yet: then `silent.silence_at` says when to ask again."""
        silent.silence_at = inf
        if self.attempts >= self.limit or now >= self.deadline_s:
            return None
        slot = self._rival_slot(silent, now)
        if slot is None:
            silent.silence_at = now + STAGGER_S
            if silent.slot.silent_for(self.window_s, now):
                self.origin.look_again(None, now)
            return None
        return Attempt(self, slot, False, now)

    def _rival_slot(self, silent: Attempt, now: float) -> Slot | None:
        busy = (*self.tried, silent.slot, *(outer.slot for outer, _ in silent.outer))
        if not self.origin.others(busy) or not self._granted(silent, busy, True):
            return None
        picked = self.origin.pick(now, busy, False)
        return None if picked is None or picked[0] in busy else picked[0]

    # -- how they end

    def superseded(self, attempt: Attempt, now: float) -> None:
        """Another endpoint answered while this one stayed silent."""
        attempt.leave()
        self._silent(attempt, now, outrun=not self.hedge)

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
        timeout = isinstance(exc, self.library.client.TimeoutException)
        if timeout and now >= attempt.until_s() - SLACK_S:
            raise self._late(attempt) from exc
        if attempt.stranded:
            raise self._stranded(attempt, now) from exc
        failure = Failure(
            kind,
            attempt.sent,
            self.idempotent,
            self.replayable,
            self.attempts,
            self.limit,
            self.deadline_s - now,
            self.origin.others(self.tried),
            timeout,
            nobody=attempt.nobody and self.patient and self.origin.movable,
            lulls=self.lulls,
        )

        def withdraw() -> bool:
            return self._granted(attempt, self.tried, timeout)

        verdict = decide(failure, draw(), withdraw)
        if isinstance(verdict, Again):
            return self._again(verdict)
        if isinstance(verdict, Wait):
            return self._lull(exc, verdict.delay_s, now)
        if verdict is GiveUp.BUDGET:
            text = f"{self.origin.host}: no retry left in the budget after {self.attempts} attempts"
            raise self.library.errors.RetryBudgetExhausted(f"{text}: {exc}") from exc
        if attempt.dialled > 1 and kind is Kind.CONNECT and not timeout:
            raise self._nobody() from exc
        raise exc

    def _lull(self, exc: Exception, delay_s: float, now: float) -> float:
        """Nobody takes connections, which was no attempt: wait for somebody."""
        self.attempts -= 1
        self.tried = ()
        self.lulls += 1
        self.trouble = exc
        left_s = self.deadline_s - now
        if left_s <= SLACK_S:
            raise self._nobody_in_time() from exc
        self.news = self.origin.news(self.seen)
        return min(delay_s, left_s)

    def rested(self, now: float) -> float:
        """The wait of `failed` is over, or there are news: 0 to go on, else seconds to
        wait on.  Raises at the deadline."""
        self.news = None
        if self.origin.improvements == self.seen:
            left_s = self.deadline_s - now
            if left_s <= SLACK_S:
                raise self._nobody_in_time() from self.trouble
            self.origin.look_again(None, now)
            if not self.origin.withdraw():
                self.lulls += 1
                self.news = self.origin.news(self.seen)
                return min(lull_s(self.lulls, draw()), left_s)
        return 0.0

    def rival_failed(self, rival: Attempt, exc: Exception | None, now: float) -> float:
        """A rival failed (None: with a bad status).  When the next one may start."""
        rival.leave()
        if exc is not None:
            self._report(rival, self._kind(rival, exc), exc, now)
        if rival.slot not in self.tried:
            self.tried = (*self.tried, rival.slot)
        return now + self.silence_s(False, now)

    def answered(self, attempt: Attempt, status: int, headers: Any, now: float) -> float | None:
        """None: hand the response out.  Else drop it, and seconds until the next attempt."""
        slot = attempt.slot
        if status < 400 and slot.spotless:
            slot.heard_at = now
            return None
        self._heard(attempt, status, now)
        if status not in RETRIED_STATUS or not self.repeatable:
            return None
        if attempt.slot not in self.tried:
            self.tried = (*self.tried, attempt.slot)
        failure = Failure(
            Kind.STATUS,
            True,
            self.idempotent,
            self.replayable,
            self.attempts,
            self.limit,
            self.deadline_s - now,
            self.origin.others(self.tried),
            False,
            status,
            retry_after_s(headers.get("retry-after"), _seconds_until),
        )
        verdict = decide(failure, draw(), self.origin.withdraw)
        return self._again(verdict) if isinstance(verdict, Again) else None

    def rival_answered(self, rival: Attempt, status: int, now: float) -> bool:
        """True when a rival's response is good enough to be handed out."""
        self._heard(rival, status, now)
        return status not in RETRIED_STATUS

    def _granted(self, attempt: Attempt, avoid: tuple[Slot, ...], silent: bool) -> bool:
        """May it be repeated?  Leaving an endpoint that is lost for one that works adds no
        load, however many requests were in flight; anything else is the budget's business.
        In a full outage nobody works."""
        heard = silent and attempt.slot.heard_at >= attempt.began_s  # slow rather than lost
        return (not heard and self.origin.blameless(avoid)) or self.origin.withdraw()

    def _again(self, verdict: Again) -> float:
        if not self.origin.others(self.tried):
            self.tried = ()  # everybody has been asked: begin anew
        return verdict.delay_s

    def note(self, attempt: Attempt, status: int) -> dict[str, Any]:
        """What a response says in `extensions["resilient"]`; it goes to the caller now."""
        if self.origin.story is not None and status < 500:
            self.origin.flowing(attempt.slot, clock())
        slot = attempt.slot
        return {"endpoint": slot.text, "zone": slot.zone, "attempts": self.attempts}

    # -- what is learnt of the endpoint

    def _heard(self, attempt: Attempt, status: int, now: float) -> None:
        slot = attempt.slot
        slot.heard_at = now
        if status >= 500 and status not in (501, 505):
            self.origin.apply(Failed(slot.endpoint, f"HTTP {status}"), now)
        elif not slot.spotless:
            self.origin.apply(Succeeded(slot.endpoint, attempt.began_s), now)

    def _silent(self, attempt: Attempt, now: float, outrun: bool = False) -> None:
        slot = attempt.slot
        if slot.silent_for(self.window_s, now + SLACK_S):
            detail = f"no answer for {now - slot.asked_at:.1f} s"
            self.origin.apply(Lost(slot.endpoint, Trouble.SILENT, detail), now)
        elif not self.hedge and slot.heard_at < attempt.began_s:
            detail = f"no answer for {now - attempt.began_s:.2f} s"
            self.origin.apply(Failed(slot.endpoint, detail, outrun), now)

    def _report(self, attempt: Attempt, kind: Kind, exc: Exception, now: float) -> None:
        if kind is Kind.CONNECT:  # reported by those who dial
            self.origin.look_again(attempt.slot.endpoint, now)
        if kind is not Kind.LOST:
            return
        client = self.library.client
        if isinstance(exc, client.ReadTimeout | client.WriteTimeout):
            self._silent(attempt, now)
        else:
            self.origin.apply(Failed(attempt.slot.endpoint, str(exc) or type(exc).__name__), now)

    def _kind(self, attempt: Attempt, exc: Exception) -> Kind:
        client = self.library.client
        broken = isinstance(
            exc, client.NetworkError | client.TimeoutException | client.RemoteProtocolError
        )
        if not broken or attempt.local_fault:
            return Kind.FINAL
        return Kind.LOST if attempt.sent else Kind.CONNECT

    # -- errors

    def _late(self, attempt: Attempt) -> Exception:
        waited_s = clock() - attempt.began_s
        what = "sent, not answered" if attempt.sent else "no connection"
        text = (
            f"no response by the deadline: {attempt.slot.text}: {what}"
            f" for {waited_s:.1f} s (attempt {attempt.number})"
        )
        error: Exception = self.library.errors.DeadlineExceeded(text)
        return error

    def _stranded(self, attempt: Attempt, now: float) -> Exception:
        text = (
            f"{attempt.slot.text}: sent, and no answer for {now - attempt.began_s:.1f} s, nor to"
            " health checks, while others answer: the request may have taken effect"
        )
        error: Exception = self.library.errors.RequestOutcomeUnknown(text)
        return error

    def _nobody(self) -> Exception:
        host = self.origin.host
        if self.origin.snapshot.gone and not self.origin.snapshot.resolved:
            text = f"{host}: no such name, and none of its endpoints answers any more"
            error: Exception = self.library.errors.NameNotFound(text, name=host)
            return error
        return self._without_endpoint(self.library.errors.NoEndpointAvailable, "")

    def _nobody_in_time(self) -> Exception:
        return self._without_endpoint(self.library.errors.NoEndpointInTime, " by the deadline")

    def _without_endpoint(self, kind: Any, when: str) -> Exception:
        snapshot, name = self.origin.snapshot, f"{self.origin.host}:{self.origin.port}"
        error: Exception = kind(
            f"{name} has no endpoint that takes connections{when}",
            topology=snapshot,
            reasons=snapshot.reasons(),
        )
        return error


def _seconds_until(date: str) -> float | None:
    # Retry-After may be a date: the one place where wall-clock time is what was meant.
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
