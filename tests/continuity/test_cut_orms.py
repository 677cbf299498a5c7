"""The conversations of ORMs, cut at each of their messages: the ids and times that their objects
have are those of the rows."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

import psycopg
import pytest

from benchmarks.orm import orms
from resilient.lab import Lab
from resilient.lab.wire import WireProxy
from resilient.postgres.replay.parser import parser

from .kinds import INSERT, Armed, Kind
from .test_cut_every_message import cut_at_every_message, owner

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(parser() is None, reason="neither pgparse nor pglast is installed"),
]


@pytest.mark.parametrize("name", ["Plain", "SqlAlchemy", "Django"])
async def test_an_orm_is_cut_at_every_message(
    lab: Lab, proxy: WireProxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # its own loop is none of Django's
    needed = {"SqlAlchemy": "sqlalchemy", "Django": "django"}.get(name)
    if needed is not None:
        pytest.importorskip(needed, reason=f"{needed} isn't installed")
    orm = getattr(orms, name)()
    told: dict[int, orms.Told] = {}

    async def work(pool: Any, number: int, armed: Armed) -> None:
        with pool.connection() as conn:
            armed(conn)
            told[number] = orm.transact(conn, number)
            with conn.transaction() if conn.autocommit else nullcontext():
                conn.execute(INSERT, (number, 1, "told"))
            if conn.autocommit:
                with suppress(psycopg.ProgrammingError):  # its session may be gone by now
                    conn.autocommit = False

    with psycopg.connect(owner(lab), autocommit=True) as conn:
        conn.execute(orms.TABLES)
        conn.execute("truncate orm_orders, orm_lines, orm_stock")
    await cut_at_every_message(lab, proxy, Kind(work), "sync")
    with psycopg.connect(owner(lab)) as conn:
        for number, (order, created_at, lines) in told.items():
            found = conn.execute(orms.FOUND, (number,)).fetchall()
            ((order_there, created_there, lines_there, whole),) = found
            assert (order_there, lines_there, whole) == (order, lines, True), number
            assert created_at in (None, created_there), number
