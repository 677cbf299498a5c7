"""What a case is given: a pool of one side and shell, a way to cut it, and the truth.

    async def test_notify(play: Play) -> None:
        async with play.pool() as pool:
            end = await play.block(pool, f"notify told, '{play.n}'", cut=COMMIT_HELD)
        play.judge(end, done=play.heard())

A case is written once: sync calls run on the event loop's thread, which has nothing else to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
import signal as signals
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
import psycopg_pool

from resilient import postgres
from resilient.errors import CommitOutcomeUnknown
from resilient.lab.wire import Conversation, Cut, Direction, WireProxy
from resilient.settings import Settings

from .pg import Server

#: numbers that no other case has
_numbers = itertools.count(1)
SETTINGS: dict[str, Any] = {
    "deadline_s": 5,
    "probe_interval_s": 0.5,
    "connect_rate": 1000,
    "standby_min_size": 0,
}
#: `side-shell`: what the fixture `play` is made from, unless a case asks for others
BARE = ["bare-threads", "bare-tasks"]
OURS = ["ours-threads", "ours-tasks"]
PLAYS = [*BARE, *OURS]
#: with each of the resolvers, which make no difference to the bare pool
RESOLVED = [*BARE, *(f"{play}-{resolver}" for resolver in ("lsn", "ledger") for play in OURS)]
#: channels on which something may be told
CHANNELS = ("told", "ruled")


async def call(value: Any) -> Any:
    """What a call gave, in either shell."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def both(manager: Any) -> AsyncIterator[Any]:
    """A context manager of either shell."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


@dataclass(frozen=True, slots=True)
class Way:
    """Where a conversation is cut: at the first message of this side with these bytes."""

    name: str
    direction: Direction
    needle: bytes

    def __str__(self) -> str:
        return self.name


#: the server never sees the COMMIT
COMMIT_HELD = Way("COMMIT held back", "client", b"COMMIT")
#: it is done, the client doesn't hear of it (the tag of CommandComplete)
COMMIT_UNHEARD = Way("COMMIT's reply lost", "server", b"COMMIT\0")


def reply_with(text: str) -> Way:
    """The reply in which this text is: a column's name, a value, or a command's tag.  What
    it answers is done by then, because a server sends a short reply in one piece."""
    return Way(f"reply with {text} lost", "server", text.encode())


@dataclass(slots=True)
class CutAt(Cut):
    """Ends a conversation, once, before a message with these bytes."""

    needle: bytes = b""

    def count(self, talk: Conversation, direction: Direction, kind: str, frame: bytes) -> int:
        if direction != self.direction or (self.pid is not None and talk.pid != self.pid):
            return 0
        return 1 if self.needle in frame else 0


class Proxy(WireProxy):
    """A proxy that is told what to look out for, and whom to cut off now."""

    def add(self, cut: Cut) -> None:
        self._watches.append(cut)

    def forget_watches(self) -> None:
        self._watches.clear()

    def reset(self, pid: int) -> None:
        """End this backend's conversation without a word."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._reset(pid), self._loop).result(10)

    async def _reset(self, pid: int) -> None:
        for talk in self.conversations:
            if talk.pid == pid:
                talk.end("reset")


@dataclass(slots=True)
class End:
    """How a piece of work ended for its caller.  `value` is what it returned."""

    error: BaseException | None = None
    value: Any = None
    #: how often the work's function was entered (`run` may rerun it)
    runs: int = 0

    @property
    def well(self) -> bool:
        return self.error is None

    @property
    def unknown(self) -> bool:
        return isinstance(self.error, CommitOutcomeUnknown)

    @property
    def sqlstate(self) -> str | None:
        """The error's own, or that of the error which it was raised from."""
        exc = self.error
        return getattr(exc, "sqlstate", None) if exc is not None else None

    def __str__(self) -> str:
        if self.error is None:
            return f"success ({self.value!r})"
        return f"{type(self.error).__name__}[{self.sqlstate}]: {self.error}"


