"""The tables of these tests, and the stage on which many transactions share a failover."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from resilient.lab import Lab
from resilient.lab.pytest_plugin import skip_unless

for _acts in ("going_on", "cursors", "pipelines", "state", "refused", "kept"):
    pytest.register_assert_rewrite(f"{__package__}.acts_{_acts}")

from .acts_kept import KEPT_TABLES  # noqa: E402
from .stage import Report, Shell, Stage, script  # noqa: E402

#: `acts` has no constraint: what is applied twice must be seen
TABLES = """
create table acts (act text not null, n int not null);
create table keys (act text not null, n int not null, unique (act, n));
create table numbers (id serial primary key, act text not null);
create table counters (act text primary key, n int not null);
create sequence tickets;
create unlogged table unlogged_acts (n int);
create schema elsewhere;
create table elsewhere.there (n int);
"""


@pytest.fixture(scope="session")
def tables(session_lab: Lab) -> Lab:
    dsn = f"{session_lab.dsn} target_session_attrs=read-write"
    with psycopg.connect(dsn) as conn:
        conn.execute(TABLES)
        conn.execute(KEPT_TABLES.encode())
    return session_lab


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest) -> Shell:
    return Shell(request.param)


Perform = Callable[[str, str], Report]


@pytest.fixture(scope="module")
def perform(tables: Lab) -> Perform:
    """The acts of one script, played once for each shell; what became of each."""
    played: dict[tuple[str, str], Report] = {}

    def once(kind: str, title: str) -> Report:
        if (kind, title) not in played:
            for fault in script(title).faults:
                skip_unless(tables, fault)
            try:
                played[kind, title] = asyncio.run(Stage(tables, kind, title).play())
            finally:
                tables.rejoin()
        return played[kind, title]

    return once
