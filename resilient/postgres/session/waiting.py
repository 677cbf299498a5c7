"""Waiting on a connection: detours, and what happens when the caller stops waiting.

psycopg's loop waits on one descriptor until a generator ends.  `until_detour` is such a generator
around the one that is waited for: it ends where that one asks for another session or a pause
(`detour.Detour`).  Then the detour is taken, and a further loop goes on with the same
generator, on the descriptor of the session that there is by then.

psycopg asks the server to cancel and then waits for it, 5 s each: on a server that hangs, a
cancelled task comes back after 10 s.  Here a cancellation takes `GRACE_S` at most: a healthy
server is asked and its answer awaited, so the connection stays clean; otherwise, and always
inside a COMMIT (cancelling a wait for synchronous replication reports success, manual
27.2.8), the connection is closed, so no reply of one query can reach another.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, cast

from psycopg import AsyncConnection, Connection, pq, waiting
from psycopg import errors as e

from ...core.model import Endpoint
from .detour import Detour, Fresh
from .keeper import keeper_of

if TYPE_CHECKING:
    from .._psycopg import BaseConnection
    from ..replay.judge import Judge
    from .host import Gen
    from .keeper import Keeper

GRACE_S = 0.3
#: how often a wait looks up from its socket (a Ctrl-C), in seconds; psycopg's own value
INTERVAL_S = 0.1
#: ready to be read and written, as psycopg's loop would say
READY = waiting.Ready.RW
#: reads until a socket at its end counts as endless
MOST_READS = 10_000

_ACTIVE = pq.TransactionStatus.ACTIVE

Steps = Generator[Any, Any, Any]


def until_detour(judge: Judge, gen: Gen, ready: waiting.Ready | None = None) -> Steps:
    """A generator's steps, for psycopg's loop: returns what it returns, or its next detour."""
    judge.driven = True
    try:
        item = gen.send(ready)
        while item.__class__ is not Detour:
            ready = yield item
            item = gen.send(ready)
    except StopIteration as stop:
        return stop.value
    finally:
        judge.driven = False
    return item


def first_step(judge: Judge, gen: Gen, exc: e.OperationalError) -> Steps:
    """Where there is no session to wait on: whoever recovers finds that out before it waits."""
    judge.driven = True
    try:
        item = gen.send(None)
    except StopIteration as stop:
        return stop.value
    finally:
        judge.driven = False
    if not isinstance(item, Detour):
        gen.close()
        raise exc
    return item
    yield  # it is a generator


def stuck(steps: Steps, exc: Exception) -> bool:
    """psycopg's loop found the socket at its end and left the generator where it was."""
    at_end = isinstance(exc, e.OperationalError) and exc.sqlstate is None
    return at_end and inspect.getgeneratorstate(steps) == inspect.GEN_SUSPENDED


def hear_out(keeper: Keeper, gen: Gen) -> Any:
    """Let it read what is left, and the end: nothing of that has to be waited for.

    A statement's answer may be among it, and a failure is then libpq's, raised where it
    can be dealt with.  Returns as `until_detour`.
    """
    judge = keeper.judge
    judge.driven = True
    try:
        for _ in range(MOST_READS):
            item = gen.send(READY)
            if isinstance(item, Detour):
                return item
        keeper.wire.pgconn.finish()
        raise e.OperationalError("the connection socket is closed")
    except StopIteration as stop:
        return stop.value
    except e.OperationalError as exc:
        judge.tell_why(exc, judge.dealt)
        raise
    finally:
        judge.driven = False


def failed(keeper: Keeper, steps: Steps, exc: Exception) -> None:
    """Returns where its generator is to be heard out; otherwise the failure is the caller's."""
    if not stuck(steps, exc):
        keeper.judge.tell_why(exc, keeper.judge.dealt)
        raise exc


def abandon(keeper: Keeper, gen: Gen, fresh: Fresh | None) -> None:
    """The caller stopped waiting in the middle of a recovery."""
    keeper.wire.pgconn.finish()
    end(gen, fresh)


def end(gen: Gen, fresh: Fresh | None) -> None:
    """Nobody goes on with it.  What it does in the end is done now: when the garbage collector
    comes to it, its connection may be somebody else's."""
    with suppress(RuntimeError):  # psycopg's pipelines want to read on when closed
        gen.close()
    if fresh is not None:
        fresh.finish()  # one that was adopted has the session that is over


