"""The drill itself: one crash, end to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resilient.drill.timeline import Timeline
from resilient.lab.binaries import find_binaries
from resilient.lab.options import LabError

pytestmark = pytest.mark.lab
DRILL = [sys.executable, "-m", "resilient.cli", "drill", "--endpoint", "multi", "--json"]


@pytest.fixture(autouse=True)
def _postgresql() -> None:
    try:
        find_binaries()
    except LabError as error:
        pytest.skip(str(error))


def test_a_crash(tmp_path: Path) -> None:
    html, record = tmp_path / "drill.html", tmp_path / "drill.jsonl"
    argv = [*DRILL, "--fault", "crash", "--runs", "1", "--promote-after", "0.5"]
    argv += ["--html", str(html), "--record", str(record)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 1, done.stderr
    told = rows[0]
    # how quick it was is for the drill on a quiet machine; that it is right holds anywhere
    assert (told["fault"], told["runs"], told["endpoint"]) == ("crash", 1, "multi")
    assert (told["lost"], told["duplicated"], told["late_acks"]) == (0, 0, 0), done.stderr
    assert told["errors"] == 0, done.stderr
    assert told["acked"] > 100
    assert told["requests"] > 10
    assert 0.5 < told["writable_s"] < told["outage_s"] + 0.1
    assert None not in told["phases"].values()
    assert done.returncode == (0 if told["ok"] else 1), done.stderr
    (line,) = record.read_text().splitlines()
    drawn = Timeline.from_dict(json.loads(line))
    assert {"fault", "promotion", "writer", "writes, sync", "requests, async"} <= {*drawn.lanes}
    texts = {mark.text for mark in drawn.marks}
    assert "first good write" in texts
    assert any(text.endswith(" accepts writes") for text in texts)
    assert drawn.verdict == tuple(told["broken"])
    assert "<svg" in html.read_text()


def test_an_interrupt_leaves_nothing_and_says_so() -> None:
    argv = [*DRILL, "--fault", "crash", "--runs", "9", "--promote-after", "5"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "is dead" in line:
            break
    began_at = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - began_at < 10
    assert "interrupted" in err
    assert process.returncode == 1
    assert out == ""  # no run was complete
