"""The library's errors as psycopg's: caught by `except psycopg.OperationalError` too."""

from __future__ import annotations

import psycopg
import psycopg_pool

from .. import errors
from ..core.sqlstates import SERIALIZATION_FAILURE

__all__ = [
    "CommitOutcomeUnknown",
    "DeadlineExceeded",
    "FencedPrimary",
    "LockLost",
    "NoEndpointAvailable",
    "RetryBudgetExhausted",
    "TransactionReplayMismatch",
    "WrongRole",
]


class NoEndpointAvailable(errors.NoEndpointAvailable, psycopg_pool.PoolTimeout):
    """Nothing fitted the intent until the checkout's time was over."""


class DeadlineExceeded(errors.DeadlineExceeded, psycopg.OperationalError):
    """The deadline passed while the call's endpoint was dead and nothing replaced it."""


class CommitOutcomeUnknown(errors.CommitOutcomeUnknown, psycopg.OperationalError):
    """A COMMIT was sent and its reply was lost."""


class RetryBudgetExhausted(errors.RetryBudgetExhausted, psycopg.OperationalError):
    """Another try would exceed the retry budget."""


class TransactionReplayMismatch(errors.TransactionReplayMismatch, psycopg.OperationalError):
    """A replayed transaction gave other results than the caller had already seen.  It is
    rolled back: nothing of it took effect.

    Its SQLSTATE is that of a serialization failure (PostgreSQL manual 13.5), which it is: others
    have changed what it had read.  So whoever runs transactions again on 40001 runs it again.
    """

    sqlstate = SERIALIZATION_FAILURE


class LockLost(errors.LockLost, psycopg.OperationalError):
    """The session that held an advisory lock is gone, and with it the lock."""


class FencedPrimary(errors.FencedPrimary, psycopg.OperationalError):
    """The server says that it is the primary, and a higher timeline was seen elsewhere."""


class WrongRole(errors.ResilientError, psycopg.OperationalError):
    """A connection was made, and its server is not what the intent needs."""


def ended(exc: psycopg.Error) -> bool:
    """Did the server end the session with this?  Poolers leave out the untranslated severity."""
    severity = exc.diag.severity_nonlocalized or exc.diag.severity
    return severity in ("FATAL", "PANIC")


def explained(exc: psycopg.Error, why: str) -> psycopg.Error:
    """The same error, its text with the reason why it wasn't dealt with."""
    text = str(exc)
    if "not replayed" not in text:
        exc.args = (f"{text}\n{why}", *exc.args[1:])
    return exc


def reason_of(exc: psycopg.Error) -> str:
    """The line that `explained` has added, empty when it hasn't."""
    _, found, why = str(exc).rpartition("\nnot replayed: ")
    return found + why if found else ""
