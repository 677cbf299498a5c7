"""A FastAPI service that takes orders, and goes on taking them while its database fails over.

    RESILIENT_DATABASE_URL=postgresql://… uvicorn --app-dir examples orders_fastapi:app

    curl -X POST 'localhost:8000/orders?item=book'   # 201 and the order's number
    curl localhost:8000/orders                       # how many there are, read from a replica
    curl localhost:8000/health/ready                 # for a balancer; /health/live for a supervisor

Several workers: `uvicorn --workers 4 …`; each has a pool of its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from psycopg import AsyncConnection

from resilient.fastapi import Database
from resilient.postgres import CommitOutcomeUnknown

TABLE = "CREATE TABLE IF NOT EXISTS orders (number bigserial PRIMARY KEY, item text NOT NULL)"

db = Database(drain_s=float(os.environ.get("DRAIN_S", "5")))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The application's own start; the pool is open already."""
    async with db.pool.connection() as conn:
        # An advisory lock, because CREATE … IF NOT EXISTS of several workers may collide.
        await conn.execute("SELECT pg_advisory_xact_lock(1)")
        await conn.execute(TABLE)
    yield


app = FastAPI(lifespan=lifespan)
db.install(app)


@app.exception_handler(CommitOutcomeUnknown)
async def unknown(request: Request, exc: Exception) -> JSONResponse:
    """Its reply to COMMIT was lost, and no fact tells what became of it: look, then try again."""
    return JSONResponse({"detail": "the order may have been taken"}, status_code=504)


Writes = Annotated[AsyncConnection, db.connection]
Reads = Annotated[AsyncConnection, db.reader]


@app.post("/orders", status_code=201)
async def order(item: str, conn: Writes) -> dict[str, int]:
    """Committed before the answer is sent."""
    found = await conn.execute("INSERT INTO orders (item) VALUES (%s) RETURNING number", (item,))
    row = await found.fetchone()
    assert row is not None
    return {"number": row[0]}


@app.get("/orders")
async def count(conn: Reads) -> dict[str, int]:
    """From a replica in this zone, if there is one."""
    row = await (await conn.execute("SELECT count(*) FROM orders")).fetchone()
    assert row is not None
    return {"orders": row[0]}
