"""Up quickly, down without a trace, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.lab import Lab, LabError, LabOptions, Member
from resilient.lab.namespace import inside

from . import leftovers

RUNNING = """
import sys, time
from resilient.lab import Lab, LabOptions
lab = Lab(LabOptions(data_dir={data_dir!r}), progress=lambda line: print(line, flush=True))
with lab:
    {prelude}
    print("root", lab.root, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder that the servers' account may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run_a_lab(prelude: str = "") -> tuple[subprocess.Popen[str], Path]:
    """A lab in a process of its own, once it is up; its folder."""
    process = start_a_lab(prelude)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("root "):
            return process, Path(line.split()[1])
    raise AssertionError(f"it ended with {process.wait()}")


def start_a_lab(prelude: str = "", data_dir: Path | None = None) -> subprocess.Popen[str]:
    folder = None if data_dir is None else str(data_dir)
    script = RUNNING.format(prelude=prelude or "pass", data_dir=folder)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_up_and_down() -> None:
    memory = leftovers.shared_memory()
    began_at = time.monotonic()
    with Lab(LabOptions()) as lab:
        up_s = time.monotonic() - began_at
        root = lab.root
        assert [m.zone for m in lab.members] == ["az1", "az2", "az3"]
        assert lab.primary.zone == "az1"
        states = lab.admin(None, "SELECT application_name, sync_state FROM pg_stat_replication")
        assert sorted(states) == [("az2", "quorum"), ("az3", "quorum")]
        stop_at = time.monotonic()
    down_s = time.monotonic() - stop_at
    assert leftovers.of(root, memory) == []
    print(f"up {up_s:.2f} s, down {down_s:.2f} s")
    assert up_s < 8, "4 s is the aim, on a machine that does nothing else"
    assert down_s < 3


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_lab_leaves_nothing(end: signal.Signals) -> None:
    memory = leftovers.shared_memory()
    # a server that is stopped can't react to anything
    process, root = run_a_lab("lab.inject('hang', promote_after_s=60).wait_struck()")
    with process:
        process.send_signal(end)
        process.wait(10)
    if end is not signal.SIGKILL:
        assert leftovers.of(root, memory) == [], "nothing is left when the process has ended"
    assert leftovers.gone(root, memory) == []


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("line", ["initdb", "copying"])
def test_interrupted_while_starting(line: str, end: signal.Signals, place: Path) -> None:
    memory = leftovers.shared_memory()
    with start_a_lab(data_dir=place) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(line):
            assert process.poll() is None
        (root,) = place.iterdir()
        time.sleep(0.1)
        process.send_signal(end)
        process.wait(10)
    assert leftovers.gone(root, memory) == []


def test_an_error_while_starting_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    memory = leftovers.shared_memory()
    monkeypatch.setattr("resilient.lab.cluster.Cluster.wait_streaming", fail)
    lab = Lab(LabOptions())
    with pytest.raises(RuntimeError, match="on purpose"):
        lab.start()
    assert leftovers.of(lab.root, memory) == []


def test_what_is_skipped_is_told(session_lab: Lab) -> None:
    if inside():
        assert session_lab.skipped_faults == {}
        return
    assert list(session_lab.skipped_faults) == ["blackhole"]
    with pytest.raises(LabError, match="namespace"):
        session_lab.inject("blackhole")
    with pytest.raises(LabError, match="namespace"):
        session_lab.blackhole("az1")


def test_errors_name_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="zones=1"):
        LabOptions(zones=1)
    with pytest.raises(LabError, match="data_dir="):
        Lab(LabOptions(data_dir=tmp_path / "absent")).start()
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(LabError, match="PG_BIN="):
        Lab(LabOptions()).start()


def test_nowhere_a_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    for finder in ("_debian", "_wheel"):
        monkeypatch.setattr(f"resilient.lab.binaries.{finder}", list)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("PG_BIN", raising=False)
    from resilient.lab.binaries import find_binaries

    with pytest.raises(LabError, match=r"pip install 'resilient-connect\[lab\]'.*PG_BIN"):
        find_binaries()


def test_a_taken_port_is_an_error_that_names_it(session_lab: Lab) -> None:
    with pytest.raises(LabError, match=f"^port={session_lab.port}: "):
        Lab(LabOptions(port=session_lab.port, http=False)).start()


def test_a_fork_does_not_close_its_parents_lab(session_lab: Lab) -> None:
    pid = os.fork()
    if pid == 0:
        session_lab.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert session_lab.admin("az2", "SELECT 1") == [(1,)]


def test_an_unknown_fault_is_refused(session_lab: Lab) -> None:
    with pytest.raises(LabError, match="switchover, crash, hang"):
        session_lab.inject("meteorite")


def test_no_memory_is_leaked_by_faults_and_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LabError("on purpose")

    memory = leftovers.shared_memory()
    with Lab(LabOptions(sync=False, http=False)) as lab:
        run = lab.inject("crash", promote_after_s=0, dns_after_s=0)
        run.wait_done()
        assert run.durable_at == run.writable_at, "asynchronous: nobody confirms"
        monkeypatch.setattr(Member, "rewind", fail)
        assert lab.rejoin() == {"az1": "pg_basebackup"}
        rows = lab.admin(None, "SELECT application_name, sync_state FROM pg_stat_replication")
        # whichever had received most was promoted
        assert lab.primary.zone != "az1"
        assert sorted(rows) == [(m.zone, "async") for m in lab.members if m is not lab.primary]
        lab.inject("hang", promote_after_s=0, dns_after_s=0).wait_done()
    assert leftovers.of(lab.root, memory) == []
