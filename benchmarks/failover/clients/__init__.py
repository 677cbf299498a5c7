"""The clients, one small file each.

A client module has a class with `open()`, `close()` and `block(steps)`: one transaction, made as
its library's documentation shows it (`async def` and `asynchronous = True` for asyncio).
`run(steps)` is for a library that takes the transaction as a function.  `log` names the logger, and
its level, by which the library itself tells that something is wrong.  Then a line in `CLIENTS`.
"""

from __future__ import annotations

from typing import Any

from ...entries import Entry

__all__ = ["CLIENTS"]

_AWS = ("aws-advanced-python-wrapper", "psycopg")
_ASYNCPG = ("asyncpg",)
_HASQL = ("hasql", "asyncpg")
_OURS = ("resilient-connect",)
_PSYCOPG = ("psycopg-pool", "psycopg")
_SQLALCHEMY = ("sqlalchemy", "psycopg")
_TUNED = {"tuned": True}
_ALL = ("plain", "retry", "run")
_LEDGER = {"commit_resolver": "ledger"}
_TOPOLOGY = "its topology has to name every host"


def _entry(name: str, module: str, needs: tuple[str, ...], **more: Any) -> Entry:
    return Entry(name, f"{__name__}.{module}:Client", needs=needs, **more)


CLIENTS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _entry("resilient", "resilient_sync", _OURS, ways=_ALL, ours=True),
        _entry("resilient-async", "resilient_async", _OURS, ways=_ALL, ours=True),
        _entry("psycopg_pool", "psycopg_pool_sync", _PSYCOPG),
        _entry("psycopg_pool-check", "psycopg_pool_sync", _PSYCOPG, options={"check": True}),
        _entry("psycopg_pool-tuned", "psycopg_pool_sync", _PSYCOPG, options=_TUNED),
        _entry("sqlalchemy", "sqlalchemy_sync", _SQLALCHEMY),
        _entry("sqlalchemy-tuned", "sqlalchemy_sync", _SQLALCHEMY, options=_TUNED),
        _entry("asyncpg", "asyncpg_pool", _ASYNCPG),
        _entry("asyncpg-tuned", "asyncpg_pool", _ASYNCPG, options=_TUNED),
        _entry("hasql", "hasql_pool", _HASQL),
        _entry("hasql-tuned", "hasql_pool", _HASQL, options=_TUNED),
        _entry("aws-v1", "aws_multihost", _AWS),
        _entry("aws", "aws_topology", _AWS, no_cname=_TOPOLOGY),
        _entry("aws-tuned", "aws_topology", _AWS, options=_TUNED, no_cname=_TOPOLOGY),
        _entry("broken", "broken", (), ways=("plain",), only_named=True),
        _entry("psycopg_pool-async", "psycopg_pool_async", _PSYCOPG, only_named=True),
        *(
            _entry(name, module, _OURS, options=_LEDGER, ways=_ALL, ours=True, only_named=True)
            for name, module in (
                ("resilient-ledger", "resilient_sync"),
                ("resilient-ledger-async", "resilient_async"),
            )
        ),
    )
}
