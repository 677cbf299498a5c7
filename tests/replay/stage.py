"""A stage: many transactions of one shell live through the same failovers.

A failover and the repair after it take seconds, a transaction milliseconds.  So the acts of a
script begin together, each in a checkout of its own; each says where the failover shall strike
it, and when all have come to that point, it does.  What an act raised is its own test's result.

An act is written once: `do` and `within` run the sync shell's calls on a thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from resilient import postgres
from resilient.lab import Lab
from tests.postgres.conftest import settings_of

#: the statements that shall be under way when the fault strikes are sent this much before
LEAD_S = 0.1
PROMOTE_AFTER_S = 0.4
ACT_TIMEOUT_S = 20.0
ROWS = "select n from acts where act = %s order by n"


@dataclass
class Script:
    """`faults` strike in this order; the acts that ask for fewer end before."""

    title: str
    faults: tuple[str, ...]
    acts: dict[str, Callable[[Scene], Awaitable[None]]] = field(default_factory=dict)

    def act(self, fn: Callable[[Scene], Awaitable[None]]) -> Callable[[Scene], Awaitable[None]]:
        self.acts[fn.__name__] = fn
        return fn


_scripts: dict[str, Script] = {}


def script(title: str, *faults: str) -> Script:
    """The script with this title, made when it isn't known."""
    if faults:
        _scripts[title] = Script(title, faults)
    return _scripts[title]


@dataclass
class Report:
    """What the acts of a script ended with, by name."""

    ended: dict[str, BaseException | None]

    def check(self, name: str) -> None:
        failure = self.ended[name]
        if failure is not None:
            raise failure


