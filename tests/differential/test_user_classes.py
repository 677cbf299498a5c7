"""A user's own connection and cursor classes work whole, on psycopg_pool's pools and on ours.

Each class of the battery does something that psycopg lets a subclass do, and says by `told` what it
saw.  The same is told on both sides while nothing fails; on ours the block of such a connection
survives its session as any other does, and what the class overrides is called for it as ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import waiting
from psycopg.rows import dict_row

from resilient import postgres
from resilient.errors import ConfigError

from .play import Play, both, call

pytestmark = pytest.mark.lab


def base_of(shell: str) -> Any:
    return psycopg.AsyncConnection if shell == "tasks" else psycopg.Connection


def own_transaction(shell: str) -> Any:
    class Own(base_of(shell)):  # type: ignore[misc]
        def transaction(self, *args: Any, **kwargs: Any) -> Any:
            self.__dict__.setdefault("told", []).append("transaction")
            return super().transaction(*args, **kwargs)

    return Own


def own_transaction_around(shell: str) -> Any:
    """A context manager of its own, around psycopg's."""

    if shell == "tasks":

        class Own(psycopg.AsyncConnection):
            told: list[str]

            @contextlib.asynccontextmanager
            async def transaction(self, *args: Any, **kwargs: Any) -> Any:
                self.told = ["begins"]
                async with super().transaction(*args, **kwargs) as tx:
                    await self.execute("set local app.tenant = 'own'")
                    yield tx
                self.told.append("ends")

        return Own

    class SyncOwn(psycopg.Connection):
        told: list[str]

        @contextlib.contextmanager
        def transaction(self, *args: Any, **kwargs: Any) -> Any:
            self.told = ["begins"]
            with super().transaction(*args, **kwargs) as tx:
                self.execute("set local app.tenant = 'own'")
                yield tx
            self.told.append("ends")

    return SyncOwn


def own_pipeline(shell: str) -> Any:
    class Own(base_of(shell)):  # type: ignore[misc]
        def pipeline(self) -> Any:
            self.__dict__.setdefault("told", []).append("pipeline")
            return super().pipeline()

    return Own


def own_wait(shell: str) -> Any:
    if shell == "tasks":

        class Own(psycopg.AsyncConnection):
            told = ("wait",)
            waits = 0

            async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
                self.waits += 1
                return await super().wait(gen, *args, **kwargs)

        return Own

    class SyncOwn(psycopg.Connection):
        told = ("wait",)
        waits = 0

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            self.waits += 1
            return super().wait(gen, *args, **kwargs)

    return SyncOwn


def own_execute(shell: str) -> Any:
    class Own(base_of(shell)):  # type: ignore[misc]
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            self.__dict__.setdefault("told", []).append("execute")
            return super().execute(f"/* mine */ {query}", *args, **kwargs)

    return Own


def own_arguments(shell: str) -> Any:
    class Own(base_of(shell)):  # type: ignore[misc]
        def __init__(self, pgconn: Any, colour: str = "green") -> None:
            super().__init__(pgconn)
            self.told = [colour]
            self.cursor_factory = own_cursors(shell)

    return Own


def own_cursors(shell: str) -> Any:
    plain: Any = psycopg.AsyncCursor if shell == "tasks" else psycopg.Cursor

    class Cursor(plain):  # type: ignore[misc]
        plainly = perform = remember = "mine"

        def execute(self, *args: Any, **kwargs: Any) -> Any:
            self.asked = args[0]
            return super().execute(*args, **kwargs)

        def executemany(self, *args: Any, **kwargs: Any) -> Any:
            self.many = True
            return super().executemany(*args, **kwargs)

    return Cursor


def own_cursor(shell: str) -> Any:
    class Own(base_of(shell)):  # type: ignore[misc]
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            self.__dict__.setdefault("told", []).append("cursor")
            return super().cursor(*args, row_factory=dict_row, **kwargs)

    return Own


#: what the library's objects are called, or were: anybody's own methods may be called so
NAMES = (
    *("perform", "engage", "disengage", "stranded", "recoverable", "tell_why", "own_failure"),
    *("link", "host", "wire", "judge", "keeper", "recorder", "replayer", "committer", "journal"),
    *("_link", "_journal", "_session", "_core", "_commit", "_meet", "_adopt", "_recover", "_ride"),
    *("_witness", "_detour", "_own", "_begin", "_hear", "_lost", "_asked", "_told", "_token"),
    *("on_checkout", "on_checkin", "recording", "remember", "noted", "_plain_cursor"),
)


def own_names(shell: str) -> Any:
    def mine(self: Any) -> str:
        return "mine"

    def told(self: Any) -> list[Any]:
        return [getattr(self, name)() for name in NAMES]

    def init(self: Any, pgconn: Any) -> None:
        base_of(shell).__init__(self, pgconn)
        self.names = dict.fromkeys(NAMES, "mine")

    return type("Own", (base_of(shell),), {**dict.fromkeys(NAMES, mine), "told": property(told)})


def own_ends(shell: str) -> Any:
    """Its own end of a block."""

    class Own(base_of(shell)):  # type: ignore[misc]
        def commit(self) -> Any:
            self.__dict__.setdefault("told", []).append("commit")
            return super().commit()

        def rollback(self) -> Any:
            self.__dict__.setdefault("told", []).append("rollback")
            return super().rollback()

    return Own


