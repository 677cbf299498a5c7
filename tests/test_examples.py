"""The examples do what they say, while a primary dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psycopg
import pytest

from resilient.lab import Lab

EXAMPLES = Path(__file__).parents[1] / "examples"


@contextmanager
def running(lab: Lab, name: str, *argv: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The example in a process of its own, and its first line."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *argv],
        env={**os.environ, **lab.env("az2")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def rows(lab: Lab, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write") as conn:
        found = conn.execute(query.encode())
        return found.fetchall() if found.description else []


@pytest.mark.lab
def test_a_shop_takes_orders_through_a_crash(lab: Lab) -> None:
    with running(lab, "shop_wsgi.py", "0") as (_, line):
        url = line.removeprefix("serving on ")
        taken: dict[int, str] = {}
        over = threading.Event()

        def order(session: int) -> None:
            with httpx2.Client(base_url=url, timeout=30) as client:
                number = 0
                while not over.wait(0.01):
                    number += 1
                    item = f"{session}-{number}"
                    response = client.post("/orders", content=item)
                    assert response.status_code == 201, response.text
                    taken[response.json()["number"]] = item

        failures: list[BaseException] = []

        def session(number: int) -> None:
            try:
                order(number)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=session, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        before = len(taken)
        lab.inject("crash", promote_after_s=0.5).wait_done()
        give_up_at = time.monotonic() + 20
        while len(taken) < before + 100 and not failures:
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        over.set()
        for thread in threads:
            thread.join(30)
        assert failures == []
        with httpx2.Client(base_url=url, timeout=10) as client:
            assert client.get("/health/live").status_code == 200
            assert client.get("/orders").json()["orders"] > 0
            assert client.get("/nothing").status_code == 404
            key = {"Idempotency-Key": "00000000-0000-4000-8000-000000000001"}
            first, second = (client.post("/orders", content="pen", headers=key) for _ in range(2))
            assert first.json() == second.json()
        there = rows(lab, "select number, item from orders where item <> 'pen'")
        assert {int(str(number)): item for number, item in there} == taken
    rows(lab, "drop table orders")


@pytest.mark.lab
def test_a_worker_does_each_job_once(lab: Lab) -> None:
    rows(
        lab,
        "create table jobs (id bigserial primary key, payload text not null);"
        " create table done (id bigint not null, result text not null);"
        " insert into jobs (payload) select 'job ' || n from generate_series(1, 3000) n",
    )
    try:
        with running(lab, "worker_asyncio.py", "4") as (process, line):
            assert line == "working"
            time.sleep(0.3)
            lab.inject("crash", promote_after_s=0.3).wait_done()
            assert process.wait(30) == 0
            assert process.stdout is not None
            count = int(process.stdout.read().split()[0])
        ((left, done, different),) = rows(
            lab,
            "select (select count(*) from jobs), count(*), count(distinct id) from done",
        )
        assert done == different  # none twice
        assert int(str(left)) + int(str(done)) == 3000  # none lost
        # what was told as unknown is there or in the table again
        assert 0 <= int(str(done)) - count <= 4
        assert count > 100
    finally:
        rows(lab, "drop table jobs, done")
