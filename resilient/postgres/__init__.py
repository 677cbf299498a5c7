"""Drop-ins for psycopg_pool's four pools."""

from __future__ import annotations

from .errors import (
    CommitOutcomeUnknown,
    DeadlineExceeded,
    FencedPrimary,
    NoEndpointAvailable,
    RetryBudgetExhausted,
    TransactionReplayMismatch,
)
from .pool.listening import Gap
from .pool.public import (
    AsyncConnectionPool,
    AsyncNullConnectionPool,
    ConnectionPool,
    NullConnectionPool,
)

__all__ = [
    "AsyncConnectionPool",
    "AsyncNullConnectionPool",
    "CommitOutcomeUnknown",
    "ConnectionPool",
    "DeadlineExceeded",
    "FencedPrimary",
    "Gap",
    "NoEndpointAvailable",
    "NullConnectionPool",
    "RetryBudgetExhausted",
    "TransactionReplayMismatch",
]
