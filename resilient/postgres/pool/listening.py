"""`pool.listen`: notifications that outlive their server, and say where some may be missing.

A listener has a session of its own, to the writer, beside the pool's: NOTIFY reaches sessions of
the primary only (manual, LISTEN).  When that session ends, another is made and told to LISTEN
before the gap is announced: whoever then looks at the data misses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Notify, sql

from ..._dataclass import dataclass
from ..._logs import Line
from ..session.keeper import close, link_of

if TYPE_CHECKING:
    from .base import PoolCore

logger = logging.getLogger("resilient.postgres")

#: pause before another try where dialling fails at once, in seconds
PAUSE_S = 0.1
#: the reason of a gap at the start
BEGINS = "it has begun to listen"


@dataclass(frozen=True, slots=True)
class Gap:
    """The session ended: notifications since then may be missing.  Look at the data itself.

    `reason`: why it ended.  `seconds`: until it listened again, from when that was noticed.
    """

    reason: str
    seconds: float


def _command(channel: str) -> sql.Composed:
    return sql.SQL("LISTEN {}").format(sql.Identifier(channel))


def _met(core: PoolCore, conn: Any, channels: tuple[str, ...], acknowledged: bool) -> None:
    """Its session was made.  It is cut where its server is no longer the one to use, also if that
    lets others finish: nothing is lost with it."""
    core.sessions.listening.add(conn)
    link = link_of(conn)
    if link is None:
        return
    link.follow_writer()
    if link.pooled and not acknowledged and core.sessions.warns_of(channels):
        fix = "listen at the server's own address, or say session_pooler=True if it keeps sessions"
        line = Line(
            event="listen.pooled",
            endpoint=link.endpoint.place,
            channel=",".join(channels),
            reason="a pooler is in between: in transaction mode no notification arrives",
            fix=fix,
            **core.labels,
        )
        logger.warning("%s", line)


# Made from `listen_async` by `make generate`: change that one.
def listen(
    pool: Any, core: PoolCore, channels: tuple[str, ...], gap_first: bool, acknowledged: bool
) -> Iterator[Notify | Gap]:
    """For a thread pool."""
    if core.reopen:  # in a forked child
        core.reopened()
        pool.open()
    ended = (BEGINS, time.monotonic()) if gap_first else None
    while not pool.closed:
        conn = None
        try:
            conn = pool._connect(core.settings.deadline_s)
            _met(core, conn, channels, acknowledged)
            conn.autocommit = True
            for channel in channels:
                conn.execute(_command(channel))
            if ended is not None:
                yield Gap(ended[0], time.monotonic() - ended[1])
                ended = None
            yield from conn.notifies()
        except psycopg.OperationalError as exc:
            ended = ended or (str(exc), time.monotonic())
            if conn is None and not pool.closed:
                time.sleep(PAUSE_S)
        finally:
            if conn is not None:
                core.sessions.listening.discard(conn)
                close(conn)


async def listen_async(
    pool: Any, core: PoolCore, channels: tuple[str, ...], gap_first: bool, acknowledged: bool
) -> AsyncIterator[Notify | Gap]:
    """For an asyncio pool."""
    if core.reopen:  # in a forked child
        core.reopened()
        await pool.open()
    ended = (BEGINS, time.monotonic()) if gap_first else None
    while not pool.closed:
        conn = None
        try:
            conn = await pool._connect(core.settings.deadline_s)
            _met(core, conn, channels, acknowledged)
            await conn.set_autocommit(True)
            for channel in channels:
                await conn.execute(_command(channel))
            if ended is not None:
                yield Gap(ended[0], time.monotonic() - ended[1])
                ended = None
            async for notify in conn.notifies():
                yield notify
        except psycopg.OperationalError as exc:
            ended = ended or (str(exc), time.monotonic())
            if conn is None and not pool.closed:
                await asyncio.sleep(PAUSE_S)
        finally:
            if conn is not None:
                core.sessions.listening.discard(conn)
                close(conn)
