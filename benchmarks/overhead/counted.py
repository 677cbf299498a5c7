"""A process whose instructions are counted: it uses a pool in each cell, and marks where it is.

python -m benchmarks.overhead.counted SIDE CONNINFO MARKS        (SIDE: bare, ours, off)

It reads the cells as JSON, one a line, from its input.  MARKS is a library with two functions:
`begin` has callgrind count from there on, `mark` has it write down what it has counted.  In each
cell there are three marks: between the first two are N calls, between the others 2 N.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from .cells import Cell

#: under callgrind everything takes so many times as long; what is done once a time has passed is
#: done as often as it is without callgrind
SLOWER = 50
TIMES = (
    ("resilient.postgres.pool.plainly", "LOOK_S"),
    ("resilient.postgres.pool.shell", "LOOK_S"),
    ("resilient.postgres.pool.telling", "WAITED_S"),
    ("resilient.postgres.replay.journal", "FRESH_S"),
    ("resilient.postgres.replay.message", "FLUSH_ASK_S"),
    ("resilient.postgres.replay.recorder", "FLUSH_ASK_S"),
)
#: calls before anything is counted: statements are prepared at their fifth, and the interpreter
#: has settled on how it does things (of calls that take long, fewer)
WARM, WARM_LONG = 20, 8
#: then workers have so long, in seconds, for what they were told meanwhile, and all of it once
#: more: under callgrind they hardly get to run beside the thread that calls
SETTLE_S = 0.3


class Marks:
    """Where the process is, for callgrind."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self._counting = False

    def begin(self) -> None:
        """Count from here on; until then everything goes quicker."""
        if not self._counting:
            self._counting = True
            self._library.begin()

    def __call__(self) -> None:
        self._library.mark()


def slowed() -> None:
    for module, name in TIMES:
        try:
            found = importlib.import_module(module)
            setattr(found, name, getattr(found, name) * SLOWER)
        except (ImportError, AttributeError):  # another version
            continue
    with suppress(ImportError):
        catalogue: Any = importlib.import_module("resilient.postgres.replay.catalogue")
        catalogue.BRIEFLY = catalogue.BRIEFLY.replace(b"100ms", b"5s")


def pool_of(side: str, conninfo: str, cell: Cell) -> Any:
    """A pool of that side for the cell's mode and shell, not open yet."""
    arguments: dict[str, Any] = {
        "kwargs": {"autocommit": cell.mode == "autocommit"},
        "min_size": 4,  # one is for the monitor's questions, and two are idle all the same
        "max_size": 4,
        "timeout": 120.0,
        "open": False,
    }
    if side == "bare":
        import psycopg_pool as module
    else:
        import resilient.postgres as module  # type: ignore[no-redef]
        from resilient.settings import Settings

        off = side == "off"
        arguments["settings"] = Settings(
            commit_resolver="off" if off else "lsn",
            replay="off" if off else "on",
            probe_timeout_s=30.0,  # everything takes fifty times as long here
            deadline_s=120.0,
        )
    kind = module.AsyncConnectionPool if cell.shell == "async" else module.ConnectionPool
    return kind(conninfo, **arguments)


def asks(cell: Cell, number: int) -> tuple[str, Any]:
    """The text and the parameters of a statement."""
    given = cell.given != "none"
    if cell.pattern == "executemany":
        value = "%s" if given else "1"
        text = f"insert into bench values ({value})" if cell.does == "writes" else f"select {value}"
        return text, [(1,) if given else ()] * cell.rows
    rows = "%s" if given else str(cell.rows)
    if cell.does == "writes" and number % 2 == 0:
        text = f"insert into bench select generate_series(1, {rows}) returning i"
    else:
        text = f"select i from generate_series(1, {rows}) as i"
    return text, (cell.rows,) if given else None


def statements(cell: Cell) -> list[tuple[str, Any]]:
    return [asks(cell, number) for number in range(cell.statements)]


PREPARE = {"none": None, "parameters": False, "prepared": True}


# ---- threads -------------------------------------------------------------------------


@contextmanager
def calls(pool: Any, cell: Cell) -> Iterator[Callable[[], Any]]:
    """What is called."""
    asked, prepare, bare = statements(cell), PREPARE[cell.given], not hasattr(pool, "run")
    half = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    commits = cell.mode == "default"

    def work(conn: Any, some: list[tuple[str, Any]] = asked) -> None:
        for text, params in some:
            conn.execute(text, params, prepare=prepare).fetchall()

    def block() -> None:
        with pool.connection() as conn:
            work(conn)

    def transaction() -> None:
        with pool.connection() as conn, conn.transaction():
            work(conn)

    def nested() -> None:
        with pool.connection() as conn, conn.transaction():
            work(conn, half[0])
            with conn.transaction():
                work(conn, half[1])

    def run() -> None:
        pool.run(work)

    def executemany() -> None:
        with pool.connection() as conn:
            for text, rows in asked:
                conn.cursor().executemany(text, rows)

    def pipeline() -> None:
        with pool.connection() as conn, conn.pipeline():
            found = [conn.execute(text, params, prepare=prepare) for text, params in asked]
            for cursor in found:
                cursor.fetchall()

    if cell.pattern != "statement":
        found = {"block": block, "transaction": transaction, "nested": nested, "run": run}
        found |= {"executemany": executemany, "pipeline": pipeline}
        yield found["transaction" if cell.pattern == "run" and bare else cell.pattern]
        return
    with pool.connection() as conn:

        def statement() -> None:
            for text, params in asked:
                conn.execute(text, params, prepare=prepare).fetchall()
                if commits:
                    conn.commit()

        yield statement


