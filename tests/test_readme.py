"""README and docs: what they promise is there, and what is generated in them is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resilient import Settings, settings_table
from tests.docs.pages import PAGES, README, ROOT, snippets
from tools.readme import abroad, urls

COMMANDS = ("make drill", "make test")
SETTINGS = ROOT / "docs" / "settings.md"
#: what is made or measured by a program, and the page that has it
GENERATED = {
    "drill": "benchmarks.md",
    "peer-tests": "benchmarks.md",
    "benchmarks": "benchmarks.md",
    "settings": "settings.md",
}


def test_there_are_snippets() -> None:
    assert sum(each.page == "README.md" for each in snippets()) >= 2
    assert sum(each.page == "quick-start.md" for each in snippets()) >= 6


def test_the_table_of_settings_is_current() -> None:
    assert settings_table.main(["--check", str(SETTINGS)]) == 0


def test_an_old_table_is_found_and_made_anew(tmp_path: Path) -> None:
    copy = tmp_path / "settings.md"
    copy.write_text(f"before\n{settings_table.BEGIN}\nold\n{settings_table.END}\nafter\n")
    assert settings_table.main(["--check", str(copy)]) == 1
    assert settings_table.main([str(copy)]) == 0
    text = copy.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "RESILIENT_DATABASE_URL" in text
    assert settings_table.main(["--check", str(copy)]) == 0


@pytest.mark.parametrize("home", ["", "https://code.example/team/resilient"])
def test_no_link_leads_nowhere_on_the_package_index(home: str) -> None:
    """Which has none of the repository's pages."""
    shown = abroad(README.read_text(), home)
    found = re.findall(r"\[[^\]]*\]\(([^)]+)\)", shown)
    assert all(where.startswith("https://") for where in found)
    assert "Compatibility" in shown
    assert (f"({home}/blob/main/docs/sizing.md)" in shown) is bool(home)
    assert (f"]({home}/raw/main/docs/failover.svg)" in shown) is bool(home)
    assert sorted(urls(home)) == (["Changelog", "Documentation", "Source"] if home else [])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_two_commands_are_named(command: str) -> None:
    assert command in README.read_text()
    assert command in (ROOT / "docs" / "index.md").read_text()


def test_every_page_can_be_reached_from_the_readme() -> None:
    text = README.read_text()
    for page in re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M):
        assert f"(docs/{page}" in text, page


@pytest.mark.parametrize("part", GENERATED)
def test_the_generated_parts_are_marked(part: str) -> None:
    text = (ROOT / "docs" / GENERATED[part]).read_text()
    assert text.count(f"<!-- {part}:begin -->") == 1
    assert text.index(f"<!-- {part}:begin -->") < text.index(f"<!-- {part}:end -->")


def test_settings_without_effect_are_named() -> None:
    root = ROOT / "resilient"
    homes = {"settings.py", "_given.py", "settings_table.py"}
    code = "".join(file.read_text() for file in root.rglob("*.py") if file.name not in homes)
    unread = {name.upper() for name in Settings.fields if not re.search(rf"\b{name}\b", code)}
    sentence = SETTINGS.read_text().partition("without effect yet:")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == unread


def test_variables_that_are_named_exist() -> None:
    known = {f"RESILIENT_{name.upper()}" for name in Settings.fields}
    known |= {"RESILIENT_TEST_SEED", "RESILIENT_TEST_FAILOVERS"}
    for page in PAGES:
        named = set(re.findall(r"RESILIENT_[A-Z_]*[A-Z]", page.read_text()))
        assert named <= known, f"{page.name}: {named - known}"
