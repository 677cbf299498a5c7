"""The README: every Python snippet runs, the table of settings is the one of `Settings`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient import Settings, settings_table
from resilient.lab import Lab, LabError, LabOptions
from resilient.lab.binaries import find_binaries

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = ("make drill", "make test")


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    try:
        find_binaries()
    except LabError as error:
        pytest.skip(str(error))
    with Lab(LabOptions()) as running:
        yield running


@pytest.mark.lab
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_runs(own_lab: Lab, snippet: str) -> None:
    code = snippet.replace("http://api.example", own_lab.upstream_url)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RESILIENT_DATABASE")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment | own_lab.env(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 6


def test_the_table_of_settings_is_current() -> None:
    assert settings_table.main(["--check", str(README)]) == 0


def test_an_old_table_is_found_and_made_anew(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(f"before\n{settings_table.BEGIN}\nold\n{settings_table.END}\nafter\n")
    assert settings_table.main(["--check", str(copy)]) == 1
    assert settings_table.main([str(copy)]) == 0
    text = copy.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "RESILIENT_DATABASE_URL" in text
    assert settings_table.main(["--check", str(copy)]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_the_two_commands_are_named(command: str) -> None:
    assert command in README.read_text()


def test_the_files_that_the_readme_names_exist() -> None:
    text = README.read_text()
    package = README.parent / "resilient"
    for name in re.findall(
        r"`((?:core|doctor|drill|health|monitor|postgres|http|telemetry)/\w+\.py)`", text
    ):
        assert (package / name).exists(), name


def test_the_generated_parts_are_marked() -> None:
    text = README.read_text()
    for part in ("drill", "peer-tests", "benchmarks", "settings"):
        assert text.count(f"<!-- {part}:begin -->") == 1
        assert text.index(f"<!-- {part}:begin -->") < text.index(f"<!-- {part}:end -->")


def test_settings_without_effect_are_named() -> None:
    root = README.parent / "resilient"
    homes = {"settings.py", "_given.py", "settings_table.py"}
    code = "".join(file.read_text() for file in root.rglob("*.py") if file.name not in homes)
    unread = {name.upper() for name in Settings.fields if not re.search(rf"\b{name}\b", code)}
    sentence = README.read_text().partition("without effect yet:")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == unread
