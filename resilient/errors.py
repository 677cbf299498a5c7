"""The errors of `resilient`, free of any driver.

Each drop-in raises a subclass of these that also inherits its library's base
(`psycopg.OperationalError`, `psycopg_pool.PoolTimeout`, httpx2's or httpx's
`TransportError`), so existing `except` clauses keep working.  The original exception is
always the `__cause__`.
"""

from __future__ import annotations

import socket

__all__ = [
    "CommitOutcomeUnknown",
    "ConfigError",
    "DeadlineExceeded",
    "FencedPrimary",
    "LockLost",
    "NameNotFound",
    "NameServersFailed",
    "NameTimeout",
    "NoEndpointAvailable",
    "RequestOutcomeUnknown",
    "ResilientError",
    "ResolutionError",
    "RetryBudgetExhausted",
    "TransactionReplayMismatch",
]


class ResilientError(Exception):
    """Base of every error that this library raises on its own account."""


class ConfigError(ResilientError, ValueError):
    """A setting that can't be used.  The text names the variable, its value (never a
    secret) and what is accepted."""


class NoEndpointAvailable(ResilientError):
    """Nothing fits the intent.

    `topology` is the snapshot that the decision was taken on, `reasons` maps each
    endpoint (as text) to why it was refused.
    """

    topology: object | None
    reasons: dict[str, str]

    def __init__(
        self,
        message: str = "",
        *,
        topology: object | None = None,
        reasons: dict[str, str] | None = None,
    ) -> None:
        why = "; ".join(f"{name}: {reason}" for name, reason in (reasons or {}).items())
        super().__init__(f"{message} ({why})" if why else message)
        self.topology = topology
        self.reasons = dict(reasons or {})


class DeadlineExceeded(ResilientError):
    """The operation's deadline passed.  `RESILIENT_DEADLINE_S` or `timeout=` set it."""


class RetryBudgetExhausted(ResilientError):
    """Retrying would exceed `RESILIENT_RETRY_BUDGET`: the last failure is the cause."""


class FencedPrimary(ResilientError):
    """A server that says it is the primary is not the one that may take writes."""


class LockLost(ResilientError):
    """The session that held an advisory lock is gone, and with it the lock.

    Somebody else may have it by now.  It is never taken again in silence.
    """


class TransactionReplayMismatch(ResilientError):
    """A replayed transaction gave other results than the caller had already seen."""


class CommitOutcomeUnknown(ResilientError):
    """The reply to a COMMIT was lost, and nothing can tell whether it took effect.

    Never retried by the library: the caller decides, with the facts in `details`.
    """

    details: dict[str, object]

    def __init__(self, message: str = "", *, details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


class RequestOutcomeUnknown(ResilientError):
    """The endpoint died while it had a request that can't be sent again: it may have taken
    effect there, or may yet when the endpoint goes on.

    Never retried by the library: the caller decides.
    """


class ResolutionError(ResilientError, socket.gaierror):
    """A name could not be resolved.  Also a `socket.gaierror`."""

    #: the `EAI_*` number that `socket.getaddrinfo` would have given
    eai = socket.EAI_FAIL

    def __init__(self, message: str = "", *, name: str = "") -> None:
        socket.gaierror.__init__(self, self.eai, message)
        self.name = name

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), str(self), self.name), dict(self.__dict__))

    def __str__(self) -> str:
        return str(self.strerror or "")


def _rebuilt(kind: type[ResolutionError], message: str, name: str) -> ResolutionError:
    return kind(message, name=name)


class NameNotFound(ResolutionError):
    """The name, or an address of the family asked for, does not exist.  Final."""

    eai = socket.EAI_NONAME


class NameTimeout(ResolutionError):
    """No name server answered in time.  May be asked again."""

    eai = socket.EAI_AGAIN


class NameServersFailed(ResolutionError):
    """Every name server failed (SERVFAIL, refused, malformed).  May be asked again."""

    eai = socket.EAI_AGAIN