def several_generations(shell: str) -> Any:
    class Mixin:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.told.append("mixin")  # type: ignore[attr-defined]

    class Parent(base_of(shell)):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.told = ["parent"]

    class Child(Mixin, Parent):
        pass

    return Child


CLASSES: dict[str, Callable[[str], Any]] = {
    "its own transaction": own_transaction,
    "its own transaction around psycopg's": own_transaction_around,
    "its own pipeline": own_pipeline,
    "its own wait": own_wait,
    "its own execute": own_execute,
    "its own arguments": own_arguments,
    "its own cursor": own_cursor,
    "its own names": own_names,
    "its own ends": own_ends,
    "several generations": several_generations,
}
#: what each tells after `work`
TOLD: dict[str, list[str]] = {
    "its own transaction": ["transaction"],
    "its own transaction around psycopg's": ["begins", "ends"],
    "its own pipeline": ["pipeline"],
    "its own wait": ["wait"],
    "its own execute": ["execute"] * 3,
    "its own arguments": ["green"],
    "its own cursor": ["cursor"] * 3,
    "its own names": ["mine"] * len(NAMES),
    "its own ends": ["commit"],
    "several generations": ["parent", "mixin"],
}


async def work(play: Play, conn: Any, *, lose: bool) -> None:
    """A transaction, which may lose its session in the middle, and a statement in a pipeline."""
    async with both(conn.transaction()):
        await call(conn.execute(f"insert into marks values ({play.n})"))
        if lose:
            play.cut_off(conn)
        rows = await call((await call(conn.execute("select 1 as one"))).fetchall())
        assert rows in ([(1,)], [{"one": 1}])
    async with both(conn.pipeline()):
        await call(conn.execute("select 2"))


@pytest.mark.parametrize("lose", [False, True], ids=["nothing fails", "its session is lost"])
@pytest.mark.parametrize("name", list(CLASSES))
async def test_a_class_works_whole(play: Play, name: str, lose: bool) -> None:
    own = CLASSES[name](play.shell)
    async with play.pool(connection_class=own, max_size=1) as pool:

        async def block() -> Any:
            async with both(pool.connection()) as conn:
                assert isinstance(conn, own)
                assert type(conn).__name__ == own.__name__
                await work(play, conn, lose=lose)
                return conn

        end = await play.attempt(block)
        if lose and play.bare:
            assert isinstance(end.error, psycopg.OperationalError)
            return
        assert end.well, end
        assert list(end.value.told) == TOLD[name]
        if name == "its own wait":
            assert end.value.waits > 4
    assert play.struck() == 1


async def test_run_calls_its_transaction(ours: Play) -> None:
    own = own_transaction(ours.shell)
    async with ours.pool(connection_class=own, max_size=1) as pool:

        async def fn(conn: Any) -> Any:
            await call(conn.execute("select 1"))
            return conn

        conn = await call(pool.run(ours.once(fn)))
        assert conn.told == ["transaction"]


async def test_its_cursors(play: Play) -> None:
    own = own_arguments(play.shell)
    async with play.pool(connection_class=own) as pool, both(pool.connection()) as conn:
        cur = conn.cursor()
        assert isinstance(cur, conn.cursor_factory)
        await call(cur.execute("select 1"))
        assert (cur.asked, cur.plainly, cur.perform, cur.remember) == ("select 1", *["mine"] * 3)
        await call(cur.executemany("insert into marks values (%s)", [(play.n,), (-play.n,)]))
        assert cur.many
    assert play.struck() == 1


async def test_who_waits_by_himself_hears_of_a_lost_session(play: Play) -> None:
    """Nobody can put another session under a loop that isn't psycopg's: the failure is the
    server's, as without us."""
    if play.shell == "tasks":

        class Own(psycopg.AsyncConnection):
            async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
                return await waiting.wait_async(gen, self.pgconn.socket, interval=0.1)

        own: Any = Own
    else:

        class SyncOwn(psycopg.Connection):
            def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
                return waiting.wait_selector(gen, self.pgconn.socket, interval=0.1)

        own = SyncOwn
    async with play.pool(connection_class=own) as pool:

        async def block(lose: bool) -> None:
            async with both(pool.connection()) as conn:
                await call(conn.execute(f"insert into marks values ({play.n})"))
                if lose:
                    play.cut_off(conn)
                await call(conn.execute("select 1"))

        lost = await play.attempt(lambda: block(True))
        assert isinstance(lost.error, psycopg.OperationalError), lost
        assert (await play.attempt(lambda: block(False))).well
    assert play.struck() == 1


@pytest.mark.parametrize("name", ["ConnectionPool", "AsyncConnectionPool"])
def test_a_class_with_our_attribute_is_refused(name: str) -> None:
    own = type("Own", (base_of("tasks" if "Async" in name else ""),), {"_resilient": 1})
    with pytest.raises(ConfigError, match=r"Own.*_resilient"):
        getattr(postgres, name)("", connection_class=own, open=False)


def test_a_connection_has_few_names_of_ours() -> None:
    from resilient.postgres.session.derived import derive

    for base in (psycopg.Connection, psycopg.AsyncConnection):
        ours: Any = derive(base)
        added = set(dir(ours)) - set(dir(base))
        assert added <= {"_resilient"}
        mine = {
            name
            for one in ours.__mro__
            if one.__module__.startswith("resilient") or one is ours
            for name in vars(one)
        }
        hooks = {name for name in mine if not name.startswith("__")} | mine & {
            *("__init__", "__exit__", "__aexit__")
        }
        assert len(hooks) <= 15, hooks