class Shell:
    """One way to call the sync and the async shell."""

    def __init__(self, kind: str) -> None:
        self.is_async = kind == "async"

    async def do(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.is_async:
            return await asyncio.to_thread(fn, *args, **kwargs)
        result = fn(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    @asynccontextmanager
    async def within(self, manager: Any) -> AsyncIterator[Any]:
        if self.is_async:
            async with manager as value:
                yield value
            return
        value = await asyncio.to_thread(manager.__enter__)
        try:
            yield value
        except BaseException as exc:
            kind, trace = type(exc), exc.__traceback__
            if not await asyncio.to_thread(manager.__exit__, kind, exc, trace):
                raise
        else:
            await asyncio.to_thread(manager.__exit__, None, None, None)

    async def open(self, lab: Lab, dsn: str = "", **values: Any) -> Any:
        """A pool of this shell, with these settings; the caller closes it."""
        cls: Any = postgres.AsyncConnectionPool if self.is_async else postgres.ConnectionPool
        known = settings_of(lab, **values)
        pool = cls(dsn or lab.dsn, settings=known, open=False, min_size=2, max_size=80)
        await self.do(pool.open)
        await self.do(pool.wait)
        return pool

    @asynccontextmanager
    async def opened(self, lab: Lab, dsn: str = "", **values: Any) -> AsyncIterator[Any]:
        pool = await self.open(lab, dsn, **values)
        try:
            yield pool
        finally:
            await self.do(pool.close)

    async def rows(self, cursor: Any) -> list[Any]:
        found: list[Any] = await self.do(cursor.fetchall)
        return found

    async def row(self, conn: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        """The first row of a query."""
        cursor = await self.do(conn.execute, query, *args, **kwargs)
        return await self.do(cursor.fetchone)


class Stage(Shell):
    def __init__(self, lab: Lab, kind: str, title: str) -> None:
        super().__init__(kind)
        self.lab, self.kind, self.script = lab, kind, script(title)
        self._pools: dict[Any, Any] = {}
        self._opening = asyncio.Lock()
        self._exits = AsyncExitStack()
        #: which acts have come to each failover, or will never
        self._arrived: list[set[str]] = [set() for _ in self.script.faults]
        self._changed = asyncio.Condition()
        self.about_to = [asyncio.Event() for _ in self.script.faults]
        self.struck = [asyncio.Event() for _ in self.script.faults]
        self.settled = [asyncio.Event() for _ in self.script.faults]

    async def pool(self, **values: Any) -> Any:
        """A pool with these settings; acts with the same settings share it."""
        key = tuple(sorted(values.items()))
        async with self._opening:
            if key not in self._pools:
                pool = await self.open(self.lab, **values)
                self._exits.push_async_callback(self.do, pool.close)
                self._pools[key] = pool
        return self._pools[key]

    async def play(self) -> Report:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(120, "act"))
        async with self._exits:
            acts = {asyncio.create_task(self._act(n), name=n): n for n in self.script.acts}
            try:
                await self._strike_all()
                late = (await asyncio.wait(acts, timeout=ACT_TIMEOUT_S))[1]
            except BaseException:
                late = set(acts)
                raise
            finally:
                if late:
                    # A standby that can't follow any more (half a record at the end of a WAL
                    # segment) leaves every COMMIT waiting, on a primary that is well: that
                    # is the servers' doing, and ends with them healthy.
                    await asyncio.to_thread(self.lab.rejoin)
                    await asyncio.wait(late, timeout=ACT_TIMEOUT_S)
            ended = {name: task.result() for task, name in acts.items() if task.done()}
            never = [task for task in late if not task.done()]
            too_late = {acts[task]: AssertionError("it never ended") for task in never}
            return Report(ended | too_late)

    async def _act(self, name: str) -> BaseException | None:
        scene = Scene(self, name)
        try:
            await self.script.acts[name](scene)
        except BaseException as exc:
            return exc
        finally:
            for number in range(scene.seen, len(self.script.faults)):
                await self.arrive(number, name)
        return None

    async def arrive(self, number: int, name: str) -> None:
        async with self._changed:
            self._arrived[number].add(name)
            self._changed.notify_all()

    async def _strike_all(self) -> None:
        for number, fault in enumerate(self.script.faults):
            if number:
                await asyncio.to_thread(self.lab.rejoin)
            async with self._changed:
                here = self._changed.wait_for(
                    lambda at=number: len(self._arrived[at]) == len(self.script.acts)
                )
                try:
                    await asyncio.wait_for(here, ACT_TIMEOUT_S)
                except TimeoutError:
                    missing = set(self.script.acts) - self._arrived[number]
                    raise AssertionError(f"never came to their failover: {missing}") from None
            self.about_to[number].set()
            await asyncio.sleep(LEAD_S)
            run = self.lab.inject(fault, promote_after_s=PROMOTE_AFTER_S, dns_after_s=0)
            try:
                await asyncio.to_thread(run.wait_struck)
                self.struck[number].set()
                await asyncio.to_thread(run.wait_done)
                if run.durable_at is None:
                    # a standby that can't follow (a promotion at the end of a WAL segment
                    # has that now and then): commits would wait for it for ever
                    await asyncio.to_thread(self.lab.rejoin)
            finally:
                self.struck[number].set()
                self.settled[number].set()


class Scene(Shell):
    """What one act works with.  Its rows in `acts` carry its own name."""

    def __init__(self, stage: Stage, name: str) -> None:
        super().__init__(stage.kind)
        self.stage, self.name = stage, name
        self.key = f"{stage.script.title}-{stage.kind}-{name}"
        #: failovers that it has come to
        self.seen = 0
        #: what others do once the new primary serves, before the act goes on
        self.after_strike: Callable[[], Awaitable[None]] | None = None

    def block(self, **values: Any) -> AbstractAsyncContextManager[Any]:
        """A checkout, committed at its end; from a pool with these settings."""
        return self._block(values)

    @asynccontextmanager
    async def _block(self, values: dict[str, Any]) -> AsyncIterator[Any]:
        pool = await self.stage.pool(**values)
        async with self.within(pool.connection()) as conn:
            yield conn

    async def insert(self, conn: Any, *numbers: int) -> None:
        for number in numbers:
            await self.do(conn.execute, "insert into acts values (%s, %s)", (self.key, number))

    async def failover(self, *during: Awaitable[Any], settled: bool = False) -> list[Any]:
        """Returns once the fault has struck (`settled`: once the new primary serves).

        `during`: calls that are made just before, so that it strikes in the middle of them;
        as tasks, to be awaited.
        """
        stage, number = self.stage, self.seen
        self.seen += 1
        await stage.arrive(number, self.name)
        await stage.about_to[number].wait()
        tasks = [asyncio.ensure_future(call) for call in during]
        await (stage.settled if settled else stage.struck)[number].wait()
        if self.after_strike is not None:
            await self.after_strike()
        return tasks

    async def found(self, query: str = ROWS) -> list[int]:
        """What the present primary has of this act, duplicates kept."""
        await self.stage.settled[self.seen - 1].wait()

        return await asyncio.to_thread(numbers, self.stage.lab, self.key, query)


def numbers(lab: Lab, act: str, query: str = ROWS) -> list[int]:
    """What the present primary has of this act, duplicates kept."""
    where = lab.primary.conninfo.replace("dbname=postgres", "dbname=app")
    with psycopg.connect(where) as conn:
        return [row[0] for row in conn.execute(query.encode(), (act,))]
