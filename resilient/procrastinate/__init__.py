"""procrastinate over the resilient pools.

    app = procrastinate.App(connector=PsycopgConnector())   # where: RESILIENT_DATABASE_URL

Queries are run again on a failover, and a worker goes on listening for jobs on the new primary.
"""

from __future__ import annotations

from .connectors import PsycopgConnector, SyncPsycopgConnector

__all__ = ["PsycopgConnector", "SyncPsycopgConnector"]
