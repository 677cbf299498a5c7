"""SQLAlchemy over the resilient pools: the dialect `postgresql+resilient://`.

    engine = sqlalchemy.create_engine("postgresql+resilient://app@writer.db/shop")
    reading = engine.execution_options(read_only=True)
    run(sessionmaker(engine), place_order, item)

It is SQLAlchemy's own psycopg dialect, threads and asyncio, with the engine's pool replaced by one
of `resilient.postgres`.  An empty URL takes the environment's (`RESILIENT_DATABASE_URL`).
"""

from __future__ import annotations

from .dialect import AsyncDialect, Dialect
from .errors import (
    CommitOutcomeUnknown,
    DeadlineExceeded,
    NoEndpointAvailable,
    RetryBudgetExhausted,
    TransactionReplayMismatch,
)
from .pool import Pool
from .running import create_async_engine, create_engine, run

__all__ = [
    "AsyncDialect",
    "CommitOutcomeUnknown",
    "DeadlineExceeded",
    "Dialect",
    "NoEndpointAvailable",
    "Pool",
    "RetryBudgetExhausted",
    "TransactionReplayMismatch",
    "create_async_engine",
    "create_engine",
    "run",
]
