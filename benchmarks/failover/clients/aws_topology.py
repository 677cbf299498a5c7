"""The AWS Advanced Python Wrapper with a dialect for plain PostgreSQL, its documented extension
point: `failover_v2` and `host_monitoring_v2` at work.

Without such a dialect every call of `failover_v2` raises.  Who the writer is comes from a function
in the database, as an operator would write it: a standby names the server that it streams from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aws_advanced_python_wrapper.database_dialect import (
    DatabaseDialectManager,
    PgDatabaseDialect,
    TopologyAwareDatabaseDialect,
)
from aws_advanced_python_wrapper.host_list_provider import AuroraTopologyUtils, RdsHostListProvider

from ..target import Target
from . import aws_multihost

#: how long until a silent server counts as dead, as documented for impatient applications
IMPATIENT = {
    "failure_detection_time_ms": "1000",
    "failure_detection_interval_ms": "500",
    "failure_detection_count": "1",
}
#: which part of an address tells servers apart: 127.0.N.10
OWN = "split_part(host(inet_server_addr()), '.', 3)"


class Dialect(PgDatabaseDialect, TopologyAwareDatabaseDialect):
    """Plain PostgreSQL whose hosts are known."""

    _HOST_ID_QUERY = f"SELECT {OWN}, {OWN}"
    _WRITER_HOST_QUERY = f"SELECT {OWN} WHERE NOT pg_is_in_recovery()"

    def __init__(self, numbers: tuple[str, ...]) -> None:
        known = ", ".join(f"('{number}')" for number in numbers)
        self._TOPOLOGY_QUERY = (
            "SELECT id, id = split_part(public.bench_writer(), '.', 3), 0, 0, now()"
            f" FROM (VALUES {known}) AS known (id)"
        )

    def get_host_list_provider_supplier(self, plugin_service: Any) -> Callable[..., Any]:
        """What topology comes from."""
        return lambda service, props: RdsHostListProvider(
            service, plugin_service, props, AuroraTopologyUtils(self, props)
        )


class Client(aws_multihost.Client):
    """As the other one, with a topology."""

    def __init__(self, target: Target, *, tuned: bool = False) -> None:
        super().__init__(target)
        self._tuned = tuned
        numbers = tuple(host.split(".")[2] for host in target.hosts)
        DatabaseDialectManager.set_custom_dialect(Dialect(numbers))

    def options(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "plugins": "failover_v2,host_monitoring_v2,read_write_splitting",
            "host": self._target.hosts[0],
            "cluster_instance_host_pattern": "127.0.?.10",
            "cluster_id": "lab",
            "enable_connect_failover": True,
            "connect_timeout": 2,
        }
        return given | (IMPATIENT if self._tuned else {})

    def connect(self) -> Any:
        conn = super().connect()
        conn.read_only = False  # the host given may be a standby: this asks for the writer
        return conn
