"""What a client is told about the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["TUNED", "Target"]

#: what libpq's documentation has for finding dead peers, set to the seconds that a failover takes
TUNED = {
    "connect_timeout": 2,
    "tcp_user_timeout": 3000,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}


@dataclass(frozen=True, slots=True)
class Target:
    """`hosts`: every server's address, or the one name that is known.  `size`: connections."""

    hosts: tuple[str, ...]
    port: int
    size: int = 5

    @property
    def is_name(self) -> bool:
        """Whether only a CNAME is known."""
        return len(self.hosts) == 1

    def conninfo(self, **more: Any) -> str:
        """For libpq.  Of several hosts only one takes writes, and the client must say so."""
        given: dict[str, Any] = {"host": ",".join(self.hosts), "port": self.port}
        given |= {"user": "app", "dbname": "app"} | more
        return " ".join(f"{key}={value}" for key, value in given.items())

    def writer_conninfo(self, **more: Any) -> str:
        """The same, libpq looking for the server that takes writes."""
        return self.conninfo(target_session_attrs="read-write", **more)

    def url(self) -> str:
        """`postgresql://…`, each host with its port."""
        hosts = ",".join(f"{host}:{self.port}" for host in self.hosts)
        return f"postgresql://app@{hosts}/app"
