"""The examples with frameworks, all at once, while a primary dies."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from resilient.lab import Lab

EXAMPLES = Path(__file__).parents[2] / "examples"
#: by what they need: the script, and where its orders are
ORDERS = {
    "sqlalchemy": ("orders_sqlalchemy.py", "orders_sqlalchemy"),
    "django": ("orders_django.py", "orders_django"),
    "procrastinate": ("jobs_procrastinate.py", "jobs.orders_procrastinate"),
}
#: psycopg takes what the URL doesn't say from libpq's own variables
MORE = {"procrastinate": {"PGOPTIONS": "-csearch_path=jobs"}}


@pytest.mark.lab
def test_no_order_is_lost(lab: Lab) -> None:
    there = {name: kept for name, kept in ORDERS.items() if importlib.util.find_spec(name)}
    if not there:
        pytest.skip(f"none of {', '.join(ORDERS)}")
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        conn.execute("create schema jobs")  # procrastinate makes a lot
    running = {
        name: subprocess.Popen(
            [sys.executable, str(EXAMPLES / script), "3"],
            env={**os.environ, **lab.env("az2"), **MORE.get(name, {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (script, _) in there.items()
    }
    try:
        for process in running.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "taking orders\n", process.communicate()
        time.sleep(0.5)
        lab.inject("crash", promote_after_s=0.3).wait_struck()
        outputs = {name: process.communicate(timeout=60) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    with psycopg.connect(f"{lab.dsn} target_session_attrs=read-write", autocommit=True) as conn:
        for name, (output, failure) in outputs.items():
            assert running[name].returncode == 0, failure
            table = there[name][1]
            counted = conn.execute(f"select count(*) from {table}".encode()).fetchone()
            assert counted == (int(output.split()[0]),), name
            conn.execute(f"drop table {table}".encode())
        conn.execute("drop schema jobs cascade")
