"""Public names are documented, and nothing else shows: not in completion, not in `dir()`."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import httpx2
import psycopg
import psycopg_pool
import pytest

from resilient import http, postgres
from resilient.http import httpx as on_httpx

from .pages import ROOT

#: modules whose `__all__` is public
MODULES = (
    "resilient",
    "resilient.dns",
    "resilient.errors",
    "resilient.health",
    "resilient.http",
    "resilient.http.httpx",
    "resilient.postgres",
    "resilient.recorder",
    "resilient.telemetry.sampler",
)
#: those that need a framework
APPS = {
    "resilient.django": "django",
    "resilient.fastapi": "fastapi",
    "resilient.procrastinate": "procrastinate",
    "resilient.sqlalchemy": "sqlalchemy",
}
#: a framework calls these and says what their arguments are
HOOKS = {"Dialect", "AsyncDialect", "Router"}
#: what a pool has beside psycopg_pool's; what there is more stands in docs/api.md
OF_A_POOL = {"causal_token", "failovers", "listen", "lock", "reader", "run", "topology"}
POOLS = ("ConnectionPool", "AsyncConnectionPool", "NullConnectionPool", "AsyncNullConnectionPool")


def public() -> Iterator[tuple[str, Any]]:
    """Classes and functions, by their full names.  Aliases of types have no docstring."""
    for name in (*MODULES, *(name for name, needs in APPS.items() if _there(needs))):
        module = importlib.import_module(name)
        for each in module.__all__:
            found = getattr(module, each)
            if inspect.isclass(found) or inspect.isfunction(found):
                yield f"{name}.{each}", found


def _there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def members(kind: type[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public methods and properties that this library wrote, with the class that did."""
    for name in dir(kind):
        if name.startswith("_"):
            continue
        owner = next(base for base in kind.__mro__ if name in vars(base))
        if not owner.__module__.startswith("resilient"):
            continue
        found = inspect.getattr_static(kind, name)
        function = getattr(found, "fget", None) or getattr(found, "__func__", found)
        function = getattr(function, "func", function)  # of a cached property
        if inspect.isfunction(function):
            yield name, function


def documented(kind: type[Any] | None, name: str, function: Any) -> str:
    """Its docstring, or the one of what it stands in for."""
    if kind is None:
        return inspect.getdoc(function) or ""
    texts = (inspect.getdoc(vars(base)[name]) for base in kind.__mro__ if name in vars(base))
    return next((text for text in texts if text), "")


def callables() -> Iterator[tuple[str, type[Any] | None, str, Any]]:
    for full, found in public():
        if inspect.isfunction(found):
            yield full, None, found.__name__, found
        else:
            yield from ((f"{full}.{name}", found, name, each) for name, each in members(found))


def test_every_public_name_has_a_docstring() -> None:
    bare = [full for full, found in public() if not (found.__doc__ or "").strip()]
    bare += [
        full
        for full, kind, name, each in callables()
        if not (documented(kind, name, each) or _arguments_of_others(kind, name))
    ]
    assert bare == []


def test_arguments_of_ours_are_explained() -> None:
    """Those that the library's own signature doesn't have, by name; seconds are called so."""
    unsaid = []
    for full, kind, name, function in callables():
        if kind is not None and kind.__name__ in HOOKS:
            continue
        text = documented(kind, name, function) + (kind.__doc__ or "" if kind else "")
        known = {"self", "cls", "args", "kwargs", *_arguments_of_others(kind, name)}
        for argument in inspect.signature(function).parameters:
            if argument not in known and argument not in text:
                unsaid.append(f"{full}({argument})")
            if argument == "timeout" and argument not in known and "second" not in text.lower():
                unsaid.append(f"{full}({argument}): in which unit?")
    assert unsaid == []


def _arguments_of_others(kind: type[Any] | None, name: str) -> set[str]:
    bases = kind.__mro__ if kind else ()
    others = [vars(base)[name] for base in bases
              if name in vars(base) and not base.__module__.startswith("resilient")]  # fmt: skip
    return {each for other in others if callable(other) for each in _parameters(other)}


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        return []


def test_errors_that_are_raised_are_named() -> None:
    unsaid = []
    for full, kind, name, function in callables():
        text = documented(kind, name, function) + (kind.__doc__ or "" if kind else "")
        unsaid += [f"{full}: {error}" for error in _raised(function) if error not in text]
    assert unsaid == []


def _raised(function: Any) -> set[str]:
    """Names of errors that a function raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    names = {
        getattr(call.func, "attr", getattr(call.func, "id", ""))
        for call in calls
        if isinstance(call, ast.Call)
    }
    return {name for name in names if name[:1].isupper()} - {"AssertionError"}


# -- completion


def shown(one: object) -> set[str]:
    return {name for name in dir(one) if not name.startswith("_")}


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_shows_no_internal_name(name: str) -> None:
    async def look() -> tuple[set[str], set[str], set[str]]:
        ours = getattr(postgres, name)("host=127.0.0.1 port=1", open=False, max_size=4)
        theirs = getattr(psycopg_pool, name)("host=127.0.0.1 port=1", open=False, max_size=4)
        return shown(ours), shown(theirs), shown(ours.reader)

    ours, theirs, reader = asyncio.run(look())
    api = (ROOT / "docs" / "api.md").read_text()
    assert ours - theirs >= OF_A_POOL
    for more in ours - theirs:  # documented, so meant
        assert re.search(rf"inherited_members: \[.*\b{more}\b.*\]", api), more
    assert theirs <= ours
    assert reader - theirs <= ours - theirs


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
@pytest.mark.parametrize(("ours", "theirs"), [(http, httpx2), (on_httpx, httpx)], ids=["2", "1"])
def test_a_client_shows_no_internal_name(ours: Any, theirs: Any, name: str) -> None:
    async def look() -> set[str]:
        mine, plain = getattr(ours, name)(), getattr(theirs, name)()
        found = shown(mine) - shown(plain)
        for client in (mine, plain):
            if name == "Client":
                client.close()
            else:
                await client.aclose()
        return found

    assert asyncio.run(look()) == set()


def test_a_connection_class_shows_no_internal_name() -> None:
    for name, plain in (
        ("ConnectionPool", psycopg.Connection),
        ("AsyncConnectionPool", psycopg.AsyncConnection),
    ):
        made = getattr(postgres, name)("host=127.0.0.1 port=1", open=False).connection_class
        assert shown(made) - shown(plain) == set()
