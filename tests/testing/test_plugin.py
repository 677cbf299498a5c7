"""The fixtures, in a pytest of their own: the example's tests pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"
#: nobody's options but the example's
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null")


@pytest.mark.lab
def test_the_examples_tests_pass() -> None:
    run = subprocess.run(
        [*PYTEST, f"--rootdir={EXAMPLE}", str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout or "1 passed, 1 skipped" in run.stdout


def test_it_imports_nothing_until_it_is_used() -> None:
    code = (
        "import sys, resilient.testing.plugin;"
        "print([name for name in sys.modules"
        " if name.partition('.')[0] in ('psycopg', 'httpx2', 'asyncio', 'dns')])"
    )
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.modules['pytest'] = __import__('types')"
            f".SimpleNamespace(fixture=lambda *a, **k: (a or (lambda f: f,))[0]); {code}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "[]\n"
