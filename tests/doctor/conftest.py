"""The command `resilient doctor`, in the lab's environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resilient.cli.app import app
from resilient.lab import Lab

# a cluster of another kind than the lab's: `pg_servers`
sys.path.append(str(Path(__file__).parents[1] / "dns"))


@pytest.fixture
def run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, in the lab's environment: (exit code, its JSON)."""

    def ran(*argv: str, **env: str) -> tuple[int, dict[str, Any]]:
        for name, value in {**lab.env(), **env}.items():
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(app, ["doctor", *argv, "--json"])
        assert done.exit_code in (0, 1), done.stderr
        told = json.loads(done.stdout)
        assert isinstance(told, dict)
        assert told["ok"] is (done.exit_code == 0)
        return done.exit_code, told

    return ran
