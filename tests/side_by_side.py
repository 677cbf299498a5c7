"""All tests, as two runs of pytest side by side: they mostly wait for servers to die.

    python -m tests.side_by_side [arguments of pytest]

Each has a network namespace of its own, so their servers and addresses don't meet.  The second
one's output is shown when it is over.  With arguments, or where the kernel refuses namespaces,
it is one run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from resilient.lab.namespace import inside

RUN = (sys.executable, "-m", "resilient.lab.namespace", "--")
PYTEST = (sys.executable, "-m", "pytest")
#: about half of the time
HALF = ("tests/postgres", "tests/continuity", "tests/benchmarks")
#: a suite of its own: make differential
APART = ("tests/differential",)
#: pytest's exit code for a run that was interrupted
INTERRUPTED = 2


def main(argv: Sequence[str]) -> int:
    """pytest's exit code; of two runs the worse one."""
    if argv or not _namespaces():
        return subprocess.run([*RUN, *PYTEST, *argv], check=False).returncode
    with tempfile.TemporaryFile() as output:
        rest = [f"--ignore={path}" for path in (*HALF, *APART)]
        second = subprocess.Popen(
            [*RUN, *PYTEST, "-p", "no:cacheprovider", *rest],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            first = subprocess.run([*RUN, *PYTEST, *HALF], check=False).returncode
            print(f"==== the other half, run meanwhile; without {', '.join(HALF)}", flush=True)
            code = max(first, second.wait())
        except KeyboardInterrupt:  # both have been sent it
            second.wait()
            code = INTERRUPTED
        finally:
            if second.poll() is None:
                second.send_signal(signal.SIGINT)
                second.wait()
        output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
    return code


def _namespaces() -> bool:
    code = "import sys; from resilient.lab.namespace import inside; sys.exit(not inside())"
    command = [*RUN, sys.executable, "-c", code]
    return not inside() and subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
