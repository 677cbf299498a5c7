"""One monitored cluster per target and settings, shared by every pool of the process."""

from __future__ import annotations

import os
import threading
from dataclasses import field

from ..._dataclass import dataclass
from ...monitor.cluster import Cluster
from ...settings import Settings
from ..bounded import has_password
from ..probe import PgProber
from ..target import Target


@dataclass(slots=True)
class Shared:
    """A cluster, its prober, and how many pools use them."""

    cluster: Cluster
    prober: PgProber
    key: tuple[object, ...]
    pid: int = field(default_factory=os.getpid)
    users: int = 0


_lock = threading.RLock()
_shared: dict[tuple[object, ...], Shared] = {}


def attach(target: Target, settings: Settings) -> Shared:
    """The monitored cluster of a target; pair with `detach`."""
    params = dict(target.params)
    key = (target.names, params.get("user"), params.get("dbname"), settings)
    with _lock:
        shared = _shared.get(key)
        if shared is None:
            prober = PgProber(target.params, target.names)
            database = str(params.get("dbname") or params.get("user") or "")
            cluster = Cluster(target.names, settings, prober, database)
            shared = _shared[key] = Shared(cluster, prober, key)
            prober.gate = shared.cluster
        shared.users += 1
        shared.prober.params = target.params
        shared.cluster.uses_password = has_password(params)
        return shared


def detach(shared: Shared, wait: bool = True) -> None:
    """Give the cluster back; the last one ends its probes."""
    with _lock:
        shared.users -= 1
        last = shared.users <= 0
        if last and _shared.get(shared.key) is shared:
            del _shared[shared.key]
    if last and shared.pid == os.getpid():
        shared.cluster.close(wait)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
