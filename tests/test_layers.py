"""Who may import whom: read from the source, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient

PACKAGE = Path(resilient.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: what `core` must not import: effects, clocks, chance, drivers, telemetry
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "random", "secrets", "select", "selectors"),
    *("signal", "socket", "ssl", "subprocess", "threading", "time", "datetime", "os", "logging"),
    *("anyio", "dns", "httpcore", "httpcore2", "httpx", "httpx2", "opentelemetry", "psycopg"),
    *("psycopg_pool", "tenacity"),
}
#: part → the parts of this package that it may import, itself excepted
MAY_IMPORT: dict[str, set[str]] = {"errors": set(), "_dataclass": set()}
MAY_IMPORT["_parse"] = {"_dataclass"}
MAY_IMPORT["core"] = {"errors", "_dataclass"}
MAY_IMPORT["_logs"] = {"_parse"}
MAY_IMPORT["_fields"] = {"_dataclass"}
MAY_IMPORT["_given"] = {"_parse"}
MAY_IMPORT["_odd"] = {"_dataclass", "settings"}  # the type only
MAY_IMPORT["settings"] = {"_fields", "_given", "_parse", "_logs", "_odd", "errors", "core"}
MAY_IMPORT["state_diagrams"] = {"core"}
MAY_IMPORT["settings_table"] = {"settings", "_fields", "_parse"}
_BELOW = {"_dataclass", "_fields", "_parse", "_logs", "errors", "core", "settings"}
MAY_IMPORT["telemetry"] = _BELOW
MAY_IMPORT["recorder"] = {"telemetry"}
MAY_IMPORT["dns"] = _BELOW | {"telemetry"}
MAY_IMPORT["monitor"] = _BELOW | {"dns", "telemetry"}
_DROP_INS = _BELOW | {"dns", "telemetry", "monitor"}
MAY_IMPORT["postgres"] = _DROP_INS
MAY_IMPORT["http"] = _DROP_INS
_TOP = _DROP_INS | {"postgres", "http"}
MAY_IMPORT["health"] = _TOP
MAY_IMPORT["sqlalchemy"] = _TOP
MAY_IMPORT["django"] = _TOP | {"health"}
MAY_IMPORT["fastapi"] = _TOP | {"health"}
MAY_IMPORT["procrastinate"] = _TOP
MAY_IMPORT["lab"] = _TOP
MAY_IMPORT["testing"] = _TOP | {"lab"}
MAY_IMPORT["drill"] = _TOP | {"lab", "health"}
MAY_IMPORT["doctor"] = _TOP
MAY_IMPORT["cli"] = _TOP | {"_odd", "lab", "health", "doctor", "drill"}
MAY_IMPORT[""] = {"errors", "recorder", "settings"}  # the package itself: lazily, by name


def part_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    name = first.removesuffix(".py")
    return "" if name == "__init__" else name


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import, wherever it stands."""
    package = ("resilient", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            if module == "resilient":
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    part = part_of(file)
    assert part in MAY_IMPORT, f"{part}: a new part; say in this test what it may import"
    allowed = MAY_IMPORT[part] | {part}
    for line, module in imports(file):
        first, _, rest = module.partition(".")
        if first == "resilient" and rest and not rest.startswith("__"):
            used = rest.partition(".")[0]
            known = "" if used == "Settings" else used
            assert used in allowed or (known == "" and "settings" in allowed), (
                f"line {line}: {used}"
            )


@pytest.mark.parametrize(
    "file", [file for file in FILES if part_of(file) == "core"], ids=lambda file: file.name
)
def test_the_core_is_pure(file: Path) -> None:
    for line, module in imports(file):
        assert module.partition(".")[0] not in IMPURE, f"line {line}: {module}"


def test_errors_import_only_what_their_bases_need() -> None:
    used = {module for _, module in imports(PACKAGE / "errors.py")}
    assert used == {"__future__", "socket"}
