"""COMMITs that wait: for their standbys, which are stopped, or for a backend that is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from resilient.lab import Lab

#: a receiver that is only about to be started again has read the setting
RECEIVES = """select current_setting('primary_conninfo') <> ''
 or exists (select from pg_stat_wal_receiver) from pg_sleep(0.1)"""
WAITING = "select pid from pg_stat_activity where usename = 'app' and wait_event = 'SyncRep'"


async def backend_that_waits(lab: Lab) -> int:
    """Whose COMMIT waits for a standby."""
    for _ in range(1000):
        rows = await asyncio.to_thread(lab.admin, None, WAITING)
        if rows:
            return int(str(rows[0][0]))
        await asyncio.sleep(0.01)
    raise AssertionError("no COMMIT waits for its standbys")


class Held:
    """The standbys are stopped, so a COMMIT waits."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __enter__(self) -> Self:
        for standby in self.lab.standbys:
            standby.pause()
        return self

    def __exit__(self, *_: object) -> None:
        for standby in self.lab.standbys:
            standby.resume()

    async def ask(self, function: str) -> None:
        """`pg_cancel_backend` or `pg_terminate_backend`, for the one that waits."""
        pid = await backend_that_waits(self.lab)
        await asyncio.to_thread(self.lab.admin, None, f"select {function}({pid})")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A backend that does nothing until the end; what it is sent waits."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def cut(conn: Any) -> None:
    """The way to the server is lost, both ways; what was sent before still arrives."""
    with socket.socket(fileno=os.dup(conn.pgconn.socket)) as end:
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cut_off(lab: Lab) -> Iterator[None]:
    """The standbys receive nothing more: what the primary writes from here on is lost."""
    try:
        for standby in lab.standbys:
            standby.execute("alter system set primary_conninfo = ''")
            standby.execute("select pg_reload_conf()")
        for standby in lab.standbys:
            until(lambda s=standby: s.execute(RECEIVES) == [(False,)])
        yield
    finally:
        forget_settings(lab)


def forget_settings(lab: Lab) -> None:
    for member in lab.members:
        if member.state.value == "up":
            member.execute("alter system reset all")
            member.execute("select pg_reload_conf()")


def until(condition: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)
