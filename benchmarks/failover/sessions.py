"""What the sessions of a database client do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

from ..judge.history import Kind
from ..subject.loops import Session, Task
from . import work

#: appends to a list before the next one; so many lists there are
TURNS, LISTS = 200, 1000

__all__ = ["Sizes", "perform", "perform_async", "sessions"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sessions of each kind, and seconds between two of their operations."""

    inserters: int = 3
    appenders: int = 1
    readers: int = 1
    insert_pace_s: float = 0.010
    append_pace_s: float = 0.020
    read_pace_s: float = 0.025

    @property
    def sessions(self) -> int:
        """All of them."""
        return self.inserters + self.appenders + self.readers

    @property
    def writers(self) -> list[str]:
        """Names of those that write."""
        names = [f"insert {n + 1}" for n in range(self.inserters)]
        return names + [f"append {n + 1}" for n in range(self.appenders)]


def sessions(sizes: Sizes) -> list[Session]:
    """All of them.  Each appender has lists of its own, and reads after every append."""
    names = sizes.writers
    inserters, appenders = names[: sizes.inserters], names[sizes.inserters :]
    keys = range(1, sizes.appenders + 1)
    return [
        *(Session(name, sizes.insert_pace_s, repeat(("insert", 0))) for name in inserters),
        *(
            Session(name, sizes.append_pace_s, _in_turn(["append", "read"], [key], sizes))
            for name, key in zip(appenders, keys, strict=True)
        ),
        *(
            Session(f"read {n + 1}", sizes.read_pace_s, _in_turn(["read"], [*keys] or [1], sizes))
            for n in range(sizes.readers)
        ),
    ]


def _in_turn(
    kinds: Sequence[Kind], keys: Sequence[int], sizes: Sizes
) -> Iterator[tuple[Kind, int]]:
    """Each of the lists, and after a while the next ones: a list must not grow for ever."""
    for block in count():
        first = block * sizes.appenders % LISTS
        for _ in range(TURNS):
            yield from ((kind, key + first) for key in keys for kind in kinds)


def perform(client: Any, way: str) -> Callable[[Task], Any]:
    """Does a task by threads."""
    do = client.run if way == "run" else client.block
    steps: dict[Kind, Callable[[Task, work.Ask], Any]] = {
        "insert": lambda task, ask: work.insert(ask, task.id),
        "append": lambda task, ask: work.append(ask, task.key, task.id),
        "read": lambda task, ask: work.read(ask, task.key),
    }
    return lambda task: do(lambda ask: steps[task.kind](task, ask))


def perform_async(client: Any, way: str) -> Callable[[Task], Awaitable[Any]]:
    """Does a task by coroutines."""
    do = client.run if way == "run" else client.block
    steps: dict[Kind, Callable[[Task, work.AsyncAsk], Awaitable[Any]]] = {
        "insert": lambda task, ask: work.insert_async(ask, task.id),
        "append": lambda task, ask: work.append_async(ask, task.key, task.id),
        "read": lambda task, ask: work.read_async(ask, task.key),
    }

    async def call(task: Task) -> Any:
        return await do(lambda ask: steps[task.kind](task, ask))

    return call
