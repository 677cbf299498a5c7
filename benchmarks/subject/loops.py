"""The sessions of one client under test: loops of operations, each with its outcome on record.

A session makes one operation after the other.  In the way `plain` an error is the outcome; `retry`
tries again, naively, whatever the error was; `run` leaves it all to the library.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..judge.history import Kind, Op, Outcome

__all__ = ["AsyncSessions", "Session", "Shared", "SyncSessions", "Task"]

#: what naive retry loops do: wait a moment, give up after this
PAUSE_S, GIVE_UP_S = 0.05, 30.0
#: errors by which a library says, and means, that a write may have happened or not
HONEST = frozenset(
    {"CommitOutcomeUnknown", "RequestOutcomeUnknown", "TransactionResolutionUnknownError"}
)


@dataclass(slots=True)
class Task:
    """An operation under way."""

    session: str
    kind: Kind
    id: int = 0
    key: int = 0
    began_at: float = field(default_factory=time.monotonic)
    attempts: int = 1
    first_error_at: float | None = None

    def failed(self, error: BaseException, again: bool) -> Op | None:
        """Note an attempt's error; the operation, if it was the last one."""
        at = time.monotonic()
        self.first_error_at = self.first_error_at or at
        if again and at - self.began_at < GIVE_UP_S:
            self.attempts += 1
            return None
        return self.ended(error=error)

    def ended(self, result: Any = None, error: BaseException | None = None) -> Op:
        """The operation with its outcome."""
        outcome, text = outcome_of(error)
        return self._op(outcome, result, text)

    def stuck(self) -> Op:
        """The operation, if nobody waits for it any longer."""
        return self._op("stuck", None, f"stuck for {time.monotonic() - self.began_at:.1f} s")

    def _op(self, outcome: Outcome, result: Any, text: str) -> Op:
        return Op(
            session=self.session,
            kind=self.kind,
            began_at=self.began_at,
            ended_at=time.monotonic(),
            outcome=outcome,
            id=self.id,
            key=self.key,
            items=result if isinstance(result, tuple) else None,
            server=result if isinstance(result, str) else None,
            attempts=self.attempts,
            first_error_at=self.first_error_at,
            error=text,
        )


def outcome_of(error: BaseException | None) -> tuple[Outcome, str]:
    """What the caller was told, and its words."""
    if error is None:
        return "ok", ""
    text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
    honest = any(kind.__name__ in HONEST for kind in type(error).__mro__)
    return ("unknown" if honest else "error"), text


@dataclass(frozen=True, slots=True)
class Session:
    """`operations`: (kind, key) for ever; `pace_s`: between two of them."""

    name: str
    pace_s: float
    operations: Iterator[tuple[Kind, int]]


class Shared:
    """What all sessions use: ids, the gate, what is under way, and where operations go."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.ending = False
        self.ops: deque[Op] = deque()
        self.under_way: dict[str, Task] = {}
        self._ids = itertools.count(1)

    def begin(self, session: str, kind: Kind, key: int = 0) -> Task:
        """An operation begins."""
        number = next(self._ids) if kind not in ("read", "get") else 0
        task = self.under_way[session] = Task(session, kind, number, key)
        return task

    def end(self, op: Op) -> None:
        """It has its outcome."""
        self.ops.append(op)
        del self.under_way[op.session]


class SyncSessions:
    """A thread per session.  `perform(task)` returns what was read, or who answered."""

    def __init__(self, client: Any, perform: Callable[[Task], Any], shared: Shared) -> None:
        self._client, self._perform, self._shared = client, perform, shared

    def open(self) -> None:
        """Open the client."""
        self._client.open()

    def start(self, sessions: list[Session]) -> None:
        """Begin all sessions."""
        for session in sessions:
            threading.Thread(
                target=self._loop, args=(session,), name=session.name, daemon=True
            ).start()

    def _loop(self, session: Session) -> None:
        shared = self._shared
        for kind, key in session.operations:
            if shared.ending:
                return
            shared.end(self._one(shared.begin(session.name, kind, key)))
            time.sleep(session.pace_s)

    def _one(self, task: Task) -> Op:
        while True:
            try:
                return task.ended(self._perform(task))
            except Exception as error:  # whatever a caller would see is what is measured
                again = self._shared.way == "retry" and not self._shared.ending
                if op := task.failed(error, again):
                    return op
            time.sleep(PAUSE_S)


class AsyncSessions:
    """A task per session, on an event loop with a thread of its own."""

    def __init__(
        self, client: Any, perform: Callable[[Task], Awaitable[Any]], shared: Shared
    ) -> None:
        self._client, self._perform, self._shared = client, perform, shared
        self._loop_ = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        threading.Thread(target=self._loop_.run_forever, name="asyncio", daemon=True).start()

    def open(self) -> None:
        """Open the client."""
        self._call(self._client.open(), 30)

    def start(self, sessions: list[Session]) -> None:
        """Begin all sessions."""
        self._call(self._start(sessions), 5)

    def _call(self, work: Awaitable[None], timeout_s: float) -> None:
        asyncio.run_coroutine_threadsafe(_await(work), self._loop_).result(timeout_s)

    async def _start(self, sessions: list[Session]) -> None:
        self._tasks += [asyncio.create_task(self._loop(session)) for session in sessions]

    async def _loop(self, session: Session) -> None:
        shared = self._shared
        for kind, key in session.operations:
            if shared.ending:
                return
            shared.end(await self._one(shared.begin(session.name, kind, key)))
            await asyncio.sleep(session.pace_s)

    async def _one(self, task: Task) -> Op:
        while True:
            try:
                return task.ended(await self._perform(task))
            except Exception as error:  # as above
                again = self._shared.way == "retry" and not self._shared.ending
                if op := task.failed(error, again):
                    return op
            await asyncio.sleep(PAUSE_S)


async def _await(work: Awaitable[None]) -> None:
    await work
