"""Inside `resilient.postgres`: who reaches into whom, and who imports whom.  Read from the source.

A private attribute is its object's own: whoever else needs what it says is given it, or asks a
method.  psycopg's private names are declared in `_psycopg.py` and are another matter.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import resilient

ROOM = Path(resilient.__file__).parent / "postgres"
FILES = sorted(ROOM.rglob("*.py"))
#: so many accesses to private attributes of another object there may be, and so many imports
#: may follow one another
MOST_PRIVATE, MOST_DEEP = 29, 7
#: public all the same: of a named tuple
PUBLIC = {"_replace", "_asdict", "_fields"}

Module = tuple[str, ...]


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


# -- private attributes


def declared() -> set[str]:
    """The private names of psycopg and psycopg_pool, as `_psycopg.py` lists them."""
    return {
        value.value
        for node in tree(ROOM / "_psycopg.py").body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        for value in node.value.elts
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    }


def owned(value: ast.expr) -> bool:
    """Is it the object itself, or its class?"""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id == "super"
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def reached_into(file: Path) -> Iterator[str]:
    """Accesses to private attributes of another object of ours."""
    theirs = declared()
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
            continue
        name = node.attr
        if not (name.startswith("__") or name in theirs or name in PUBLIC or owned(node.value)):
            yield f"{file.relative_to(ROOM)}, line {node.lineno}: {ast.unparse(node)}"


def test_few_reach_into_others() -> None:
    found = [line for file in FILES if file.name != "_psycopg.py" for line in reached_into(file)]
    assert len(found) <= MOST_PRIVATE, "\n".join(found)


# -- error codes


def test_error_codes_stand_in_one_table() -> None:
    """`core.sqlstates` names them."""
    code = re.compile(r"(?=.*[0-9])[0-9A-Z]{5}")
    found = [
        f"{file.relative_to(ROOM)}, line {node.lineno}: {node.value!r}"
        for file in FILES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
        if code.fullmatch(
            node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        )
    ]
    assert found == []


# -- imports


def module_of(file: Path) -> Module:
    parts = file.relative_to(ROOM).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_of(file): file for file in FILES}


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST, types: bool) -> Iterator[ast.ImportFrom]:
    """Wherever they stand, in functions too; with `types` also those for the type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            yield child
        elif types or not for_types(child):
            yield from imports(child, types)


@cache
def imported(module: Module, types: bool) -> frozenset[Module]:
    """The modules of this package that one imports."""
    file = MODULES[module]
    package = file.relative_to(ROOM).parts[:-1]
    found = set()
    for node in imports(tree(file), types):
        up = node.level - 1
        if node.level and up <= len(package):
            base = (*package[: len(package) - up], *(node.module or "").split("."))
            base = tuple(part for part in base if part)
            for alias in node.names:
                found |= {(*base, alias.name), base} & set(MODULES)
    return frozenset(each for each in found if each != module and MODULES[each].stem != "__init__")


@cache
def chain(module: Module) -> tuple[Module, ...]:
    """The longest one of imports at run time."""
    longest = max((chain(each) for each in imported(module, types=False)), key=len, default=())
    return (module, *longest)


def test_no_chain_of_imports_is_long() -> None:
    longest = max(map(chain, MODULES), key=len)
    names = [".".join(module) or "postgres" for module in longest]
    assert len(names) - 1 <= MOST_DEEP, " → ".join(names)


def reached(module: Module) -> set[Module]:
    found: set[Module] = set()
    todo = [module]
    while todo:
        for each in imported(todo.pop(), types=True) - found:
            found.add(each)
            todo.append(each)
    return found


def test_no_imports_go_in_a_circle() -> None:
    """Not even those that only name types."""
    assert [".".join(module) for module in MODULES if module in reached(module)] == []
