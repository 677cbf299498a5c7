"""`resilient settings`, `--version` and `--help`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from resilient.cli.app import app


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RESILIENT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RESILIENT_DATABASE_URL", "postgresql://u:s3cret@db")
    monkeypatch.setenv("RESILIENT_PATRONI_URLS", "http://u:s3cret@p:8008")
    monkeypatch.setenv("RESILIENT_ZONES", "az1=10.0.0.0/8,az2=*.b")


def test_values_and_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["settings", "--json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["settings"]["RESILIENT_DEADLINE_S"] == {"value": 30.0, "from": "default"}
    zones = {"value": "az1=10.0.0.0/8,az2=*.b", "from": "environment"}
    assert told["settings"]["RESILIENT_ZONES"] == zones
    assert "s3cret" not in done.stdout
    shown = CliRunner().invoke(app, ["settings"]).stdout
    assert "RESILIENT_DATABASE_URL=(hidden)  (environment)" in shown
    assert "s3cret" not in shown
    assert "RESILIENT_DEADLINE_S" not in shown
    assert (
        "RESILIENT_DEADLINE_S=30.0  (default)"
        in CliRunner().invoke(app, ["settings", "--all"]).stdout
    )


def test_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_COLOUR", "red")
    done = CliRunner().invoke(app, ["settings"])
    assert done.exit_code == 1
    assert "RESILIENT_COLOUR: unknown" in done.stdout
    monkeypatch.setenv("RESILIENT_DEADLINE", "3")
    done = CliRunner().invoke(app, ["settings"])
    assert done.exit_code == 2
    assert "did you mean RESILIENT_DEADLINE_S?" in done.stderr
    # An application wouldn't start: all the more one wants to see what is set.
    assert "RESILIENT_ZONES=az1=10.0.0.0/8,az2=*.b  (environment)" in done.stdout
    assert "RESILIENT_DEADLINE: unknown; did you mean RESILIENT_DEADLINE_S?" in done.stdout
    told = json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout)
    assert told["ok"] is False
    assert told["unknown"] == {
        "RESILIENT_COLOUR": None,
        "RESILIENT_DEADLINE": "RESILIENT_DEADLINE_S",
    }
    assert told["settings"]["RESILIENT_STRICT"] == {"value": "on", "from": "default"}
    monkeypatch.setenv("RESILIENT_STRICT", "off")
    done = CliRunner().invoke(app, ["settings"])
    assert done.exit_code == 1
    assert "RESILIENT_STRICT=off  (environment)" in done.stdout


def test_values_that_no_one_means(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("resilient.settings._warned", set())
    monkeypatch.setenv("RESILIENT_PROBE_INTERVAL_S", "500")
    done = CliRunner().invoke(app, ["settings"])
    assert done.exit_code == 0
    text = "RESILIENT_PROBE_INTERVAL_S=500.0: a server that dies is noticed after 501 s"
    assert text in done.stdout
    assert caplog.text == done.stderr == ""
    told = json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout)
    assert list(told["odd"]) == ["RESILIENT_PROBE_INTERVAL_S"]


def test_the_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.stdout.startswith("resilient-connect ")


def test_help_fits_a_screen() -> None:
    command = [sys.executable, "-m", "resilient.cli", "--help"]
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = said.stdout.rstrip().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "verb", ["drill", "doctor", "budget", "watch", "report", "install-ledger", "settings"]
)
def test_help_flows_in_80_columns(verb: str) -> None:
    """No line ends before the next word wouldn't have fitted."""
    command = [sys.executable, "-m", "resilient.cli", verb, "--help"]
    environment = {**os.environ, "COLUMNS": "80"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    prose = said.stdout.partition("╭")[0].splitlines()
    assert max(map(len, prose)) <= 80
    for line, following in pairwise(each.strip() for each in prose):
        if line and following:
            assert len(f"{line} {following.split()[0]}") > 78, line
