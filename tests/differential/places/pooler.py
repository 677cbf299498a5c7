"""A real PgBouncer in front of a member of the lab."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from resilient.lab import Lab
from resilient.lab.postgres import Member

ADDRESS, PORT = "127.0.6.10", 6432
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
server_login_retry = 1
ignore_startup_parameters = extra_float_digits,options
"""


class Bouncer:
    """One PgBouncer, as a child of this process."""

    def __init__(self, folder: Path, config: str) -> None:
        self._folder = folder
        (folder / "ini").write_text(config)
        folder.chmod(0o777)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return f"host={ADDRESS} port={PORT} user=app dbname=app"

    def start(self) -> None:
        command = ["pgbouncer", "-q", "-u", "postgres", str(self._folder / "ini")]
        self._process = subprocess.Popen(command)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection((ADDRESS, PORT), 1):
                return
            time.sleep(0.01)
        raise RuntimeError((self._folder / "log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def bouncer(lab: Lab, member: Member, mode: str, size: int) -> Iterator[Bouncer]:
    """PgBouncer with so many server connections; the test is skipped where there is none."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer isn't installed (apt-get install pgbouncer)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = {"host": member.address, "port": lab.port, "address": ADDRESS, "listen": PORT}
        made = Bouncer(folder, CONFIG.format(**values, folder=folder, mode=mode, size=size))
        made.start()
        try:
            yield made
        finally:
            made.stop()
