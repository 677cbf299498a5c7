"""A command in a namespace of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from resilient.lab import Lab
from resilient.lab.namespace import VARIABLE, inside, use_resolv_conf

ENTER = [sys.executable, "-m", "resilient.lab.namespace", "--"]


def test_exit_code_and_output_are_the_commands() -> None:
    done = subprocess.run(
        [*ENTER, "sh", "-c", "echo hello; exit 7"], capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("hello\n", 7)
    assert subprocess.run([*ENTER, "no-such-command"], capture_output=True).returncode == 127


def test_a_signal_reaches_the_command() -> None:
    with subprocess.Popen([*ENTER, "sh", "-c", "echo ready; exec sleep 60"],
        stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM


def test_the_variable_alone_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "net:[1]")
    assert not inside()
    with pytest.raises(RuntimeError, match="namespace"):
        use_resolv_conf("nameserver 127.0.0.53\n")


def test_a_refusal_runs_the_command_plainly() -> None:
    # a folder without unshare in it looks like a machine without the program
    command = [
        *ENTER,
        sys.executable,
        "-c",
        "import resilient.lab.namespace as n; print(n.refusal())",
    ]
    environ = {k: v for k, v in os.environ.items() if k != VARIABLE} | {"PATH": "/nonexistent"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0
    assert "unshare" in done.stdout
    assert "running without" in done.stderr


def test_names_resolve_through_the_system(session_lab: Lab) -> None:
    if not inside():
        pytest.skip("needs a namespace of our own, for /etc/resolv.conf")
    session_lab.use_system_resolver()
    session_lab.use_system_resolver()
    found = socket.getaddrinfo(session_lab.WRITER, session_lab.port, socket.AF_INET)
    assert found[0][4][0] == session_lab.primary.address
