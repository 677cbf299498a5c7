"""What every client does: the tables, the statements, and the steps of one transaction.

A client hands `ask(statement, values) → row` to the steps; whether that is a cursor or a
coroutine is the client's affair.  The statements use `%s`; `dollars` is for drivers that want `$1`.

Which server took a write is noted by that server, in a column that no client reads: an answer that
differs from server to server would keep a client from doing a transaction again elsewhere.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

__all__ = [
    "Ask",
    "AsyncAsk",
    "append",
    "append_async",
    "dollars",
    "insert",
    "insert_async",
    "read",
    "read_async",
]

Row = Sequence[Any]
Ask = Callable[[str, Sequence[object]], Row]
AsyncAsk = Callable[[str, Sequence[object]], Awaitable[Row]]

#: No unique constraint: a write that is applied twice must show.  The function is for a client that
#: asks servers who the writer is, standbys too, which keep that from ordinary users.
CREATE = """
CREATE OR REPLACE FUNCTION public.bench_writer() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$
  SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT sender_host FROM pg_stat_wal_receiver)
         ELSE host(inet_server_addr()) END $$;
CREATE TABLE IF NOT EXISTS public.bench_rows
  (id bigint NOT NULL, server text DEFAULT host(inet_server_addr()));
CREATE TABLE IF NOT EXISTS public.bench_lists (key int PRIMARY KEY, items bigint[] NOT NULL);
GRANT ALL ON public.bench_rows, public.bench_lists TO app;
TRUNCATE public.bench_rows, public.bench_lists;
INSERT INTO public.bench_lists SELECT n, '{}' FROM generate_series(1, 1100) n;
"""
INSERT = "INSERT INTO public.bench_rows VALUES (%s) RETURNING id"
LENGTH = "SELECT cardinality(items) FROM public.bench_lists WHERE key = %s"
APPEND = "UPDATE public.bench_lists SET items = items || %s::bigint WHERE key = %s RETURNING key"
READ = "SELECT items FROM public.bench_lists WHERE key = %s"


def insert(ask: Ask, number: int) -> None:
    """One statement."""
    ask(INSERT, [number])


def append(ask: Ask, key: int, number: int) -> None:
    """Three statements in one transaction."""
    ask(INSERT, [number])
    ask(LENGTH, [key])
    ask(APPEND, [number, key])


def read(ask: Ask, key: int) -> tuple[int, ...]:
    """The list."""
    return tuple(ask(READ, [key])[0])


async def insert_async(ask: AsyncAsk, number: int) -> None:
    """As `insert`."""
    await ask(INSERT, [number])


async def append_async(ask: AsyncAsk, key: int, number: int) -> None:
    """As `append`."""
    await ask(INSERT, [number])
    await ask(LENGTH, [key])
    await ask(APPEND, [number, key])


async def read_async(ask: AsyncAsk, key: int) -> tuple[int, ...]:
    """As `read`."""
    return tuple((await ask(READ, [key]))[0])


def dollars(statement: str) -> str:
    """`%s` → `$1`, `$2`, …"""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", statement)
