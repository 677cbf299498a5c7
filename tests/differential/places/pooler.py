"""A real PgBouncer in front of a server.

The tests are skipped only where the program is missing: one that doesn't start is a failure, and
what it says of itself is in it.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from resilient.lab import Lab
from resilient.lab.postgres import Member
from resilient.lab.processes import server_account

ADDRESS, PORT = "127.0.6.10", 6432
PROGRAM = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
CONFIG = """\
[databases]
app = host={host} port={port} dbname=app user=app pool_size={size}
[pgbouncer]
listen_addr = {address}
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
logfile = {folder}/log
pidfile = {folder}/pid
ignore_startup_parameters = extra_float_digits,options
{more}
"""
#: after a login that failed, those who wait for a server connection wait so long, in seconds
LOGIN_RETRY = "server_login_retry = 1"


@cache
def version() -> tuple[int, int]:
    """Of the program; (0, 0): there is none."""
    if PROGRAM is None:
        return 0, 0
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said.stdout + said.stderr)
    assert found is not None, said
    return int(found[1]), int(found[2])


class Bouncer:
    """One PgBouncer, as a child of this process."""

    def __init__(self, folder: Path, config: str, address: str = ADDRESS, port: int = PORT) -> None:
        self._folder, self._at = folder, (address, port)
        (folder / "ini").write_text(config)
        folder.chmod(0o777)  # it writes its log as who it becomes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        address, port = self._at
        return f"host={address} port={port} user=app dbname=app"

    @property
    def log(self) -> str:
        """What it has said so far."""
        path = self._folder / "log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        account = server_account()
        become = ["-u", account.name] if account.switch else []  # it refuses to be root
        command = [PROGRAM or "", "-q", *become, str(self._folder / "ini")]
        with (self._folder / "said").open("wb") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=said)
        until = time.monotonic() + 10
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(self._at, 1):
                return
            time.sleep(0.01)
        code = self._process.poll()
        self.stop()
        said_text = (self._folder / "said").read_text()
        pytest.fail(f"pgbouncer didn't start ({code}): {said_text}{self.log}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def pooling(
    host: str, server: int, mode: str, size: int, *, more: str = LOGIN_RETRY, port: int = PORT
) -> Iterator[Bouncer]:
    """PgBouncer with so many server connections to this server; `more`: lines of its settings.
    The test is skipped where there is none."""
    if PROGRAM is None:
        pytest.skip("pgbouncer isn't installed (apt-get install pgbouncer)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {"host": host, "port": server, "address": ADDRESS, "listen": port}
        config = CONFIG.format(**values, folder=folder, mode=mode, size=size, more=more)
        made = Bouncer(folder, config, port=port)
        made.start()
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def bouncer(
    lab: Lab, member: Member, mode: str, size: int, more: str = LOGIN_RETRY
) -> Iterator[Bouncer]:
    """The same in front of a member of the lab."""
    with pooling(member.address, lab.port, mode, size, more=more) as made:
        yield made
