"""The embedded multi-zone lab: what the drill, the tests and the benchmarks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dns_server import DnsFaults, DnsServer, Query
    from .embedded import Lab
    from .faults import FaultRun
    from .options import FAULTS, HTTP_FAULTS, POSTGRES_FAULTS, LabError, LabOptions
    from .postgres import Member, MemberState
    from .upstreams import Upstream

__all__ = [
    "FAULTS",
    "HTTP_FAULTS",
    "POSTGRES_FAULTS",
    "DnsFaults",
    "DnsServer",
    "FaultRun",
    "Lab",
    "LabError",
    "LabOptions",
    "Member",
    "MemberState",
    "Query",
    "Upstream",
]

_HOMES = {
    "DnsFaults": "dns_server",
    "DnsServer": "dns_server",
    "Query": "dns_server",
    "Lab": "embedded",
    "FaultRun": "faults",
    "Member": "postgres",
    "MemberState": "postgres",
    "Upstream": "upstreams",
}


def __getattr__(name: str) -> object:
    # on demand: `python -m resilient.lab.namespace` must start at once and import nothing twice
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES.get(name, 'options')}", __name__), name)
