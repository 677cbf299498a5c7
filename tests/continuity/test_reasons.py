"""Whatever a lost session costs its caller, the error says why, and what would change it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from resilient.lab import Lab
from resilient.lab.wire import WireProxy
from resilient.postgres import CommitOutcomeUnknown
from tests.replay.held import cut
from tests.replay.stage import Shell

from .closed_loop import primary_dsn
from .kinds import foreign

pytestmark = [
    pytest.mark.lab,
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
]

REPLAY_OFF, RESOLVER_OFF = {"replay": "off"}, {"commit_resolver": "off"}
BOTH_OFF = {**REPLAY_OFF, **RESOLVER_OFF}
INSERT = "insert into reasons values (%s)"
UNRECORDED = "not replayed: COPY, stream(), a server-side cursor or a cursor that the connection"

Use = Callable[[Shell, Any], Awaitable[Any]]


async def own(s: Shell, conn: Any) -> None:
    await s.do(conn.execute, INSERT, (1,))


async def many(s: Shell, conn: Any) -> None:
    await s.do(conn.cursor().executemany, INSERT, [(1,), (2,)])


async def hand_made(s: Shell, conn: Any) -> None:
    await s.do(foreign(conn).execute, INSERT, (1,))


async def hand_made_many(s: Shell, conn: Any) -> None:
    await s.do(foreign(conn).executemany, INSERT, [(1,), (2,)])


async def copy(s: Shell, conn: Any) -> None:
    async with s.within(conn.cursor().copy("copy reasons from stdin")) as into:
        await s.do(into.write_row, (1,))


async def server_side(s: Shell, conn: Any) -> None:
    async with s.within(conn.cursor("portal")) as cursor:
        await s.do(cursor.execute, "select 1")


async def pipeline(s: Shell, conn: Any) -> None:
    async with s.within(conn.pipeline()):
        await s.do(conn.execute, INSERT, (1,))


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest) -> Shell:
    return Shell(request.param)


@pytest.fixture
def dsn(lab: Lab) -> str:
    with psycopg.connect(primary_dsn(lab), autocommit=True) as conn:
        conn.execute("create table if not exists reasons (n int)")
        conn.execute("truncate reasons")
    return primary_dsn(lab)


def rows(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select count(*) from reasons").fetchone()
    assert row is not None
    return int(row[0])


async def lost(
    shell: Shell,
    lab: Lab,
    dsn: str,
    use: Use,
    values: dict[str, str],
    *,
    by_hand: bool,
    first: bool,
) -> str:
    """What a block's caller is told whose session is lost before the use, or after it."""
    settings = {"deadline_s": 5.0, "standby_min_size": 0, "connect_rate": 1000, **values}
    async with shell.opened(lab, dsn, **settings) as pool:
        with pytest.raises(psycopg.OperationalError) as caught:  # noqa: PT012
            if by_hand:
                conn = await shell.do(pool.getconn)
                try:
                    await _use(shell, conn, use, first)
                    await shell.do(conn.commit)
                finally:
                    await shell.do(pool.putconn, conn)
            else:
                async with shell.within(pool.connection()) as conn:
                    await _use(shell, conn, use, first)
    assert rows(dsn) == 0
    return str(caught.value)


async def _use(shell: Shell, conn: Any, use: Use, first: bool) -> None:
    if first:
        cut(conn)
        await use(shell, conn)
        return
    await use(shell, conn)
    cut(conn)


USES = [(use, first) for use in (hand_made, hand_made_many, copy, server_side) for first in (0, 1)]
USES.remove((copy, 1))  # its BEGIN finds that out, and goes elsewhere


@pytest.mark.parametrize("by_hand", [False, True], ids=["with", "getconn"])
@pytest.mark.parametrize(("use", "first"), USES)
async def test_what_is_not_recorded(
    lab: Lab, dsn: str, shell: Shell, use: Use, first: int, by_hand: bool
) -> None:
    text = await lost(shell, lab, dsn, use, {}, by_hand=by_hand, first=bool(first))
    assert UNRECORDED in text
    assert text.count("not replayed") == 1


@pytest.mark.parametrize("by_hand", [False, True], ids=["with", "getconn"])
@pytest.mark.parametrize("values", [REPLAY_OFF, BOTH_OFF], ids=["replay-off", "both-off"])
@pytest.mark.parametrize("use", [own, many, hand_made, hand_made_many, copy, server_side, pipeline])
async def test_switched_off(
    lab: Lab, dsn: str, shell: Shell, use: Use, values: dict[str, str], by_hand: bool
) -> None:
    for first in (True, False):
        text = await lost(shell, lab, dsn, use, values, by_hand=by_hand, first=first)
        assert "not replayed: RESILIENT_REPLAY=off" in text


async def test_a_pipeline_that_finds_the_session_gone(lab: Lab, dsn: str, shell: Shell) -> None:
    """Nothing was sent: nobody has to know."""
    opened = shell.opened(lab, dsn, standby_min_size=0)
    async with opened as pool, shell.within(pool.connection()) as conn:
        cut(conn)
        await pipeline(shell, conn)
    assert rows(dsn) == 1


@pytest.mark.parametrize("values", [RESOLVER_OFF, BOTH_OFF], ids=["resolver-off", "both-off"])
async def test_a_commit_that_nobody_resolves(
    lab: Lab, dsn: str, shell: Shell, values: dict[str, str]
) -> None:
    with WireProxy(lab.primary.address, lab.port) as proxy:
        host, port = proxy.address
        through = f"host={host} port={port} user=app dbname=app"
        with pytest.raises(CommitOutcomeUnknown, match="RESILIENT_COMMIT_RESOLVER=off") as caught:  # noqa: PT012
            opened = shell.opened(lab, through, standby_min_size=0, **values)
            async with opened as pool, shell.within(pool.connection()) as conn:
                await own(shell, conn)
                proxy.cut("client", 1, side="after", kind="reset", pid=conn.info.backend_pid)
        assert "not replayed" not in str(caught.value)
    assert rows(dsn) in (0, 1)


async def test_nobody_takes_it_in_time(lab: Lab, dsn: str, shell: Shell) -> None:
    values = {"deadline_s": 0.3, "standby_min_size": 0, "probe_interval_s": 0.1}
    with pytest.raises(psycopg.OperationalError) as caught:  # noqa: PT012
        opened = shell.opened(lab, dsn, **values)
        async with opened as pool, shell.within(pool.connection()) as conn:
            await own(shell, conn)
            lab.primary.kill()
            await own(shell, conn)
    assert "RESILIENT_DEADLINE_S" in str(caught.value)
