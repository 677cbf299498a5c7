"""The examples with frameworks, several at once, while a primary dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import psycopg
import pytest

from resilient.lab import Lab

EXAMPLES = Path(__file__).parents[2] / "examples"
#: by what they need: the script, and where its orders are
FRAMEWORKS = {
    "sqlalchemy": ("orders_sqlalchemy.py", "orders_sqlalchemy"),
    "django": ("orders_django.py", "orders_django"),
    "procrastinate": ("jobs_procrastinate.py", "jobs.orders_procrastinate"),
}
#: those that fork
WORKERS = {
    "celery": ("orders_celery.py", "orders_celery"),
    "gunicorn": ("orders_gunicorn.py", "orders_gunicorn"),
    "multiprocessing": ("orders_multiprocessing.py", "orders_multiprocessing"),
}
#: psycopg takes what the URL doesn't say from libpq's own variables
MORE = {"procrastinate": {"PGOPTIONS": "-csearch_path=jobs"}}


class Running:
    """An example in a process of its own, and all that it has started."""

    def __init__(self, name: str, script: str, env: Mapping[str, str], said: IO[str]) -> None:
        self.name = name
        self._said = said
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / script), "4"],
            env={**os.environ, **env, **MORE.get(name, {})},
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        """The next one that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    @property
    def complaints(self) -> str:
        self._said.seek(0)
        return f"{self.name}: {self._said.read()[-3000:]}"

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(lab: Lab, name: str, script: str) -> Iterator[Running]:
    with tempfile.TemporaryFile("w+") as said:
        made = Running(name, script, lab.env("az2"), said)
        late = threading.Timer(60, made.end)
        late.start()
        try:
            yield made
        finally:
            late.cancel()
            made.end()
            made.process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.lab
@pytest.mark.parametrize("examples", [FRAMEWORKS, WORKERS], ids=["frameworks", "workers"])
def test_no_order_is_lost(lab: Lab, examples: dict[str, tuple[str, str]]) -> None:
    there = {name: kept for name, kept in examples.items() if importlib.util.find_spec(name)}
    if not there:
        pytest.skip(f"none of {', '.join(examples)}")
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute("create schema jobs")  # procrastinate makes a lot
    with ExitStack() as stack:
        started = [
            stack.enter_context(running(lab, name, script)) for name, (script, _) in there.items()
        ]
        for one in started:
            assert one.line() == "taking orders\n", one.complaints
        time.sleep(0.3)
        lab.inject("crash", promote_after_s=0.3).wait_struck()
        counted = {one.name: one.line() for one in started}
        for one in started:
            assert one.process.wait(60) == 0, one.complaints
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        for name, (_, table) in there.items():
            found = conn.execute(f"select count(*) from {table}".encode()).fetchone()
            assert found == (int(counted[name].split()[0]),), name
            conn.execute(f"drop table {table}".encode())
        conn.execute("drop schema jobs cascade")
