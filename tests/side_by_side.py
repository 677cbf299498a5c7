"""All tests, several runs of pytest side by side: they mostly wait for servers to die.

    python -m tests.side_by_side [arguments of pytest]

Each folder of tests is a run, the longest ones are several, in a network namespace of its own, so
their servers and addresses don't meet.  A run's output is shown when it is over, and what failed
once more at the end.  With arguments, or where the kernel refuses namespaces, it is one run.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from resilient.lab.namespace import inside

RUN = (sys.executable, "-m", "resilient.lab.namespace", "--")
PYTEST = (sys.executable, "-m", "pytest")
#: runs at a time; two processors could take four, but then what has a time limit misses it
SIDE_BY_SIDE = 3
#: what takes long is told, so that it is known what the time goes for
SLOWEST = ("--durations=6", "--durations-min=4")
#: these take longest, so they begin first, in as many runs
LONGEST = {
    "tests/postgres": 3,
    "tests/continuity": 3,
    "tests/http": 1,
    "tests/dns": 1,
    "tests/faults": 1,
    "tests/replay": 1,
}
#: suites of their own: make differential, make test-more
APART = ("tests/differential", "tests/apps", "tests/benchmarks", "tests/drill", "tests/lab")
#: pytest's exit code for a run that was interrupted
INTERRUPTED = 2
#: pytest's exit code for a folder whose tests are all of another suite
NOTHING_TO_RUN = 5
#: of pytest's last lines, the ones that say what failed
FAILURE = re.compile(r"^(FAILED|ERROR) .*", re.MULTILINE)


class _Run(NamedTuple):
    name: str
    started_s: float
    process: subprocess.Popen[bytes]
    output: IO[bytes]


def main(argv: Sequence[str]) -> int:
    """pytest's exit code; of several runs the worst one."""
    if argv or not _namespaces():
        return subprocess.run([*RUN, *PYTEST, *argv], check=False).returncode
    waiting = parts()
    total = len(waiting)
    failed: list[str] = []
    worst = over = 0
    with _stopping() as running:
        while waiting or running:
            while waiting and len(running) < SIDE_BY_SIDE:
                running.append(_begin(*waiting.pop(0)))
            time.sleep(0.05)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                over += 1
                text = _show(run, f"{over} of {total}")
                code = run.process.returncode
                if code not in (0, NOTHING_TO_RUN):
                    found = [match.group() for match in FAILURE.finditer(text)]
                    failed += found or [f"FAILED {run.name}: exit code {code}"]
                    worst = max(worst, code, 1)
    print("\n".join(["==== what failed:", *failed] if failed else ["==== all passed"]), flush=True)
    return worst


def parts() -> list[tuple[str, Sequence[str]]]:
    """What one run of pytest takes, as (name, paths); every test is in exactly one of them."""
    tests = Path("tests").glob("*/**/test_*.py")
    tops = sorted({"/".join(path.parts[:2]) for path in tests} - set(APART))
    first = [run for name, runs in LONGEST.items() if name in tops for run in _shares(name, runs)]
    rest = [(name, [name]) for name in tops if name not in LONGEST]
    files = sorted(str(path) for path in Path("tests").glob("test_*.py"))
    return [*first, *rest, ("tests/*.py", files)]


def _shares(name: str, runs: int) -> list[tuple[str, Sequence[str]]]:
    """The folder's files dealt out to so many runs."""
    if runs == 1:
        return [(name, [name])]
    files = sorted(str(path) for path in Path(name).glob("**/test_*.py"))
    return [(f"{name} ({share + 1}/{runs})", files[share::runs]) for share in range(runs)]


def _begin(name: str, paths: Sequence[str]) -> _Run:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been shown
    process = subprocess.Popen(
        [*RUN, *PYTEST, "-p", "no:cacheprovider", *SLOWEST, *paths],
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    return _Run(name, time.monotonic(), process, output)


def _show(run: _Run, which: str) -> str:
    """What the run wrote, which is printed too."""
    with run.output as output:
        output.seek(0)
        written = output.read()
    took_s = time.monotonic() - run.started_s
    print(f"==== {run.name} ({which}), {took_s:.0f} s", flush=True)
    sys.stdout.buffer.write(written)
    sys.stdout.flush()
    return written.decode(errors="replace")


@contextmanager
def _stopping() -> Iterator[list[_Run]]:
    """The runs under way: none outlives this."""
    running: list[_Run] = []
    try:
        yield running
    except KeyboardInterrupt:  # each has been sent it
        for run in running:
            run.process.wait()
            _show(run, "interrupted")
        raise SystemExit(INTERRUPTED) from None
    finally:
        for run in running:
            if run.process.poll() is None:
                run.process.send_signal(signal.SIGINT)
                run.process.wait()


def _namespaces() -> bool:
    code = "import sys; from resilient.lab.namespace import inside; sys.exit(not inside())"
    command = [*RUN, sys.executable, "-c", code]
    return not inside() and subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
