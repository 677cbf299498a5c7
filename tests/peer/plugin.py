"""Runs psycopg's own pool suite on our four pools: `make peer-tests PSYCOPG=<checkout>`.

Loaded with `-p plugin` before the suite's files are imported.  It puts our classes in the
place of psycopg_pool's, starts a throw-away PostgreSQL, and leaves out the tests listed in
`deselected.txt`.  With `RESILIENT_PEER_BARE=1` nothing is replaced or left out, which tells
the tests that fail with psycopg_pool alone.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psycopg_pool
import pytest

from resilient.lab import guard
from resilient.lab.binaries import copy_binaries, find_binaries, usable_by
from resilient.lab.ports import choose_port
from resilient.lab.postgres import Member, ServerSettings
from resilient.lab.processes import Spawner, dismiss, server_account, start_guard

ADDRESS = "127.0.0.1"
NAMES = ("ConnectionPool", "AsyncConnectionPool", "NullConnectionPool", "AsyncNullConnectionPool")
BARE = os.environ.pop("RESILIENT_PEER_BARE", "") == "1"


def substitute() -> None:
    """psycopg_pool's names stand for our classes from now on."""
    from resilient import postgres

    for name in NAMES:
        setattr(psycopg_pool, name, getattr(postgres, name))


def start_server(stack: ExitStack) -> str:
    """A server of its own in a temporary folder; its conninfo.  The stack takes it down."""
    account, binaries = server_account(), find_binaries()
    root = Path(tempfile.mkdtemp(prefix="resilient-peer-")).resolve()
    root.chmod(0o711)
    stack.callback(dismiss, start_guard(root))
    stack.callback(guard.clean, root)
    spawner = Spawner(root, account)
    stack.callback(spawner.close)
    if not usable_by(account, binaries):
        binaries = copy_binaries(binaries, root / "postgresql")
    port = choose_port([ADDRESS], None, 5432, "port", False)
    settings = ServerSettings(binaries, port, False, "", ("az1",), 60.0)
    member = Member("az1", ADDRESS, root / "az1", settings, spawner)
    member.initdb()
    stack.callback(member.remove)
    member.start()
    member.execute("CREATE DATABASE peer")
    return f"host={ADDRESS} port={port} user=postgres dbname=peer"


def read_deselected() -> dict[str, str]:
    """`tests/pool/…::test_name  reason`, one a line; test (without parameters) → reason."""
    lines = Path(__file__).with_name("deselected.txt").read_text().splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip() and line[0] != "#")
    return {test: reason.strip() for test, reason in pairs}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    stack = ExitStack()
    config.add_cleanup(stack.close)
    config.option.test_dsn = start_server(stack)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if BARE:
        return
    left_out = read_deselected()
    known = {item.nodeid for item in items} | {item.nodeid.split("[")[0] for item in items}
    files = {item.nodeid.split("::")[0] for item in items}
    if stale := [t for t in left_out if t not in known and t.split("::")[0] in files]:
        print(f"deselected.txt names tests that this checkout doesn't have: {stale}")
    out = [i for i in items if i.nodeid in left_out or i.nodeid.split("[")[0] in left_out]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


for _name in [name for name in os.environ if name.startswith("RESILIENT_")]:
    del os.environ[_name]
os.environ.pop("DATABASE_URL", None)
if not BARE:
    substitute()
