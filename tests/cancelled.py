"""A task that is cancelled at one of its awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Cancelled:
    """Await a coroutine, and be cancelled at its `number`th await: then, or when that is `done`."""

    def __init__(self, coro: Coroutine[Any, Any, None], number: int, done: bool) -> None:
        self.coro, self.number, self.done = coro, number, done
        self.awaits = 0
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self.coro.__await__()
        failure: BaseException | None = None
        while True:
            try:
                waited = steps.send(None) if failure is None else steps.throw(failure)
            except StopIteration:
                return
            failure = None
            self.awaits += 1
            if self.awaits == self.number:
                if self.done and waited is not None:
                    waited.add_done_callback(lambda _: self.task.cancel())
                else:
                    self.task.cancel()
            try:
                yield waited
            except BaseException as exc:
                failure = exc
