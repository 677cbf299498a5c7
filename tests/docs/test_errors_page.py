"""`docs/errors.md` has every error and every line of the log, and says what to do."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache

import pytest

import resilient.errors
from resilient.core.upstream_events import UpstreamEvent

from .pages import ROOT

TEXT = (ROOT / "docs" / "errors.md").read_text()
HOMES = ("resilient.errors", "resilient.postgres.errors", "resilient.http.errors")
#: raised and caught inside the library
PRIVATE = {"WrongRole"}
#: bases, which say nothing of their own
BASES = {"ResilientError", "ResolutionError"}


def errors() -> Iterator[tuple[str, type[Exception]]]:
    for home in HOMES:
        module = importlib.import_module(home)
        for name in module.__all__:
            if name not in PRIVATE:
                yield name, getattr(module, name)


def section(name: str) -> str:
    found = re.search(rf"^### {name}$(.*?)(?=^##)", TEXT, re.M | re.S)
    return found[1] if found else ""


@pytest.mark.parametrize("name", sorted({name for name, _ in errors()} - {"NoEndpointInTime"}))
def test_every_error_says_what_it_means_and_what_to_do(name: str) -> None:
    said = section(name)
    assert said, f"{name} isn't there"
    if name not in BASES:
        assert "**Means**" in said
        assert "**Do**" in said


def test_what_an_error_also_is_is_true() -> None:
    """Each class that is named beside *Is also* is a base of one of the drop-ins' errors."""
    for name in {name for name, _ in errors()}:
        found = re.search(r"\*\*Is also\*\*: (.*?)\n(?=- |$)", section(name), re.S)
        if found is None:
            continue
        bases = {
            base.__name__ for each, error in errors() if each == name for base in error.__mro__
        }
        for named in re.findall(r"`(?:\w+\.)*(\w+)`", found[1]):
            assert named in bases, f"{name}: {named}"


def test_the_sqlstate_of_a_mismatch_is_told() -> None:
    error = importlib.import_module("resilient.postgres").TransactionReplayMismatch
    assert error.sqlstate in section("TransactionReplayMismatch")


@cache
def lines() -> frozenset[tuple[str, str]]:
    """(`step` or `event`, its value), of every line that the code can write."""
    return frozenset(_lines())


def _lines() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "resilient").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                yield from _of_call(node)
    for kind in UpstreamEvent.__subclasses__():
        yield "event", f"endpoint.{kind.__name__.removeprefix('Endpoint').lower()}"


def _of_call(call: ast.Call) -> Iterator[tuple[str, str]]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if name in ("Line", "_say"):
        for given in call.keywords:
            if given.arg in ("step", "event") and isinstance(given.value, ast.Constant):
                yield given.arg, str(given.value.value)
    elif name == "warn_once" and call.args and isinstance(call.args[0], ast.Constant):
        yield "event", str(call.args[0].value)
    elif name in ("Step", "_step") and call.args and isinstance(call.args[0], ast.Constant):
        yield "step", str(call.args[0].value)


def test_lines_are_found() -> None:
    found = lines()
    assert {("step", "lost"), ("step", "over"), ("event", "connect.failed")} <= found
    assert ("event", "endpoint.ejected") in found
    assert len(found) > 40


def test_every_line_of_the_log_is_a_line() -> None:
    """What is logged is one `Line`: a text of another form would be no logfmt."""
    levels = {"debug", "info", "warning", "error", "critical", "exception", "log"}
    found = 0
    for file in sorted((ROOT / "resilient").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in levels or not re.search(
                "logger|_monitor", ast.unparse(node.func)
            ):
                continue
            said = [each for each in node.args if not ast.unparse(each).startswith("logging.")]
            form, (what,) = said[-2], said[-1:]
            assert ast.unparse(form) == "'%s'", f"{file.name}:{node.lineno}"
            said_of = re.escape(ast.unparse(what))
            made = re.search(rf"\b{said_of} = Line\(", file.read_text())
            assert made or said_of.startswith("Line"), f"{file.name}:{node.lineno}"
            found += 1
    assert found > 30


def test_every_line_of_the_log_is_there() -> None:
    for key, value in sorted(lines()):
        check_row(key, value)


def check_row(key: str, value: str) -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    named = [row for row in rows if f"`{value}`" in row.split("|")[1]]
    assert named, f"{key}={value} isn't in docs/errors.md"
    for row in named:
        assert all(cell.strip() for cell in row.strip("|").split("|")), row


def test_no_line_is_there_that_nobody_writes() -> None:
    written = {value for _, value in lines()}
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for row in rows:
        for name in re.findall(r"`([\w. -]+)`", row.split("|")[1]):
            known = written | {"ejected", "retired"}  # HTTP's steps have variables for names
            assert name in known or not re.fullmatch(r"[a-z]+(?:[. -][a-z]+)*", name), name


def test_every_public_error_has_a_place_there() -> None:
    assert set(resilient.errors.__all__) <= {name for name, _ in errors()}
