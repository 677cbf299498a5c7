"""Every private name of psycopg_pool that this package leans on, in one place.

`psycopg-pool>=3.3,<3.4` is pinned for this; `tests/postgres/test_upstream.py` checks that
each name is still there and has the shape that is used.
"""

from __future__ import annotations

from psycopg_pool._acompat import aspawn, spawn
from psycopg_pool.abc import (
    ACT,
    CT,
    AsyncConnectFailedCB,
    AsyncConnectionCB,
    AsyncConninfoParam,
    AsyncKwargsParam,
    ConnectFailedCB,
    ConnectionCB,
    ConninfoParam,
    KwargsParam,
)
from psycopg_pool.pool import AddConnection, MaintenanceTask, WaitingClient
from psycopg_pool.pool_async import AddConnection as AsyncAddConnection
from psycopg_pool.pool_async import MaintenanceTask as AsyncMaintenanceTask
from psycopg_pool.pool_async import WaitingClient as AsyncWaitingClient

__all__ = [
    "ACT",
    "CT",
    "OPEN_ATTRIBUTES",
    "POOL_ATTRIBUTES",
    "POOL_METHODS",
    "AddConnection",
    "AsyncAddConnection",
    "AsyncConnectFailedCB",
    "AsyncConnectionCB",
    "AsyncConninfoParam",
    "AsyncKwargsParam",
    "AsyncMaintenanceTask",
    "AsyncWaitingClient",
    "ConnectFailedCB",
    "ConnectionCB",
    "ConninfoParam",
    "KwargsParam",
    "MaintenanceTask",
    "WaitingClient",
    "aspawn",
    "spawn",
]

#: methods of a pool that are overridden or called
POOL_METHODS = (
    "_add_to_pool",
    "_check_connection",
    "_check_open_getconn",
    "_close_connection",
    "_connect",
    "_get_ready_connection",
    "_getconn_unchecked",
    "_maybe_grow_pool",
    "_resolve_conninfo",
    "_resolve_kwargs",
    "_return_connection",
    "_shrink_pool",
    "_start_workers",
    "run_task",
    "schedule_task",
)
#: attributes of a pool that are read or changed
POOL_ATTRIBUTES = (
    "_closed",
    "_drained_at",
    "_lock",
    "_max_size",
    "_min_size",
    "_nconns",
    "_nconns_min",
    "_pool",
    "_stats",
    "_waiting",
    "_workers",
)
#: and those that only an open one has
OPEN_ATTRIBUTES = ("_sched", "_tasks")
