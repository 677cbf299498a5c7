"""`executemany` whose rows end in a failure of the caller's: what was sent before it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from .play import OURS, PLAYS, Play, both, call

pytestmark = pytest.mark.lab
INSERT = "insert into marks values (%s)"
Rows = Callable[[Play], Iterator[Any]]


class Own(Exception):
    pass


def _raised(play: Play) -> Iterator[Any]:
    yield (play.n,)
    raise Own


def _not_taken(play: Play) -> Iterator[Any]:
    """psycopg doesn't take the second row; there is a third one."""
    yield (play.n,)
    yield (object(),)
    yield (play.n,)


FAILING = pytest.mark.parametrize("rows", [_raised, _not_taken])


@FAILING
@pytest.mark.parametrize("play", PLAYS, indirect=True)
async def test_the_caller_hears_of_it_and_the_block_goes_on(play: Play, rows: Rows) -> None:
    async with play.pool() as pool, both(pool.connection()) as conn:
        with pytest.raises((Own, psycopg.ProgrammingError)):
            await call(conn.cursor().executemany(INSERT, rows(play)))
        await call(conn.execute(INSERT, (play.n,)))
    assert play.struck() == 2


@FAILING
@pytest.mark.parametrize("play", OURS, indirect=True)
async def test_a_session_that_is_lost_behind_it_is_made_again_with_what_was_sent(
    play: Play, rows: Rows
) -> None:
    async with play.pool() as pool, both(pool.connection()) as conn:
        with pytest.raises((Own, psycopg.ProgrammingError)):
            await call(conn.cursor().executemany(INSERT, rows(play)))
        play.cut_off(conn)
        await call(conn.execute(INSERT, (play.n,)))
    assert play.struck() == 2


@FAILING
@pytest.mark.parametrize("play", OURS, indirect=True)
async def test_a_session_that_is_lost_meanwhile_hides_no_row(play: Play, rows: Rows) -> None:
    """The third row isn't written, as if the second one had been."""

    def cut() -> Iterator[Any]:
        for number, row in enumerate(rows(play)):
            if number == 0:
                yield row
                play.cut_off(conn)
            else:
                yield row

    async with play.pool() as pool, both(pool.connection()) as conn:
        with pytest.raises((Own, psycopg.ProgrammingError)):
            await call(conn.cursor().executemany(INSERT, cut()))
        await call(conn.execute(INSERT, (play.n,)))
    assert play.struck() == 2


@pytest.mark.parametrize("play", PLAYS, indirect=True)
async def test_parameters_that_psycopg_does_not_take_begin_the_transaction(play: Play) -> None:
    """A `transaction()` behind them is a savepoint of it, as on the bare pool."""
    async with play.pool() as pool, both(pool.connection()) as conn:
        with pytest.raises(psycopg.ProgrammingError):
            await call(conn.execute("select %s, %s", (1,)))
        async with both(conn.transaction()):
            await call(conn.execute(INSERT, (play.n,)))
        await call(conn.rollback())
    assert play.struck() == 0
