"""Servers as people run them: uvicorn, granian, nginx with TLS, HAProxy, each a process.

A server that isn't installed is a reason to skip (`needed`).
"""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

HERE = Path(__file__).parent
START_S = 30.0


def needed(*names: str) -> None:
    """Skip where one of these isn't installed: programs, or modules of Python's."""
    for name in names:
        found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        if found is None and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} isn't installed")


class Process:
    """One server at one address."""

    def __init__(self, address: str, port: int, *argv: str, orders: Path | None = None) -> None:
        self.address, self.port = address, port
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        if orders is not None:
            environment["ORDERS"] = str(orders)
        self._process = subprocess.Popen(
            argv, env=environment, cwd=HERE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> None:
        """Returns when it takes connections."""
        end = time.monotonic() + START_S
        while True:
            with suppress(OSError), socket.create_connection((self.address, self.port), 1):
                return
            assert time.monotonic() < end, f"{self._process.args!r} doesn't start"
            assert self._process.poll() is None, f"{self._process.args!r} ended"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask it to end, as an orchestrator does."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """It and its workers are gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def uvicorn(address: str, port: int, orders: Path) -> Process:
    options = ("--log-level=critical", "--timeout-graceful-shutdown=2")
    return Process(
        address, port, sys.executable, "-m", "uvicorn", "asgi_app:app",
        f"--host={address}", f"--port={port}", *options, orders=orders,
    )  # fmt: skip


def granian(address: str, port: int, orders: Path) -> Process:
    """HTTP/2 without TLS."""
    return Process(
        address, port, sys.executable, "-m", "granian", "--interface=asgi", "--http=2",
        f"--host={address}", f"--port={port}", "--no-ws", "--workers-kill-timeout=2",
        "asgi_app:app", orders=orders,
    )  # fmt: skip


def nginx(address: str, port: int, upstream: str, pair: tuple[Path, Path], folder: Path) -> Process:
    """TLS, both versions, and a connection only for so many requests and so long."""
    home = folder / f"nginx-{address}"
    home.mkdir()
    config = home / "nginx.conf"
    config.write_text(f"""
        user {getpass.getuser()}; daemon off; pid {home}/pid;
        error_log {home}/error.log; worker_processes 1;
        events {{ worker_connections 256; }}
        http {{
            access_log off; client_body_temp_path {home}; proxy_temp_path {home};
            fastcgi_temp_path {home}; uwsgi_temp_path {home}; scgi_temp_path {home};
            client_max_body_size 16m; keepalive_requests 7; keepalive_timeout 1s;
            server {{
                listen {address}:{port} ssl http2;
                ssl_certificate {pair[0]}; ssl_certificate_key {pair[1]};
                location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1; }}
            }}
        }}
        """)
    return Process(address, port, "nginx", "-p", str(home), "-c", str(config))


def haproxy(address: str, port: int, backends: list[Process], folder: Path) -> Process:
    """In front of all of them."""
    servers = "\n".join(
        f" server s{number} {one.address}:{one.port} check inter 500ms fall 3 rise 1"
        for number, one in enumerate(backends)
    )
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n maxconn 200\ndefaults\n mode http\n option redispatch\n retries 2\n"
        " timeout client 30s\n timeout server 30s\n timeout check 5s\n timeout connect 5s\n"
        f"listen web\n bind {address}:{port}\n balance roundrobin\n{servers}\n"
    )
    return Process(address, port, "haproxy", "-db", "-q", "-f", str(config))


def counted(orders: Path) -> Counter[str]:
    """Order → how often it was taken."""
    return Counter(orders.read_text().split() if orders.exists() else ())
