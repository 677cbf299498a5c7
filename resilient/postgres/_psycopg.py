"""Every private name of psycopg and of psycopg_pool that this package leans on, in one place.

`psycopg>=3.3.6,<3.4` and `psycopg-pool>=3.3.1,<3.4` are what was read.
`tests/postgres/test_psycopg_names.py` checks that each name is there, in the installed version,
in the shape that is used; that no module imports a private one around this file; and that no
module uses one that isn't declared here.
"""

from __future__ import annotations

from psycopg import errors
from psycopg._connection_base import BaseConnection
from psycopg._cursor_base import BaseCursor
from psycopg._pipeline_base import BasePipeline, PendingResult
from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresClientQuery, PostgresQuery
from psycopg._server_cursor_base import ServerCursorMixin
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
    "CONNECTION_ATTRIBUTES",
    "CONNECTION_METHODS",
    "CT",
    "CURSOR_ATTRIBUTES",
    "CURSOR_METHODS",
    "NO_TRACEBACK",
    "OPEN_ATTRIBUTES",
    "PIPELINE_ATTRIBUTES",
    "PIPELINE_METHODS",
    "POOL_ATTRIBUTES",
    "POOL_METHODS",
    "PREPARED_ATTRIBUTES",
    "SET_BY_POOLS",
    "TASK_METHODS",
    "TRANSACTION_ATTRIBUTES",
    "TRANSACTION_METHODS",
    "WAITING_ATTRIBUTES",
    "AddConnection",
    "AsyncAddConnection",
    "AsyncConnectFailedCB",
    "AsyncConnectionCB",
    "AsyncConninfoParam",
    "AsyncKwargsParam",
    "AsyncMaintenanceTask",
    "AsyncWaitingClient",
    "BaseConnection",
    "BaseCursor",
    "BasePipeline",
    "ConnectFailedCB",
    "ConnectionCB",
    "ConninfoParam",
    "KwargsParam",
    "MaintenanceTask",
    "PendingResult",
    "PostgresClientQuery",
    "PostgresQuery",
    "Prepare",
    "PrepareManager",
    "ServerCursorMixin",
    "WaitingClient",
    "aspawn",
    "spawn",
]

# -- psycopg

#: what psycopg raises without its own frames in the traceback
NO_TRACEBACK: tuple[type[BaseException], ...] = errors._NO_TRACEBACK
#: methods of a connection that are overridden or called
CONNECTION_METHODS = (
    "_check_connection_ok",
    "_connect_gen",
    "_check_intrans_gen",
    "_commit_gen",
    "_deallocate",
    "_exec_command",
    "_get_tx_start_command",
    "_start_query",
)
#: attributes of a connection that are read or changed
CONNECTION_ATTRIBUTES = (
    "_adapters",
    "_autocommit",
    "_begin_statement",
    "_closed",
    "_isolation_level",
    "_notice_handlers",
    "_notify_handlers",
    "_num_transactions",
    "_pipeline",
    "_prepared",
    "_read_only",
    "_tpc",
)
#: and those that psycopg declares for pools, which set them
SET_BY_POOLS = ("_created_at", "_expire_at", "_pool")
#: of a connection's store of prepared statements
PREPARED_ATTRIBUTES = ("_counts", "_names", "_prepared_idx", "_to_flush")
#: methods of a cursor that are overridden or called
CURSOR_METHODS = (
    "_check_results",
    "_convert_query",
    "_execmany_returning",
    "_execute_gen",
    "_executemany_gen_pipeline",
    "_maybe_prepare_gen",
    "_reset",
    "_set_results",
    "_start_copy_gen",
    "_stream_send_gen",
    "_start_query",
)
#: attributes of a cursor that are read or changed
CURSOR_ATTRIBUTES = (
    "_adapters",
    "_closed",
    "_conn",
    "_encoding",
    "_last_query",
    "_pgconn",
    "_query",
    "_query_cls",
    "_results",
    "_rowcount",
    "_tx",
)
#: methods of a pipeline that are overridden or called
PIPELINE_METHODS = (
    "_communicate_gen",
    "_enter_gen",
    "_exit",
    "_exit_gen",
    "_fetch_gen",
    "_process_results",
    "_sync_gen",
)
PIPELINE_ATTRIBUTES = ("_conn",)
#: methods of a transaction that are overridden or called
TRANSACTION_METHODS = ("_exit_gen",)
TRANSACTION_ATTRIBUTES = ("_conn",)

# -- psycopg_pool

#: methods of a pool that are overridden or called
POOL_METHODS = (
    "_add_to_pool",
    "_check_connection",
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
    "_check",
    "_closed",
    "_configure",
    "_drained_at",
    "_growing",
    "_lock",
    "_max_size",
    "_min_size",
    "_nconns",
    "_nconns_min",
    "_open_implicit",
    "_opened",
    "_pool",
    "_pool_full_event",
    "_reset",
    "_stats",
    "_waiting",
    "_workers",
)
#: and those that only an open one has
OPEN_ATTRIBUTES = ("_sched", "_sched_runner", "_tasks")
#: of the task and of the client that waits
TASK_METHODS = ("_run",)
WAITING_ATTRIBUTES = ("_cond",)
