"""The pools that a pool has beside itself: of its replicas, and for writes where it reads."""

from __future__ import annotations

from typing import Any

from ...core.intent import Wanted
from ...core.model import Endpoint
from ...core.routing import Target
from ...settings import Settings

#: what an explicit intent to write takes
WRITER = Wanted(Target.READ_WRITE)


def replica_arguments(pool: Any, settings: Settings, endpoint: Endpoint | None) -> dict[str, Any]:
    """The constructor's arguments of a replica's pool, from those of the pool it is for; without
    an endpoint those of the pool for its explicit writes, which keeps none warm."""
    warm = settings.standby_min_size if endpoint else 0
    most = max(pool._max_size, 1) + warm
    if endpoint and settings.replica_max_size is not None:
        most = max(settings.replica_max_size, warm + 1)  # readers have none of the warm ones
    suffix = (endpoint.address or endpoint.name) if endpoint else "writer"
    return {
        "connection_class": pool.connection_class,
        "kwargs": pool.kwargs,
        "min_size": warm,
        "max_size": most,
        "configure": pool._configure,
        "check": pool._check,
        "reset": pool._reset,
        "name": f"{pool.name}-{suffix}",
        "close_returns": pool.close_returns,
        "timeout": pool.timeout,
        "max_lifetime": pool.max_lifetime,
        "max_idle": pool.max_idle,
        "reconnect_timeout": pool.reconnect_timeout,
        "num_workers": 1,
    }


def beside(pool: Any, kind: type[Any], settings: Settings) -> Any:
    """The pool for the explicit writes of one that reads by default, of this public class; closed
    with it."""
    arguments = replica_arguments(pool, settings, None)
    made = kind(pool.conninfo, settings=settings, open=False, **arguments)
    made._core.only_writes()
    return made
