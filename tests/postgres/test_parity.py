"""Our pools accept whatever psycopg_pool's accept: signature by signature."""

from __future__ import annotations

import inspect
from typing import Any

import psycopg
import psycopg_pool
import pytest

from resilient import postgres

NAMES = ("ConnectionPool", "AsyncConnectionPool", "NullConnectionPool", "AsyncNullConnectionPool")
PAIRS = [(getattr(postgres, name), getattr(psycopg_pool, name)) for name in NAMES]
METHODS = sorted(
    {
        (name, method)
        for name in NAMES
        for method, value in inspect.getmembers(getattr(psycopg_pool, name), callable)
        if not method.startswith("_") or method == "__init__"
    }
)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=NAMES)
def test_each_is_a_subclass(ours: type[Any], theirs: type[Any]) -> None:
    assert issubclass(ours, theirs)
    assert ours.__name__ == theirs.__name__


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=NAMES)
def test_each_is_generic(ours: Any, theirs: Any) -> None:
    connection = psycopg.AsyncConnection if "Async" in ours.__name__ else psycopg.Connection
    assert ours[connection[dict[str, Any]]].__origin__ is ours


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[f"{n}.{m}" for n, m in METHODS])
def test_each_signature_is_a_superset(name: str, method: str) -> None:
    ours = inspect.signature(getattr(getattr(postgres, name), method))
    theirs = inspect.signature(getattr(getattr(psycopg_pool, name), method))
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for parameter in theirs.parameters.values():
        mine = ours.parameters.get(parameter.name)
        assert mine is not None, parameter.name
        assert mine.kind == parameter.kind, parameter.name
        if method != "__init__" or parameter.name != "connection_class":
            assert mine.default == parameter.default, parameter.name
    order = [p.name for p in theirs.parameters.values() if p.kind in positional]
    assert [p.name for p in ours.parameters.values() if p.kind in positional] == order
    for extra in ours.parameters.keys() - theirs.parameters.keys():
        added = ours.parameters[extra]
        assert added.kind is inspect.Parameter.KEYWORD_ONLY, extra
        assert added.default is not inspect.Parameter.empty, extra


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[f"{n}.{m}" for n, m in METHODS])
def test_async_stays_async(name: str, method: str) -> None:
    ours, theirs = (getattr(getattr(m, name), method) for m in (postgres, psycopg_pool))
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)


@pytest.mark.parametrize(("one", "other"), [NAMES[:2], NAMES[2:]])
def test_sync_and_async_twins_offer_the_same(one: str, other: str) -> None:
    for name, value in inspect.getmembers(getattr(postgres, one), inspect.isfunction):
        if name.startswith("_"):
            continue
        twin = getattr(getattr(postgres, other), name)
        mine = [(p.name, p.kind, p.default) for p in inspect.signature(value).parameters.values()]
        its = [(p.name, p.kind, p.default) for p in inspect.signature(twin).parameters.values()]
        assert mine == its, name


@pytest.mark.parametrize("name", NAMES)
def test_what_is_added_is_there(name: str) -> None:
    pool = getattr(postgres, name)
    for added in ("run", "reader", "topology"):
        assert hasattr(pool, added), added
    for method in ("connection", "getconn"):
        assert "read_only" in inspect.signature(getattr(pool, method)).parameters
    assert "settings" in inspect.signature(pool).parameters