@dataclass(slots=True)
class Play:
    """One case on one side (`bare`: psycopg_pool) and in one shell."""

    server: Server
    proxy: Proxy
    side: str
    shell: str
    n: int = field(default_factory=lambda: next(_numbers))
    settings: dict[str, Any] = field(default_factory=dict)
    dbname: str = "app"
    listener: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.forget_watches()
        if self.listener is not None:
            self.listener.close()

    @property
    def bare(self) -> bool:
        return self.side == "bare"

    @property
    def dsn(self) -> str:
        """Through the proxy."""
        host, port = self.proxy.address
        return f"host={host} port={port} user=app dbname={self.dbname}"

    @asynccontextmanager
    async def pool(self, dsn: str = "", **options: Any) -> AsyncIterator[Any]:
        """An open pool of this side and shell, through the proxy, with one connection ready.
        The functions that it calls (`configure`, `check`, `reset`) are written once, for
        both shells, as all else."""
        for name in ("configure", "check", "reset"):
            if name in options:
                options[name] = self.once(options[name])
        options = {"min_size": 1, "max_size": 4, "timeout": 8, **options}
        name = "AsyncConnectionPool" if self.shell == "tasks" else "ConnectionPool"
        if not self.bare:
            options.setdefault("settings", Settings(**{**SETTINGS, **self.settings}))
        pool: Any = getattr(psycopg_pool if self.bare else postgres, name)(
            dsn or self.dsn, open=False, **options
        )
        await call(pool.open())
        try:
            await call(pool.wait(4))
            yield pool
        finally:
            await call(pool.close())

    # -- work

    async def attempt(self, work: Callable[[], Any]) -> End:
        """Do it, and note how it ends."""
        end = End()
        try:
            end.runs += 1
            end.value = await call(work())
        except Exception as exc:
            end.error = exc
        return end

    async def block(
        self, pool: Any, *statements: str, cut: Way | None = None, values: Any = None
    ) -> End:
        """These statements in one `with` block; the rows of the last one, if it has any.
        The cut is armed from the start, on that connection only."""

        async def work() -> Any:
            async with both(pool.connection()) as conn:
                self.arm(conn, cut)
                return await self._all(conn, statements, values)

        return await self.attempt(work)

    async def run(self, pool: Any, *statements: str, cut: Way | None = None) -> End:
        """The same with `pool.run`, which the bare pool doesn't have."""
        end = End()

        async def work(conn: Any) -> Any:
            end.runs += 1
            if end.runs == 1:
                self.arm(conn, cut)
            return await self._all(conn, statements, None)

        try:
            end.value = await call(pool.run(self.once(work)))
        except Exception as exc:
            end.error = exc
        return end

    def once(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """A coroutine function as this shell calls it."""
        return fn if self.shell == "tasks" else as_sync(fn)

    async def alone(self, pool: Any, statement: str, cut: Way | None = None, **options: Any) -> End:
        """One statement in autocommit; its rows."""

        async def work() -> Any:
            async with both(pool.connection(**options)) as conn:
                if not conn.autocommit:
                    await call(conn.set_autocommit(True))
                try:
                    self.arm(conn, cut)
                    return await self._all(conn, [statement], None)
                finally:
                    if not conn.closed:
                        with contextlib.suppress(psycopg.Error):
                            await call(conn.set_autocommit(False))

        return await self.attempt(work)

    async def one(self, conn: Any, query: str) -> Any:
        """The first row of a query."""
        return await call((await call(conn.execute(query))).fetchone())

    def arm(self, conn: Any, way: Way | None) -> None:
        """Cut this connection's session off there; what takes its place is left alone."""
        if way is not None:
            pid = conn.info.backend_pid
            self.proxy.add(CutAt(pid, direction=way.direction, side="before", needle=way.needle))

    def cut_off(self, conn: Any) -> None:
        """Reset this connection now, without a word."""
        self.proxy.reset(conn.info.backend_pid)

    async def _all(self, conn: Any, statements: Any, values: Any) -> Any:
        rows = None
        for statement in statements:
            cursor = await call(conn.execute(statement, values))
            rows = await call(cursor.fetchall()) if cursor.description else None
        return rows

    # -- operators

    @contextmanager
    def killing(self, when: str, *, most: int = 1, signal: int = 0) -> Iterator[list[float]]:
        """Meanwhile an operator ends this side's sessions for which `when` holds, a condition
        on pg_stat_activity, with pg_terminate_backend (or with a signal of the kernel); the
        moments at which he did are in the list."""
        kills: list[float] = []
        stop = threading.Event()
        query = f"""select pid from pg_stat_activity a where usename = 'app'
        and datname = '{self.dbname}' and ({when})"""
        thread = threading.Thread(target=self._kill, args=(query, signal, most, kills, stop))
        thread.start()
        try:
            yield kills
        finally:
            stop.set()
            thread.join()

    def _kill(
        self, query: str, signal: int, most: int, kills: list[float], stop: threading.Event
    ) -> None:
        dead: set[int] = set()  # a session is listed for a moment after its process was killed
        while not stop.is_set() and len(kills) < most:
            with contextlib.suppress(psycopg.OperationalError), self.server.connect() as conn:
                while not stop.is_set() and len(kills) < most:
                    for (pid,) in conn.execute(query.encode()).fetchall():
                        if pid in dead:
                            continue
                        kills.append(time.monotonic())
                        if signal:
                            dead.add(pid)
                            os.kill(int(str(pid)), signal)
                        else:
                            conn.execute("select pg_terminate_backend(%s)", [pid])
                    stop.wait(0.01)

    def executions(self) -> int:
        """How often something that counts itself was executed, by whomever."""
        query = "select last_value - 1 + is_called::int from executions"
        return int(self.admin(query)[0][0])

    def crash(self) -> None:
        """Fell the server by a kill -9 of a session of nobody's; it is up again."""
        with self.server.connect() as conn:
            os.kill(conn.info.backend_pid, signals.SIGKILL)
        self.server.settle()

    def wait_gone(self, pid: int) -> None:
        """Wait until the server has ended this session by itself."""
        give_up_at = time.monotonic() + 5
        while self.admin(f"select 1 from pg_stat_activity where pid = {pid}"):
            assert time.monotonic() < give_up_at, f"session {pid} goes on"
            time.sleep(0.01)

    # -- the truth

    def admin(self, query: str, dbname: str = "") -> list[Any]:
        return self.server.admin(query, dbname or self.dbname)

    def struck(self) -> int:
        """How often this case's number was written here."""
        self.server.settle()
        return int(self.admin(f"select count(*) from marks where n = {self.n}")[0][0])

    def sent(self) -> int:
        """How often it was written in the other database."""
        self.server.settle()
        return int(self.admin(f"select count(*) from marks where n = {self.n}", "far")[0][0])

    def listen(self) -> None:
        """Hear what is told from now on; before the work."""
        conninfo = f"{self.server.conninfo} dbname={self.dbname}"
        self.listener = psycopg.connect(conninfo, autocommit=True)
        for channel in CHANNELS:
            self.listener.execute(f"listen {channel}")

    def heard(self) -> int:
        """How often something was told with this case's number, or without any."""
        self.server.settle()
        self.listener.execute("notify told, 'end'")
        count = 0
        for notify in self.listener.notifies(timeout=5):
            if notify.payload == "end":
                break
            count += notify.payload in ("", str(self.n))
        return count

    def judge(self, end: End, done: int) -> None:
        """Nothing is told by guess, and nothing is done twice; who says it failed is right."""
        assert done <= 1, f"done {done} times; told: {end}"
        if end.well:
            assert done == 1, f"a false success: done {done} times"
        elif self.bare:
            assert isinstance(end.error, psycopg.Error), end
        else:
            assert isinstance(end.error, psycopg.OperationalError), end
            assert end.unknown or done == 0, f"done, and told that it failed: {end}"


def as_sync(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function that only waits for `call`s, as a plain one for the sync shell."""

    def run(*args: Any) -> Any:
        try:
            fn(*args).send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("a sync call waited for the event loop")

    return run
