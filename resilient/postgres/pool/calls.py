"""What the core of a pool has the pool do.

A core decides and holds no connections; it may outlive its pool, which goes when its user lets it
go.  So the pool hands out its own methods, held weakly.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar
from weakref import WeakMethod

from ..._dataclass import dataclass
from ...core.model import Endpoint, Topology
from ...core.reach import Asked
from .._psycopg import BaseConnection

P = ParamSpec("P")
R = TypeVar("R")
Conn = BaseConnection[Any]


def weakly(method: Callable[P, R]) -> Callable[P, R | None]:
    """The bound method, which keeps its object no longer than others do; then it gives None."""
    found = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> R | None:
        bound = found()
        return None if bound is None else bound(*args, **kwargs)

    return call


def _nothing(*_: object) -> None:
    """There is no pool."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Each may be called on any thread; without a pool it does nothing, and gives None.

    `changed`: there is a new topology (the old one, the new one).  `try_lend`, `try_return` and
    `try_overdue`: an idle connection is lent to a probe, comes back, takes long; False: not now.
    `look_up`: have the catalogue asked of these statements, where so many connections are idle;
    False: there aren't.
    `renew`: have the functions asked that give the credentials.  `release_idle`: give up the idle
    connections that nobody has had.  `fresh_lock`: in a forked child, the parent's may be held.
    """

    changed: Callable[[Topology, Topology], None] = _nothing
    try_lend: Callable[[Endpoint, Future[Conn | None]], bool | None] = _nothing
    try_return: Callable[[Conn], bool | None] = _nothing
    try_overdue: Callable[[Conn], bool | None] = _nothing
    look_up: Callable[[list[Asked], int], bool | None] = _nothing
    renew: Callable[[], None] = _nothing
    release_idle: Callable[[], list[Conn] | None] = _nothing
    fresh_lock: Callable[[], None] = _nothing
