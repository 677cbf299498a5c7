"""`docs/commands.md`: the commands, options and JSON keys that it names are there."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator

import pytest

from .pages import FENCE, PAGES, ROOT

typer_main = pytest.importorskip("typer.main")

TEXT = (ROOT / "docs" / "commands.md").read_text()
ROW = re.compile(r"^\| `(?P<verb>[\w-]+)`(?:, [\w ]+)? \| (?P<keys>.*) \|$", re.M)
#: functions whose literal keys are what a command prints
SOURCES = {
    "drill": [("drill/verdict.py", "as_json")],
    "watch": [
        ("cli/watch.py", "as_dict"),
        ("cli/watch.py", "line"),
        ("cli/watch.py", "topology"),
        ("telemetry/failover_log.py", "_say"),
    ],
    "doctor": [("cli/doctor.py", None), ("doctor/rules.py", None), ("doctor/facts.py", None)],
    "settings": [("cli/settings.py", None)],
    "budget": [("cli/budget.py", None), ("core/rto.py", None)],
    "install-ledger": [("cli/install_ledger.py", None)],
}


def verbs() -> dict[str, set[str]]:
    """Command → its options."""
    from resilient.cli.app import app

    group = typer_main.get_command(app)
    return {
        name: {option for each in command.params for option in each.opts}
        for name, command in group.commands.items()
    }


def lines() -> Iterator[list[str]]:
    """Calls of `resilient` in the code of all pages, as their words."""
    for page in PAGES:
        for fence in FENCE.finditer(page.read_text()):
            if fence["kind"] != "sh":
                continue
            for line in fence["code"].replace("\\\n", " ").splitlines():
                if line.strip().startswith("resilient "):
                    yield shlex.split(line, comments=True)


def test_commands_and_options_exist() -> None:
    known = verbs()
    found = list(lines())
    assert len(found) > 5
    for _, verb, *rest in found:
        assert verb in known, verb
        given = {
            word.strip("[]").partition("=")[0] for word in rest if word.strip("[]").startswith("--")
        }
        assert given <= known[verb] | {"--help"}, (verb, given - known[verb])


def test_every_command_is_there() -> None:
    for verb in verbs():
        assert f"`resilient {verb}`" in TEXT, verb


@pytest.mark.parametrize("verb", sorted(SOURCES))
def test_json_keys_are_those_of_the_code(verb: str) -> None:
    documented = {
        key
        for row in ROW.finditer(TEXT)
        if row["verb"] == verb
        for key in re.findall(r"`([a-z_]+)`", row["keys"])
    }
    assert documented
    printed = set().union(*(strings(file, name) for file, name in SOURCES[verb]))
    assert documented <= printed, documented - printed
    if verb == "drill":
        inner = {"run", "plain", "read", "http"}
        pages = "".join(page.read_text() for page in PAGES)
        for key in keys_of("drill/verdict.py", "as_json") - documented - inner:
            assert f"`{key}`" in pages, key


def strings(file: str, function: str | None) -> set[str]:
    """Names and strings in a file, or in one of its functions."""
    tree = ast.parse((ROOT / "resilient" / file).read_text())
    nodes: list[ast.AST] = [tree]
    if function is not None:
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
    found = {n.value for node in nodes for n in ast.walk(node) if isinstance(n, ast.Constant)}
    fields = {n.target.id for node in nodes for n in ast.walk(node)
              if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}  # fmt: skip
    named = {
        n.arg for node in nodes for n in ast.walk(node) if isinstance(n, ast.keyword) and n.arg
    }
    return {each for each in found if isinstance(each, str)} | fields | named


def keys_of(file: str, function: str) -> set[str]:
    tree = ast.parse((ROOT / "resilient" / file).read_text())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
    return {key.value for node in nodes for n in ast.walk(node) if isinstance(n, ast.Dict)
            for key in n.keys if isinstance(key, ast.Constant)}  # fmt: skip
