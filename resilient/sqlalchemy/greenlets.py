"""Where SQLAlchemy's asyncio code waits: its names in 2.0 and 2.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.util import concurrency

#: SQLAlchemy 2.0 calls it `await_only`
await_: Callable[[Any], Any] = getattr(concurrency, "await_", None) or concurrency.await_only
in_greenlet: Callable[[], bool] = concurrency.in_greenlet
spawn: Callable[..., Any] = concurrency.greenlet_spawn
