"""The attempts at one `run`: its deadline, its share of the retry budget, its pauses.

tenacity drives the loop, from the second attempt on: the first costs nothing extra, and a process
that never makes a second doesn't import it.  When to stop and how long to wait is `core.retry`'s
and `core.budget`'s.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool

from ...core.budget import backoff_s
from ...core.model import FailureKind, Observation, Role
from ...core.retry import rerun
from ...core.sqlstates import Says, says
from ..errors import (
    CommitOutcomeUnknown,
    DeadlineExceeded,
    RetryBudgetExhausted,
    TransactionReplayMismatch,
)
from ..session.keeper import keeper_of, link_of

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState, Retrying

    from .base import PoolCore


class Attempts:
    """State of one `run`.  `kind`: what the last failure said of the endpoint."""

    def __init__(self, core: PoolCore, timeout: float | None) -> None:
        self._core = core
        self._limit_s = core.settings.deadline_s if timeout is None else timeout
        self._deadline_at = time.monotonic() + self._limit_s
        self._made = 1
        self.kind: FailureKind | None = None
        #: endpoints that a read was refused at for their own reasons
        self.avoided: frozenset[object] = frozenset()
        #: the last failure, if it may have been meant for its session alone, and the server's
        #: state when that began
        self._stopped: tuple[psycopg.Error, Observation] | None = None
        #: statements that sessions have ended under, see `Judge.strike`
        self._struck: dict[bytes, int] = {}
        #: seconds before the next attempt
        self.pause_s = 0.0
        core.deposit()

    def left_s(self) -> float:
        return self._deadline_at - time.monotonic()

    def begins(self, conn: Any) -> None:
        """An attempt is made on this checkout.  Raises the failure before it where whoever said
        stop meant it: the server goes on as it was."""
        keeper = keeper_of(conn)
        if keeper is not None:
            keeper.share_strikes(self._struck)
        stopped, self._stopped = self._stopped, None
        link = link_of(conn)
        if stopped is not None and link is not None and link.observed is not None:
            exc, then = stopped
            if then.goes_on_in(link.observed):
                raise exc

    def failed(self, conn: Any, exc: psycopg.Error) -> None:
        """The attempt on this checkout has failed."""
        self.kind = self._core.raise_for(conn, exc)
        keeper = keeper_of(conn)
        link = keeper.link if keeper is not None else None
        if keeper is None or link is None or link.observed is None:
            return
        if self.kind is not None and keeper.stops(exc):
            self._stopped = exc, link.observed
        if says(exc.sqlstate, Says.RERUN) and link.observed.role is Role.REPLICA:
            self.avoided |= {link.endpoint}  # a conflict with recovery (manual 27.4.2)

    def again(self, exc: BaseException) -> bool:
        """Run again after this failure?  Raises the library's own error where it knows why
        not: the deadline, the budget."""
        kind, self.kind = self.kind, None
        if isinstance(exc, CommitOutcomeUnknown | DeadlineExceeded | psycopg_pool.PoolTimeout):
            return False
        # What differed when it was replayed is the function's to see for itself.
        replayed = isinstance(exc, TransactionReplayMismatch)
        if not replayed and (not isinstance(exc, psycopg.Error) or not rerun(exc.sqlstate, kind)):
            return False
        if max(self._struck.values(), default=0) > 1:
            return False
        if self._made >= self._core.settings.retry_attempts:
            return False
        if self.left_s() <= 0:
            raise DeadlineExceeded(
                f"no success within {self._limit_s:g} s, {self._made} attempt(s)"
                " (RESILIENT_DEADLINE_S, or timeout=)"
            ) from exc
        if not self._core.withdraw():
            raise RetryBudgetExhausted(
                "the last failure isn't retried: retries would exceed their share of the"
                " traffic (RESILIENT_RETRY_BUDGET, RESILIENT_RETRY_BUDGET_FLOOR)"
            ) from exc
        self._made += 1
        # A conflict between transactions wants distance; a new primary does not.
        self.pause_s = backoff_s(self._made - 1, self._core.rng.random())
        if not says(getattr(exc, "sqlstate", None), Says.RERUN):
            self.pause_s = min(self.pause_s, 0.01)
        return True

    def more(self) -> Retrying:
        """tenacity's loop over the further attempts; the caller makes the first pause."""
        from tenacity import Retrying, retry_if_exception

        return Retrying(retry=retry_if_exception(self.again), wait=self._wait, reraise=True)

    def more_async(self) -> AsyncRetrying:
        """The same for tasks."""
        from tenacity import AsyncRetrying, retry_if_exception

        return AsyncRetrying(retry=retry_if_exception(self.again), wait=self._wait, reraise=True)

    def _wait(self, state: RetryCallState) -> float:
        return self.pause_s
