"""What a worker's query did whose COMMIT lost its reply, and nothing could tell what became of it.

A worker that stops then leaves its jobs to nobody.  Most of its queries may be done twice; of the
others the new primary's rows say whether they took effect.  What programs ask for (`defer`) isn't
decided here: only they know whether a job may be there twice.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from procrastinate import sql
from psycopg.errors import RaiseException


def _queries(*names: str) -> frozenset[str]:
    return frozenset(sql.queries[name] for name in names if name in sql.queries)


#: done twice is done once
TWICE = _queries(
    "update_heartbeat", "unregister_worker", "register_worker", "prune_stalled_workers"
)
#: refuses to be done twice
ONCE = _queries("finish_job", "retry_job")
FETCH = _queries("fetch_job")
#: the worker has this job
HAS = (
    "SELECT 1 FROM procrastinate_jobs"
    " WHERE id = %(id)s AND status = 'doing' AND worker_id = %(worker_id)s"
)


async def settled(pool: Any, query: str, work: Any, seen: Any) -> tuple[bool, Any]:
    """Is it known now, and with which answer?  `work` does it, `seen` is what it has answered."""
    if query in TWICE:
        return True, await pool.run(work)
    if query in ONCE:
        with suppress(RaiseException):  # it isn't as it was: it took effect
            await pool.run(work)
        return True, None
    if query in FETCH and isinstance(seen, dict):
        if seen.get("id") is not None and await pool.run(_has, seen):
            return True, seen
        return True, await pool.run(work)
    return False, None


async def _has(conn: psycopg.AsyncConnection[Any], job: dict[str, Any]) -> bool:
    found = await conn.execute(HAS, {"id": job["id"], "worker_id": job["worker_id"]})
    return await found.fetchone() is not None
