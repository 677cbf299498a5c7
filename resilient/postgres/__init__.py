"""Drop-ins for psycopg_pool's four pools."""

from __future__ import annotations

from .errors import (
    CommitOutcomeUnknown,
    DeadlineExceeded,
    FencedPrimary,
    LockLost,
    NoEndpointAvailable,
    RetryBudgetExhausted,
    TransactionReplayMismatch,
)
from .pool.listening import Gap
from .pool.lock import Lock
from .pool.lock_async import AsyncLock
from .pool.public import (
    AsyncConnectionPool,
    AsyncNullConnectionPool,
    ConnectionPool,
    NullConnectionPool,
)

__all__ = [
    "AsyncConnectionPool",
    "AsyncLock",
    "AsyncNullConnectionPool",
    "CommitOutcomeUnknown",
    "ConnectionPool",
    "DeadlineExceeded",
    "FencedPrimary",
    "Gap",
    "Lock",
    "LockLost",
    "NoEndpointAvailable",
    "NullConnectionPool",
    "RetryBudgetExhausted",
    "TransactionReplayMismatch",
]