def by_threads(side: str, conninfo: str, cells: list[Cell], mark: Marks) -> None:
    pools: dict[str, Any] = {}
    for cell in cells:
        if cell.mode not in pools:
            pools[cell.mode] = pool_of(side, conninfo, cell)
            pools[cell.mode].open(wait=True, timeout=120.0)
        with calls(pools[cell.mode], cell) as call:
            counted(cell, call, mark)
    for pool in pools.values():
        pool.close()


def counted(cell: Cell, call: Callable[[], Any], mark: Marks) -> None:
    for _ in range(2):
        for _ in range(WARM if cell.rows == 1 else WARM_LONG):
            call()
        time.sleep(SETTLE_S)
    count = cell.repeats
    gc.collect()
    mark.begin()
    mark()
    for _ in range(count):
        call()
    mark()
    for _ in range(2 * count):
        call()
    mark()
    print(cell.key, flush=True)


# ---- tasks ---------------------------------------------------------------------------


@asynccontextmanager
async def calls_async(pool: Any, cell: Cell) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """What is called."""
    asked, prepare, bare = statements(cell), PREPARE[cell.given], not hasattr(pool, "run")
    half = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    commits = cell.mode == "default"

    async def work(conn: Any, some: list[tuple[str, Any]] = asked) -> None:
        for text, params in some:
            await (await conn.execute(text, params, prepare=prepare)).fetchall()

    async def block() -> None:
        async with pool.connection() as conn:
            await work(conn)

    async def transaction() -> None:
        async with pool.connection() as conn, conn.transaction():
            await work(conn)

    async def nested() -> None:
        async with pool.connection() as conn, conn.transaction():
            await work(conn, half[0])
            async with conn.transaction():
                await work(conn, half[1])

    async def run() -> None:
        await pool.run(work)

    async def executemany() -> None:
        async with pool.connection() as conn:
            for text, rows in asked:
                await conn.cursor().executemany(text, rows)

    async def pipeline() -> None:
        async with pool.connection() as conn, conn.pipeline():
            found = [await conn.execute(text, params, prepare=prepare) for text, params in asked]
            for cursor in found:
                await cursor.fetchall()

    if cell.pattern != "statement":
        found = {"block": block, "transaction": transaction, "nested": nested, "run": run}
        found |= {"executemany": executemany, "pipeline": pipeline}
        yield found["transaction" if cell.pattern == "run" and bare else cell.pattern]
        return
    async with pool.connection() as conn:

        async def statement() -> None:
            for text, params in asked:
                await (await conn.execute(text, params, prepare=prepare)).fetchall()
                if commits:
                    await conn.commit()

        yield statement


async def by_tasks(side: str, conninfo: str, cells: list[Cell], mark: Marks) -> None:
    pools: dict[str, Any] = {}
    for cell in cells:
        if cell.mode not in pools:
            pools[cell.mode] = pool_of(side, conninfo, cell)
            await pools[cell.mode].open(wait=True, timeout=120.0)
        async with calls_async(pools[cell.mode], cell) as call:
            await counted_async(cell, call, mark)
    for pool in pools.values():
        await pool.close()


async def counted_async(cell: Cell, call: Callable[[], Awaitable[Any]], mark: Marks) -> None:
    for _ in range(2):
        for _ in range(WARM if cell.rows == 1 else WARM_LONG):
            await call()
        await asyncio.sleep(SETTLE_S)
    count = cell.repeats
    gc.collect()
    mark.begin()
    mark()
    for _ in range(count):
        await call()
    mark()
    for _ in range(2 * count):
        await call()
    mark()
    print(cell.key, flush=True)


def main(argv: list[str]) -> None:
    side, conninfo = argv[1:3]
    mark = Marks(argv[3])
    if side != "bare":
        slowed()
    cells = [Cell(**json.loads(line)) for line in sys.stdin]
    gc.disable()
    by_threads(side, conninfo, [cell for cell in cells if cell.shell == "sync"], mark)
    if tasks := [cell for cell in cells if cell.shell == "async"]:
        asyncio.run(by_tasks(side, conninfo, tasks, mark))


if __name__ == "__main__":
    main(sys.argv)