class Renewing(Protocol):
    """A pool that makes another connection for one that was lost."""

    def _renewed(
        self, conn: Connection[Any], timeout: float, at: Endpoint | None
    ) -> Connection[Any]: ...


class AsyncRenewing(Protocol):
    """The same, for asyncio."""

    async def _renewed(
        self, conn: AsyncConnection[Any], timeout: float, at: Endpoint | None
    ) -> AsyncConnection[Any]: ...


def _came(detour: Detour, fresh: BaseConnection[Any]) -> int:
    keeper = keeper_of(fresh)
    assert keeper is not None
    detour.came(Fresh(fresh, keeper.judge))
    return int(fresh.pgconn.socket)


# Made from `take_async` by `make generate`: change that one.
def take(conn: Connection[Any], detour: Detour, fd: int) -> int:
    """Do what a detour asks for; the descriptor to wait on from then on."""
    if detour.pause_s:
        time.sleep(detour.pause_s)
        return fd
    pool = cast("Renewing", conn._pool)
    try:
        left_s = max(detour.deadline_at - time.monotonic(), 0.001)
        return _came(detour, pool._renewed(conn, left_s, detour.at))
    except Exception as exc:
        detour.failed(exc)
        return fd


async def take_async(conn: AsyncConnection[Any], detour: Detour, fd: int) -> int:
    """Do what a detour asks for; the descriptor to wait on from then on."""
    if detour.pause_s:
        await asyncio.sleep(detour.pause_s)
        return fd
    pool = cast("AsyncRenewing", conn._pool)
    try:
        left_s = max(detour.deadline_at - time.monotonic(), 0.001)
        return _came(detour, await pool._renewed(conn, left_s, detour.at))
    except Exception as exc:
        detour.failed(exc)
        return fd


# Made from `stop_async` by `make generate`: change that one.
def stop(
    conn: Connection[Any], keeper: Keeper, steps: Steps, gen: Gen, fresh: Fresh | None
) -> None:
    """The caller stops waiting for a query.  `fresh`: the last session that was made for it."""
    keeper.judge.stop()
    try:
        settle(conn, keeper, steps)
    finally:
        end(gen, fresh)


async def stop_async(
    conn: AsyncConnection[Any], keeper: Keeper, steps: Steps, gen: Gen, fresh: Fresh | None
) -> None:
    """The caller stops waiting for a query.  `fresh`: the last session that was made for it."""
    keeper.judge.stop()
    try:
        await settle_async(conn, keeper, steps)
    finally:
        end(gen, fresh)


# Made from `settle_async` by `make generate`: change that one.
def settle(conn: Connection[Any], keeper: Keeper, steps: Steps) -> None:
    """Leave the connection clean, or closed."""
    pgconn = keeper.wire.pgconn
    if pgconn.transaction_status != _ACTIVE:
        return
    if not keeper.wire.may_cancel:
        pgconn.finish()
        return
    try:
        conn.cancel_safe(timeout=GRACE_S)
        found = waiting.wait(steps, pgconn.socket, interval=INTERVAL_S, timeout=GRACE_S)
        if isinstance(found, Detour):
            pgconn.finish()
    except e.QueryCanceled:
        return  # as asked for: the connection is clean
    except Exception:
        pgconn.finish()
    except BaseException:
        pgconn.finish()
        raise


async def settle_async(conn: AsyncConnection[Any], keeper: Keeper, steps: Steps) -> None:
    """Leave the connection clean, or closed."""
    pgconn = keeper.wire.pgconn
    if pgconn.transaction_status != _ACTIVE:
        return
    if not keeper.wire.may_cancel:
        pgconn.finish()
        return
    try:
        await conn.cancel_safe(timeout=GRACE_S)
        found = await waiting.wait_async(steps, pgconn.socket, interval=INTERVAL_S, timeout=GRACE_S)
        if isinstance(found, Detour):
            pgconn.finish()
    except e.QueryCanceled:
        return  # as asked for: the connection is clean
    except Exception:
        pgconn.finish()
    except BaseException:  # cancelled once more while cancelling
        pgconn.finish()
        raise
