"""One PostgreSQL server of the lab.

It is driven through its Unix socket and by signals only, so a zone that the network has lost is
still under the lab's control.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from .guard import free_shared_memory, kill_all_in
from .options import LabError
from .processes import Spawner, children_of, kill_family, signal_all, stop_family, tail

__all__ = ["Member", "MemberState", "ServerSettings"]

Connection = psycopg.Connection[tuple[object, ...]]

#: settings that every member shares; pg_rewind may copy them from one to another.
#: wal_keep_size must stand here: pg_rewind's own crash recovery reads only this file, and would
#: delete the WAL that the rewind needs.  wal_retrieve_retry_interval: a promotion and a standby
#: that changes its source may wait that long.
COMMON = """
max_connections = 200
max_prepared_transactions = 10
wal_level = replica
max_wal_senders = 12
wal_keep_size = 512MB
wal_log_hints = on
hot_standby = on
wal_retrieve_retry_interval = 50ms
dynamic_shared_memory_type = mmap
shared_buffers = 32MB
jit = off
logging_collector = off
lc_messages = C
timezone = UTC
log_timezone = UTC
"""
ACCESS = """
local all all trust
local replication all trust
host all all 127.0.0.0/8 trust
host replication all 127.0.0.0/8 trust
"""


class MemberState(enum.Enum):
    """What the lab has done to a server."""

    DOWN = "down"
    UP = "up"
    STOPPED = "stopped"  # SIGSTOP: accepts connections, says nothing


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What all members of one lab have in common."""

    binaries: Path
    port: int
    fsync: bool
    synchronous_standby_names: str  # with {others} for the other members' names
    peers: tuple[str, ...]
    start_timeout_s: float


class Member:
    """A server in one zone: its data, its processes, its role settings."""

    def __init__(
        self, zone: str, address: str, folder: Path, settings: ServerSettings, spawner: Spawner
    ) -> None:
        self.zone = zone
        self.address = address
        self.port = settings.port
        self.folder = folder
        self.data = folder / "data"
        self.sockets = folder / "s"
        self.log = folder / "log"
        self.state = MemberState.DOWN
        self.source: Member | None = None  # whom it streams from as a standby
        self._settings = settings
        self._spawner = spawner
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Member {self.zone} {self.address}:{self.port} {self.state.value}>"

    @property
    def conninfo(self) -> str:
        """For the superuser, through the Unix socket."""
        return f"host={self.sockets} port={self.port} user=postgres dbname=postgres"

    @property
    def is_standby(self) -> bool:
        """Whether it runs as a standby; an old primary that came back doesn't."""
        return self.state is MemberState.UP and self.source is not None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while there is one."""
        return self._process.pid if self._process is not None else None

    # ---- making the data -------------------------------------------------------------

    def initdb(self) -> None:
        """Make a new cluster with the lab's settings."""
        self._make_folders()
        # Ours, so that it stays when initdb fails: its number is how shared memory is found again.
        self.data.mkdir(mode=0o700)
        self._own(self.data)
        options = ["--no-sync", "--auth=trust", "--username=postgres", "--no-locale"]
        # small segments: a standby that changes its source is sent its last segment from the
        # start, 50 ms without an acknowledged commit for the usual 16 MB
        options += ["--encoding=UTF8", "--wal-segsize=1", f"--pgdata={self.data}"]
        self._tool("initdb", *options)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"{COMMON}fsync = {'on' if self._settings.fsync else 'off'}\n")
        (self.data / "pg_hba.conf").write_text(ACCESS)

    def copy_from(self, other: Member) -> None:
        """Become a copy of a server that was never started: the quickest base backup."""
        self._make_folders()
        argv: list[str | Path] = ["cp", "-a", "--reflink=auto", other.data, self.data]
        self._spawner.run(argv, cwd=self.folder, timeout_s=60, what=f"{self.zone}: copy")

    def base_backup(self, source: Member) -> None:
        """Throw the data away and copy the source's, while it runs."""
        shutil.rmtree(self.data, ignore_errors=True)
        self._make_folders()
        options = [f"--dbname={source.conninfo}", f"--pgdata={self.data}"]
        options += ["--checkpoint=fast", "--wal-method=stream", "--no-sync"]
        self._tool("pg_basebackup", *options)

    def rewind(self, source: Member) -> None:
        """Undo what the source never had, and take over its history.  The server is down."""
        # pg_rewind looks for the timeline in the control file, which lags behind a promotion
        source.execute("CHECKPOINT")
        options = [f"--target-pgdata={self.data}", f"--source-server={source.conninfo}"]
        self._tool("pg_rewind", *options, "--no-sync")

    # ---- role ------------------------------------------------------------------------

    def follow(self, source: Member | None) -> None:
        """Stream from `source` from now on; None: from nobody.  A running server is reloaded."""
        self.source = source
        self._write_settings()
        if source is not None and self.state is MemberState.DOWN:
            (self.data / "standby.signal").touch()
            self._own(self.data / "standby.signal")
        elif self.state is MemberState.UP:
            self._signal(signal.SIGHUP)

    def promote(self) -> None:
        """Begin the promotion; returns before it is done."""
        self.execute("SELECT pg_promote(false)")

    # ---- running ---------------------------------------------------------------------

    def start(self) -> None:
        """Start it as our own child (pg_ctl polls at 100 ms) and wait until it accepts."""
        self._write_settings()
        free_shared_memory(self.data)
        argv = ["-D", str(self.data), "-c", f"config_file={self._settings_file}"]
        # QUIT: should we die, the postmaster ends at once and frees its shared memory
        self._process = self._spawner.start(
            [self._settings.binaries / "postgres", *argv],
            log=self.log,
            cwd=self.folder,
            death_signal="QUIT",
        )
        self.state = MemberState.UP
        self._wait_ready()

    def stop(self, mode: str = "fast", timeout_s: float = 10.0) -> None:
        """Shut down: `fast` tells clients 57P01 and writes a checkpoint, `immediate` doesn't.

        A server that won't within `timeout_s` is killed.
        """
        process = self._process
        if process is None:
            return
        if self.state is MemberState.STOPPED:
            self.kill()
            return
        self._signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self.state = MemberState.DOWN
        self._process = None

    def kill(self) -> None:
        """kill -9 of all its processes, none of which gets to say a word."""
        if self._process is not None:
            kill_family(self._process)
        kill_all_in(self.data)
        free_shared_memory(self.data)  # now, while its pid file says which
        self.state = MemberState.DOWN
        self._process = None

    def pause(self) -> None:
        """SIGSTOP of all its processes: the kernel goes on accepting and acknowledging."""
        if self._process is not None and self.state is MemberState.UP:
            stop_family(self._process.pid)
            self.state = MemberState.STOPPED

    def resume(self) -> None:
        """SIGCONT of all its processes."""
        if self._process is not None and self.state is MemberState.STOPPED:
            family = [*children_of(self._process.pid), self._process.pid]
            self.state = MemberState.UP
            signal_all(family, signal.SIGCONT)

    def remove(self) -> None:
        """End it without ceremony and free its shared memory."""
        if self.state is MemberState.UP:
            with contextlib.suppress(LabError):
                self.stop("immediate", timeout_s=2.0)
        self.kill()

    # ---- SQL -------------------------------------------------------------------------

    def connect(self) -> Connection:
        """A superuser's connection, autocommit, whose writes wait for no standby."""
        if self.state is not MemberState.UP:
            raise LabError(f"{self.zone}: the server is {self.state.value}; heal or rejoin it")
        options = "-c synchronous_commit=local"
        return psycopg.connect(self.conninfo, autocommit=True, options=options, connect_timeout=5)

    def execute(self, query: str) -> list[tuple[object, ...]]:
        """Run one statement as superuser; its rows, or none."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def is_primary(self) -> bool:
        """What the server itself says (a zombie says yes)."""
        return self.execute("SELECT pg_is_in_recovery()") == [(False,)]

    # ---- the small print -------------------------------------------------------------

    @property
    def _settings_file(self) -> Path:
        return self.folder / "member.conf"  # outside the data: pg_rewind copies the source's

    def _write_settings(self) -> None:
        others = [f'"{peer}"' for peer in self._settings.peers if peer != self.zone]
        names = self._settings.synchronous_standby_names.format(others=", ".join(others))
        source = self.source
        conninfo = ""
        if source is not None:
            conninfo = f"host={source.address} port={source.port} user=postgres"
            conninfo += f" application_name={self.zone}"
        text = f"""include '{self.data}/postgresql.conf'
