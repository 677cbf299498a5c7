"""Jobs of procrastinate that go on at their rate while the database fails over.

    RESILIENT_DATABASE_URL=postgresql://… python examples/jobs_procrastinate.py [SECONDS]

Orders are deferred, a worker takes them; in the end it says how many.
"""

from __future__ import annotations

import asyncio
import sys

import procrastinate

from resilient.postgres import CommitOutcomeUnknown
from resilient.procrastinate import PsycopgConnector

app = procrastinate.App(connector=PsycopgConnector(min_size=2))


@app.task(retry=2)
async def take(item: str) -> None:
    """The job: an order.  A job may be there twice; its order isn't."""
    await app.connector.execute_query_async(
        "INSERT INTO orders_procrastinate (item) VALUES (%(item)s) ON CONFLICT DO NOTHING",
        item=item,
    )


async def defer(item: str) -> None:
    """Once more where nobody knows whether it took effect: it may be there twice."""
    try:
        await take.defer_async(item=item)
    except procrastinate.exceptions.ConnectorException as exc:
        if not isinstance(exc.__cause__, CommitOutcomeUnknown):
            raise
        await take.defer_async(item=item)


async def main(seconds: float) -> int:
    """Defer for so long, then let the worker finish.  How many jobs there were."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async(
            "CREATE TABLE IF NOT EXISTS orders_procrastinate"
            " (number bigserial PRIMARY KEY, item text NOT NULL UNIQUE)"
        )
        worker = asyncio.create_task(app.run_worker_async(install_signal_handlers=False))
        print("taking orders", flush=True)
        loop, number = asyncio.get_running_loop(), 0
        until = loop.time() + seconds
        while loop.time() < until:
            number += 1
            await defer(f"order {number}")
            await asyncio.sleep(0.02)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        await app.run_worker_async(wait=False, install_signal_handlers=False)  # what is left
    return number


if __name__ == "__main__":
    taken = asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
    print(f"{taken} orders")
