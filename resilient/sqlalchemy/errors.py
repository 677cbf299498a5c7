"""Errors that are SQLAlchemy's `OperationalError`, and ours."""

from __future__ import annotations

from typing import Any

from sqlalchemy import exc

from .. import errors


class Told(exc.OperationalError):
    """What SQLAlchemy makes of a driver's error, with what ours carries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("details", "reasons", "topology"):
            if hasattr(self.orig, name):
                setattr(self, name, getattr(self.orig, name))


class CommitOutcomeUnknown(Told, errors.CommitOutcomeUnknown):
    """The reply to a COMMIT was lost; `details` has what is known.  Not run again by guess."""


class NoEndpointAvailable(Told, errors.NoEndpointAvailable):
    """Nobody fits; `reasons` has each endpoint's."""


class DeadlineExceeded(Told, errors.DeadlineExceeded):
    """The deadline passed while nobody replaced the server."""


class RetryBudgetExhausted(Told, errors.RetryBudgetExhausted):
    """One more try would exceed the retry budget."""


class TransactionReplayMismatch(Told, errors.TransactionReplayMismatch):
    """Done again, the transaction gave other results; it is rolled back."""


_KINDS: tuple[tuple[type[Exception], type[Told]], ...] = (
    (errors.CommitOutcomeUnknown, CommitOutcomeUnknown),
    (errors.NoEndpointAvailable, NoEndpointAvailable),
    (errors.DeadlineExceeded, DeadlineExceeded),
    (errors.RetryBudgetExhausted, RetryBudgetExhausted),
    (errors.TransactionReplayMismatch, TransactionReplayMismatch),
)


def classified(context: Any) -> Exception | None:
    """Our own error where SQLAlchemy has found only that it is the driver's."""
    orig, wrapped = context.original_exception, context.sqlalchemy_exception
    for ours, told in _KINDS:
        if isinstance(orig, ours) and wrapped is not None:
            return told(
                wrapped.statement,
                wrapped.params,
                orig,
                hide_parameters=wrapped.hide_parameters,
                connection_invalidated=wrapped.connection_invalidated,
                code=wrapped.code,
                ismulti=wrapped.ismulti,
            )
    return None