cluster_name = '{self.zone}'
listen_addresses = '{self.address}'
port = {self.port}
unix_socket_directories = '{self.sockets}'
synchronous_standby_names = '{names}'
primary_conninfo = '{conninfo}'
"""
        new = self._settings_file.with_suffix(".new")
        new.write_text(text)
        self._own(new)
        new.replace(self._settings_file)

    def _wait_ready(self) -> None:
        give_up_at = time.monotonic() + self._settings.start_timeout_s
        process, status = self._process, ""
        assert process is not None
        while status not in ("ready", "standby") or not self._answers():
            if process.poll() is not None:
                self._process, self.state = None, MemberState.DOWN
                raise LabError(f"{self.zone}: PostgreSQL did not start\n{tail(self.log)}")
            if time.monotonic() > give_up_at:
                raise LabError(
                    f"{self.zone}: PostgreSQL not ready after start_timeout_s="
                    f"{self._settings.start_timeout_s:g}\n{tail(self.log)}"
                )
            time.sleep(0.003)
            with contextlib.suppress(OSError, IndexError):
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                status = lines[7].strip() if int(lines[0]) == process.pid else ""

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _tool(self, name: str, *options: str) -> None:
        argv: list[str | Path] = [self._settings.binaries / name, *options]
        timeout_s, what = self._settings.start_timeout_s, f"{self.zone}: {name}"
        self._spawner.run(argv, cwd=self.folder, timeout_s=timeout_s, what=what)

    def _make_folders(self) -> None:
        for folder in (self.folder, self.sockets):
            folder.mkdir(mode=0o755, exist_ok=True)
            self._own(folder)

    def _own(self, path: Path) -> None:
        account = self._spawner.account
        if account.switch:
            os.chown(path, account.uid, account.gid)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
