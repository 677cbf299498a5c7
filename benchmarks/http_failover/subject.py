"""The HTTP client under test, in a process of its own.

python -m benchmarks.http_failover.subject CLIENT WAY URL
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from ..subject.child import serve
from ..subject.loops import Session, Task
from .clients import CLIENTS

__all__ = ["SESSIONS"]

GETTERS, GET_PACE_S, POST_PACE_S = 3, 0.010, 0.020
SESSIONS = (*(f"get {n + 1}" for n in range(GETTERS)), "order 1")


def sessions() -> list[Session]:
    """Three that read, one that orders."""
    found = [Session(name, GET_PACE_S, itertools.repeat(("get", 0))) for name in SESSIONS[:-1]]
    return [*found, Session(SESSIONS[-1], POST_PACE_S, itertools.repeat(("order", 0)))]


def perform(client: Any) -> Callable[[Task], Any]:
    """Does a task by threads; which zone answered."""

    def call(task: Task) -> str:
        order = f"/orders?id={task.id}"
        reply = client.get("/whoami") if task.kind == "get" else client.post(order)
        return str(reply["zone"])

    return call


def perform_async(client: Any) -> Callable[[Task], Awaitable[Any]]:
    """Does a task by coroutines."""

    async def call(task: Task) -> str:
        order = f"/orders?id={task.id}"
        reply = await (client.get("/whoami") if task.kind == "get" else client.post(order))
        return str(reply["zone"])

    return call


def main(argv: list[str]) -> None:
    """See the module."""
    name, way, url = argv[1:4]

    def make() -> tuple[Any, Callable[[Any], Any]]:
        client = CLIENTS[name].make(url)
        return client, (perform_async if client.asynchronous else perform)(client)

    serve(way, make, sessions())


if __name__ == "__main__":
    main(sys.argv)
