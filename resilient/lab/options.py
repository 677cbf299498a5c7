"""What the lab may be asked for, and the error it raises when it can't oblige."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resilient.errors import ResilientError

__all__ = ["FAULTS", "HTTP_FAULTS", "POSTGRES_FAULTS", "LabError", "LabOptions"]

#: faults of the database's primary, each followed by a promotion
POSTGRES_FAULTS: Final = ("switchover", "crash", "hang", "blackhole", "zombie")
#: faults of one zone's HTTP upstream
HTTP_FAULTS: Final = ("upstream-down", "upstream-hang", "upstream-gone")
#: every fault that `Lab.inject` knows
FAULTS: Final = (*POSTGRES_FAULTS, "dns-flip", *HTTP_FAULTS)


class LabError(ResilientError):
    """The lab can't do what it was asked.  The text names the setting and the way out."""


@dataclass(frozen=True, slots=True)
class LabOptions:
    """How a lab is built.

    `zones`: 2 to 9, zone N lives on 127.0.N.10.  `sync`: a commit waits for any one standby.
    `port`, `http_port`, `dns_port`: None takes the usual one (5432, 8080, 53) inside a
    namespace of our own and a free one elsewhere.  `dns_ttl_s` belongs to the CNAMEs,
    `address_ttl_s` to the A records; DNS knows whole seconds only.  `data_dir` is the folder in
    which the lab makes (and at the end removes) its own; None is the system's temporary folder.
    `fsync=False` is quicker and still survives everything that the lab does to a server.
    """

    zones: int = 3
    sync: bool = True
    http: bool = True
    dns_ttl_s: float = 1.0
    address_ttl_s: float = 60.0
    port: int | None = None
    http_port: int | None = None
    dns_port: int | None = None
    data_dir: Path | str | None = None
    fsync: bool = True
    start_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not 2 <= self.zones <= 9:
            raise LabError(f"zones={self.zones}: the lab needs 2 to 9 zones")
        for name in ("dns_ttl_s", "address_ttl_s", "start_timeout_s"):
            if getattr(self, name) < 0:
                raise LabError(f"{name}={getattr(self, name)}: must not be negative")

    @property
    def zone_names(self) -> tuple[str, ...]:
        """`az1`, `az2`, … in order."""
        return tuple(f"az{n}" for n in range(1, self.zones + 1))


def zone_address(zone: str) -> str:
    """The address of everything in this zone: `az2` → `127.0.2.10`."""
    return f"127.0.{zone.removeprefix('az')}.10"


def zone_prefix(zone: str) -> str:
    """The zone's network: `az2` → `127.0.2.0/24`."""
    return f"127.0.{zone.removeprefix('az')}.0/24"
