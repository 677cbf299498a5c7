"""Programs made at random: what a caller may do with a connection, in any order.

A program is a list of acts, `(name, number, acts inside)`.  `Playing` does them on a connection of
either side and shell and notes what a caller sees: rows, counts, tags, errors and how the
transaction stands.  What it writes bears the program's name, so that runs don't meet.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import pq, rows, sql

from .play import Play, both, call

SETUP = """
create table written (k text primary key, v int);
create table numbered (id serial primary key, k text);
grant all on written, numbered to app; grant all on sequence numbered_id_seq to app"""
NAMES = "select k, v from written where k like '{0}-%' union all select k, 0 from numbered \
where k like '{0}-%'"
LEVELS = (None, psycopg.IsolationLevel.SERIALIZABLE, psycopg.IsolationLevel.REPEATABLE_READ)


class Act(NamedTuple):
    name: str
    number: int
    inside: tuple[Act, ...] = ()


class Left(Exception):
    """The caller's own, by which a block is left."""


def program(rng: random.Random) -> tuple[Act, ...]:
    return tuple(_act(rng, 0, "") for _ in range(rng.randint(1, 7)))


def _act(rng: random.Random, depth: int, within: str) -> Act:
    while True:
        (name,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        deep = depth >= 3 and name in (*BLOCKS, "pipeline")
        outside = within == "block" and name in OUTSIDE
        if not deep and not outside and (within != "pipeline" or name in PIPED):
            break
    inside: tuple[Act, ...] = ()
    if name in BLOCKS or name == "pipeline":
        there = "pipeline" if "pipeline" in (name, within) else "block"
        inside = tuple(_act(rng, depth + 1, there) for _ in range(rng.randint(1, 4)))
    return Act(name, rng.randint(0, 10**6), inside)


class Playing:
    """One run of a program on a connection.  `seen`: what its caller saw, act by act."""

    def __init__(self, play: Play, name: str) -> None:
        self.play = play
        self.name = name
        self.seen: list[Any] = []
        #: which act of the program is under way
        self.at = 0
        #: its connection was lost, and no other one took its place
        self.lost = False
        #: after each of them, outside of a transaction, what stands in the tables
        self.stood: list[Any] | None = None
        self.conn: Any = None
        self._blocks = 0
        self._kept: Any = None

    async def all_of(self, conn: Any, acts: tuple[Act, ...]) -> None:
        self.conn = conn
        for self.at, act in enumerate(acts):
            if self.stood is not None:
                idle = conn.info.transaction_status == pq.TransactionStatus.IDLE
                self.stood.append(self.written() if idle else self.stood[-1])
            await self._each((act,), piped=False)
        self.at = len(acts)

    def written(self) -> Any:
        found = self.play.server.admin(NAMES.format(self.name))
        return sorted((key.removeprefix(self.name), value) for key, value in found)

    async def _each(self, acts: tuple[Act, ...], *, piped: bool) -> None:
        conn = self.conn
        for act in acts:
            try:
                told = await ACTS[act.name](self, act, f"{self.name}-{act.number}", piped)
            except psycopg.Error as exc:
                if isinstance(exc, psycopg.OperationalError) or conn.closed or piped:
                    raise
                self._note(act.name, type(exc).__name__, exc.sqlstate)
                if conn.info.transaction_status == pq.TransactionStatus.INERROR:
                    if self._blocks:
                        raise
                    await call(conn.rollback())
                    self._note("rolled back")
            else:
                if not piped:  # there it is a matter of moments
                    self._note(act.name, told)

    def _note(self, *seen: Any) -> None:
        status = self.conn.info.transaction_status
        # A session that is gone has no transaction, and is another one at the next use.
        none = status in (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)
        shown = repr((*seen, "none" if none else status.name))
        self.seen.append(shown.replace(self.name, "T"))

    async def does(self, query: Any, params: Any = None, **options: Any) -> Any:
        return await call(self.conn.execute(query, params, **options))

    async def answer(self, cur: Any, piped: bool = False) -> Any:
        if piped and cur.rownumber is None:
            return None
        if cur.description is None:
            return cur.statusmessage, cur.rowcount
        found = await call(cur.fetchall())
        return cur.statusmessage, cur.rowcount, [each.name for each in cur.description], found

    def cursor(self, kind: str) -> Any:
        """Of psycopg's, made without asking the connection."""
        return getattr(psycopg, ("Async" if self.play.shell == "tasks" else "") + kind)(self.conn)

    @property
    def idle(self) -> bool:
        status: pq.TransactionStatus = self.conn.info.transaction_status
        return status == pq.TransactionStatus.IDLE


Doing = Callable[[Playing, Act, str, bool], Awaitable[Any]]


def _statement(query: str, params: Callable[[Act, str], Any] | None = None, **how: Any) -> Doing:
    async def does(it: Playing, act: Act, key: str, piped: bool) -> Any:
        given = params(act, key) if params is not None else None
        return await it.answer(await it.does(query, given, **how), piped)

    return does


async def insert(it: Playing, act: Act, key: str, piped: bool) -> Any:
    """In the four ways of giving parameters."""
    form = act.number % 4
    if form == 0:
        cur = await it.does("insert into written values (%s, %s)", (key, act.number))
    elif form == 1:
        named = {"k": key, "v": act.number}
        cur = await it.does("insert into written values (%(k)s, %(v)s)", named)
    elif form == 2:
        text = sql.SQL("insert into written values ({}, {})").format(key, act.number)
        cur = await it.does(text)
    else:
        cur = await it.does(f"insert into written values ('{key}', {act.number})")
    return await it.answer(cur, piped)


async def fetched(it: Playing, act: Act, key: str, piped: bool) -> Any:
    cur = await it.does("select g, g * 2 from generate_series(1, %s) g", (act.number % 300,))
    first, some = await call(cur.fetchone()), await call(cur.fetchmany(act.number % 7))
    return first, some, len(await call(cur.fetchall())), cur.rownumber, cur.rowcount


async def twice_the_key(it: Playing, act: Act, key: str, piped: bool) -> Any:
    for _ in range(2):
        await it.does("insert into written values (%s, 1)", (key,))


async def block(it: Playing, act: Act, key: str, piped: bool) -> Any:
    """`transaction()`, with a savepoint's name or without, left in one way or another."""
    options: dict[str, Any] = {"force_rollback": act.name == "a block rolled back"}
    if act.number % 5 == 0:
        options["savepoint_name"] = f"own{act.number % 3}"
    it._blocks += 1
    try:
        async with both(it.conn.transaction(**options)):
            await it._each(act.inside, piped=piped)
            if act.name == "a block that fails":
                raise Left if act.number % 2 else psycopg.Rollback
    except Left:
        return "left"
    except psycopg.OperationalError:
        raise
    except psycopg.Error as exc:
        if it._blocks > 1 or piped:
            raise
        return type(exc).__name__
    finally:
        it._blocks -= 1
    return "done"


async def pipeline(it: Playing, act: Act, key: str, piped: bool) -> Any:
    async with both(it.conn.pipeline()) as pipe:
        await it._each(act.inside, piped=True)
        if act.number % 3 == 0:
            await call(pipe.sync())


async def many(it: Playing, act: Act, key: str, piped: bool) -> Any:
    cur = it.conn.cursor()
    given = [(f"{key}-{n}", n) for n in range(act.number % 5)]
    await call(cur.executemany("insert into written values (%s, %s)", given))
    return None if piped else (cur.rowcount, cur.statusmessage)


async def many_returning(it: Playing, act: Act, key: str, piped: bool) -> Any:
    cur = it.conn.cursor()
    query = "insert into written values (%s, %s) returning v"
    given = [(f"{key}-{n}", n) for n in range(1 + act.number % 5)]
    await call(cur.executemany(query, given, returning=True))
    found = [] if piped else [await call(cur.fetchall())]
    while not piped and cur.nextset():
        found.append(await call(cur.fetchall()))
    return found


async def refused(it: Playing, act: Act, key: str, piped: bool) -> Any:
    """By psycopg: nothing of it is sent."""
    given = [(key,), (key, object()), ("a\0b", 1)][act.number % 3]
    try:
        await it.does("insert into written values (%s, %s)", given)
    except (psycopg.ProgrammingError, psycopg.DataError) as exc:
        return type(exc).__name__


async def many_refused(it: Playing, act: Act, key: str, piped: bool) -> Any:
    """In the middle: by psycopg, or by the caller's own rows."""

    def given() -> Any:
        yield f"{key}-1", 1
        yield f"{key}-2", object() if act.number % 2 else 2
        raise Left

    cur = it.conn.cursor()
    try:
        await call(cur.executemany("insert into written values (%s, %s)", given()))
    except (psycopg.ProgrammingError, Left) as exc:
        return type(exc).__name__, None if piped else cur.rowcount


async def ended(it: Playing, act: Act, key: str, piped: bool) -> Any:
    await call(it.conn.commit() if act.name == "commit" else it.conn.rollback())


async def server_side(it: Playing, act: Act, key: str, piped: bool) -> Any:
    if it.conn.autocommit and not it._blocks:
        return None
    async with both(it.conn.cursor(f"own{act.number % 3}", scrollable=bool(act.number % 2))) as cur:
        await call(cur.execute("select g from generate_series(1, %s) g", (act.number % 50,)))
        return await call(cur.fetchmany(5)), len(await call(cur.fetchall()))


async def copied_in(it: Playing, act: Act, key: str, piped: bool) -> Any:
    cur = it.conn.cursor()
    async with both(cur.copy("copy written from stdin")) as copy:
        for n in range(act.number % 4):
            await call(copy.write_row((f"{key}-{n}", n)))
    return cur.rowcount, cur.statusmessage


async def copied_out(it: Playing, act: Act, key: str, piped: bool) -> Any:
    text = f"copy (select g from generate_series(1, {act.number % 9}) g) to stdout"
    async with both(it.conn.cursor().copy(text)) as copy:
        return [bytes(part) async for part in _each_of(copy)]


async def streamed(it: Playing, act: Act, key: str, piped: bool) -> Any:
    """And then something else: in a pipeline right behind it, libpq fails psycopg."""
    text = "select g, %s::int from generate_series(1, %s) g"
    source = it.conn.cursor().stream(text, (act.number, act.number % 9))
    found = [row async for row in _each_of(source)]
    return found, await it.answer(await it.does("select %s::int", (act.number,)))


async def _each_of(source: Any) -> Any:
    if hasattr(source, "__aiter__"):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


async def changed(it: Playing, act: Act, key: str, piped: bool) -> Any:
    """What psycopg lets a caller change between transactions."""
    conn, n = it.conn, act.number
    if not it.idle:
        return None
    if n % 3 == 0:
        await call(conn.set_autocommit(not conn.autocommit))
    elif n % 3 == 1:
        await call(conn.set_isolation_level(LEVELS[n // 3 % 3]))
    else:
        await call(conn.set_read_only((None, False, True)[n // 3 % 3]))
    return conn.autocommit, conn.isolation_level, conn.read_only


async def own_savepoint(it: Playing, act: Act, key: str, piped: bool) -> Any:
    if it.idle:
        return
    await it.does("savepoint mine")
    await it.does("insert into written values (%s, 7)", (key,))
    await it.does("rollback to mine")
    await it.does("release mine")


async def own_begin(it: Playing, act: Act, key: str, piped: bool) -> Any:
    if it.idle:
        await it.does("begin")
        await it.does("insert into written values (%s, 3)", (key,))
        await it.does("commit")


async def by_foreign_cursor(it: Playing, act: Act, key: str, piped: bool) -> Any:
    if act.number % 2:
        cur = it.cursor("RawCursor")
        await call(cur.execute("insert into written values ($1, $2)", [key, act.number]))
    else:
        cur = it.cursor("ClientCursor")
        query = "insert into written values (%s, %s) returning v"
        await call(cur.execute(query, [key, act.number]))
    return await it.answer(cur)


async def cursor_again(it: Playing, act: Act, key: str, piped: bool) -> Any:
    cur = it.conn.cursor(row_factory=rows.dict_row)
    await call(cur.execute("select 1 as one"))
    await call(cur.execute("insert into written values (%s, 2)", (key,)))
    await call(cur.execute("select 2 as two, null as nothing"))
    found = await it.answer(cur)
    await call(cur.close())
    return found


async def several_in_one(it: Playing, act: Act, key: str, piped: bool) -> Any:
    text = (
        f"insert into written values ('{key}', 1); select 5; update written set v = v where false"
    )
    cur = await it.does(text)
    first, more = cur.statusmessage, cur.nextset()
    rows_of_five = await call(cur.fetchall())
    return first, more, rows_of_five, cur.nextset(), cur.statusmessage, cur.nextset()


async def prepared(it: Playing, act: Act, key: str, piped: bool) -> Any:
    query = f"select %s::int * {act.number % 3}"
    return [await it.answer(await it.does(query, (n,), prepare=True)) for n in range(3)]


async def kept_unread(it: Playing, act: Act, key: str, piped: bool) -> Any:
    """Its rows are read by later acts."""
    if act.number % 2 or it._kept is None:
        it._kept = await it.does("select g from generate_series(1, 10) g")
    return await call(it._kept.fetchone())


async def temporary(it: Playing, act: Act, key: str, piped: bool) -> Any:
    table = key.replace("-", "_")
    how = ("drop", "delete rows", "preserve rows")[act.number % 3]
    await it.does(f"create temp table if not exists own_{table} (n int) on commit {how}")
    if not it.idle:
        await it.does(f"insert into own_{table} values (1)")


ACTS: dict[str, Doing] = {
    "insert": insert,
    "insert returning": _statement(
        "insert into written values (%s, %s) returning v, k", lambda act, key: (key, act.number)
    ),
    "select": _statement("select %s::int + 1 as x", lambda act, key: (act.number,)),
    "fetched": fetched,
    "update": _statement(
        "update written set v = v + 1 where k like %s", lambda act, key: (key.split("-")[0] + "-%",)
    ),
    "upsert": _statement(
        "insert into written values (%s, %s) on conflict (k) do update set v = written.v + 1000"
        " returning v",
        lambda act, key: (key.split("-")[0] + "-up", act.number),
    ),
    "delete": _statement(
        "delete from written where k = (select min(k) from written where k like %s)",
        lambda act, key: (key.split("-")[0] + "-%",),
    ),
    "count": _statement(
        "select count(*), sum(v) from written where k like %s",
        lambda act, key: (key.split("-")[0] + "-%",),
    ),
    "with": _statement(
        "with w as (insert into written values (%s, %s) returning v) select v from w",
        lambda act, key: (key, act.number),
    ),
    "fails": _statement("select 1 / (%s::int - %s::int)", lambda act, key: (act.number,) * 2),
    "twice the key": twice_the_key,
    "refused": refused,
    "many refused": many_refused,
    "a block": block,
    "a block rolled back": block,
    "a block that fails": block,
    "commit": ended,
    "rollback": ended,
    "many": many,
    "many returning": many_returning,
    "pipeline": pipeline,
    "server-side": server_side,
    "copied in": copied_in,
    "copied out": copied_out,
    "streamed": streamed,
    "changed": changed,
    "own savepoint": own_savepoint,
    "own begin": own_begin,
    "set local": _statement("set local work_mem = '1MB'"),
    "set": _statement("set application_name = 'other'"),
    "configured": _statement("select set_config('my.x', %s, true)", lambda act, key: (key,)),
    "shown": _statement(
        "select current_setting('work_mem'), current_setting('transaction_isolation'),"
        " current_setting('transaction_read_only')"
    ),
    "temporary": temporary,
    "locked": _statement("select pg_advisory_xact_lock(hashtext(%s))", lambda act, key: (key,)),
    "in binary": _statement(
        "select %s::int, 'x'::text, 1.5::numeric", lambda act, key: (act.number,), binary=True
    ),
    "foreign cursor": by_foreign_cursor,
    "cursor again": cursor_again,
    "numbered": _statement(
        "insert into numbered (k) values (%s) returning id > 0", lambda act, key: (key,)
    ),
    "several in one": several_in_one,
    "notify": _statement("notify told, 'x'"),
    "nothing": _statement(""),
    "do": _statement("do $$ begin perform 1; end $$"),
    "prepared": prepared,
    "kept unread": kept_unread,
    "types": _statement(
        "select %s, %s, %s, %s::jsonb, %s",
        lambda act, key: (b"ab", 1.5, [1, 2], '{"a": 1}', None),
    ),
}
BLOCKS = ("a block", "a block rolled back", "a block that fails")
#: what ends a transaction, or must not be in one
OUTSIDE = ("commit", "rollback", "changed", "own begin")
#: what may stand in a pipeline
PIPED = (
    *("insert", "insert returning", "select", "fetched", "update", "many", "many returning"),
    *("in binary", "pipeline", "a block", "set local", "fails", "count", "types", "with"),
    *("numbered", "refused", "many refused"),
)
#: how often each is taken; what isn't told of, once or twice
OFTEN = {
    "insert": 8, "insert returning": 4, "select": 6, "fetched": 3, "a block": 5, "pipeline": 4,
    "upsert": 3, "many": 3, "count": 3, "update": 3,
}  # fmt: skip
WEIGHTS = {name: OFTEN.get(name, 2) for name in ACTS}
#: in autocommit these are several transactions: any number of them may be done
COMPOUND = (
    *("cursor again", "several in one", "twice the key", "pipeline", "many", "many returning"),
    *("prepared", "own begin", "temporary", "streamed", "many refused"),
)


@asynccontextmanager
async def fresh(pool: Any) -> Any:
    """A connection on which nothing was done before."""
    await call(pool.drain())
    async with both(pool.connection()) as conn:
        yield conn
