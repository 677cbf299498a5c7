"""Name resolution that a failover can trust: what a name means *now*, and when it changes.

`Resolver` for threads and `AsyncResolver` for asyncio share a cache, a schedule and all
decisions (`resilient.core.dns*`); dnspython reads and writes the messages.
"""

from __future__ import annotations

from resilient.core.dns import Answer, Change, Family, Mode
from resilient.errors import NameNotFound, NameServersFailed, NameTimeout, ResolutionError

from ._async import AsyncResolver
from ._inspect import Inspection, Link, inspect
from ._srv import Service
from ._sync import Resolver

__all__ = [
    "Answer",
    "AsyncResolver",
    "Change",
    "Family",
    "Inspection",
    "Link",
    "Mode",
    "NameNotFound",
    "NameServersFailed",
    "NameTimeout",
    "ResolutionError",
    "Resolver",
    "Service",
    "inspect",
]
