"""The private names of psycopg and psycopg_pool that `_psycopg` declares.

They are there, in the shape that is used; and no others are used.
"""

from __future__ import annotations

import ast
import inspect
import re
import threading
import tomllib
import types
from collections import Counter, deque
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg import pq
from psycopg_pool import null_pool, null_pool_async, pool, pool_async

import resilient
from resilient.postgres import _psycopg

PACKAGE = Path(resilient.__file__).parent
CLASSES = [
    psycopg_pool.ConnectionPool,
    psycopg_pool.NullConnectionPool,
    psycopg_pool.AsyncConnectionPool,
    psycopg_pool.AsyncNullConnectionPool,
]
SYNC = CLASSES[:2]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("name", ["psycopg", "psycopg-pool"])
def test_the_version_is_the_one_that_was_read(name: str) -> None:
    assert version(name).split(".")[:2] == ["3", "3"]
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    bound = next(text for text in project["dependencies"] if text.startswith(f"{name}>=3.3."))
    assert bound.endswith(",<3.4")


@pytest.mark.parametrize("name", _psycopg.POOL_METHODS)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_method_is_there(cls: type[Any], name: str) -> None:
    assert callable(getattr(cls, name))


SHAPES = {
    "_add_to_pool": ["conn"],
    "_check_connection": ["conn"],
    "_close_connection": ["conn"],
    "_connect": ["timeout"],
    "_get_ready_connection": ["timeout"],
    "_getconn_unchecked": ["timeout"],
    "_maybe_grow_pool": [],
    "_resolve_conninfo": [],
    "_resolve_kwargs": [],
    "_return_connection": ["conn", "from_getconn"],
    "_shrink_pool": [],
    "_start_workers": [],
    "run_task": ["task"],
    "schedule_task": ["task", "delay"],
}


@pytest.mark.parametrize("name", _psycopg.POOL_METHODS)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_method_takes_what_it_is_given(cls: type[Any], name: str) -> None:
    if name in SHAPES:
        assert parameters(getattr(cls, name)) == SHAPES[name]


def test_every_listed_method_has_its_shape_here() -> None:
    assert set(_psycopg.POOL_METHODS) == set(SHAPES)


def shape_of(instance: Any) -> None:
    for name in _psycopg.POOL_ATTRIBUTES:
        assert hasattr(instance, name), name
    assert instance._closed is True
    assert isinstance(instance._nconns, int)
    assert isinstance(instance._pool, deque)
    assert isinstance(instance._waiting, deque)
    assert isinstance(instance._stats, Counter)


@pytest.mark.parametrize("cls", SYNC, ids=lambda cls: cls.__name__)
def test_the_attributes_of_a_sync_pool(cls: type[Any]) -> None:
    instance = cls("", min_size=0, max_size=1, open=False)
    shape_of(instance)
    assert isinstance(instance._lock, type(threading.Lock()) | type(threading.RLock()))


@pytest.mark.parametrize("cls", CLASSES[2:], ids=lambda cls: cls.__name__)
async def test_the_attributes_of_an_async_pool(cls: type[Any]) -> None:
    instance = cls("", min_size=0, max_size=1, open=False)
    instance._ensure_lock()  # an async pool makes its lock on the loop that opens it
    shape_of(instance)


def test_the_attributes_of_an_open_pool() -> None:
    """Its scheduler wakes tasks up, its workers take them from a queue."""
    with psycopg_pool.ConnectionPool("", min_size=0, max_size=1, open=True) as instance:
        for name in _psycopg.OPEN_ATTRIBUTES:
            assert hasattr(instance, name), name
        assert parameters(instance._sched.enter) == ["delay", "action"]
        assert parameters(instance.worker) == ["q"]
        done = threading.Event()
        extra = _psycopg.spawn(instance.worker, args=(instance._tasks,), name="one more")
        instance._workers.append(extra)
        instance._sched.enter(0.0, done.set)
        assert done.wait(5)
    assert not extra.is_alive()  # it was told to stop with the others
    assert parameters(_psycopg.aspawn) == parameters(_psycopg.spawn)


@pytest.mark.parametrize("module", [pool, pool_async])
def test_the_task_and_waiter_classes(module: Any) -> None:
    assert parameters(module.AddConnection)[:1] == ["pool"]
    assert "attempt" in parameters(module.AddConnection)
    assert parameters(module.MaintenanceTask) == ["pool"]
    assert parameters(module.MaintenanceTask._run) == ["pool"]
    assert callable(module.WaitingClient.set)
    assert callable(module.WaitingClient.fail)
    assert parameters(module.WaitingClient.wait) == ["timeout"]


def test_the_null_pools_override_what_is_overridden_again() -> None:
    for cls in (null_pool.NullConnectionPool, null_pool_async.AsyncNullConnectionPool):
        assert "_get_ready_connection" in vars(cls)


def test_everything_exported_is_imported() -> None:
    for name in _psycopg.__all__:
        assert hasattr(_psycopg, name), name


# -- psycopg


@pytest.fixture
def conn() -> Iterator[psycopg.Connection[Any]]:
    """One that never was connected: its attributes are there all the same."""
    made = psycopg.Connection(pq.PGconn.connect_start(b"host=/nonexistent"))
    yield made
    made.close()


def lacks(instance: Any, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not hasattr(instance, name)]


def test_the_names_of_a_connection(conn: psycopg.Connection[Any]) -> None:
    for cls in (psycopg.Connection, psycopg.AsyncConnection):
        assert lacks(cls, _psycopg.CONNECTION_METHODS) == []
        assert issubclass(cls, _psycopg.BaseConnection)
    assert lacks(conn, _psycopg.CONNECTION_ATTRIBUTES) == []
    text = inspect.getsource(_psycopg.BaseConnection)
    assert [name for name in _psycopg.SET_BY_POOLS if f" self.{name}: " not in text] == []
    assert conn._closed is False
    assert conn._pipeline is None
    assert conn._read_only is None
    assert conn._begin_statement == b""


def test_the_names_of_the_prepared_statements(conn: psycopg.Connection[Any]) -> None:
    prepared: Any = conn._prepared
    assert lacks(prepared, _psycopg.PREPARED_ATTRIBUTES) == []
    assert isinstance(prepared._counts, dict)
    assert isinstance(prepared._names, dict)
    assert isinstance(prepared._to_flush, deque)
    assert isinstance(prepared._prepared_idx, int)
    assert {one.name for one in _psycopg.Prepare} == {"NO", "YES", "SHOULD"}


def test_the_names_of_a_cursor(conn: psycopg.Connection[Any]) -> None:
    names = (*_psycopg.CURSOR_METHODS, *_psycopg.CURSOR_ATTRIBUTES)
    conn._autocommit = True
    for cls in (psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor):
        cursor = cls(conn)
        list(cursor._start_query())  # makes what belongs to one query
        assert isinstance(cursor, _psycopg.BaseCursor)
        assert lacks(cursor, names) == []
        assert cursor._conn is conn
        assert cursor._pgconn is conn.pgconn
        assert cursor._results == []
    assert issubclass(psycopg.ServerCursor, _psycopg.ServerCursorMixin)
    assert issubclass(psycopg.AsyncServerCursor, _psycopg.ServerCursorMixin)
    assert psycopg.Cursor._query_cls is _psycopg.PostgresQuery
    assert psycopg.ClientCursor._query_cls is _psycopg.PostgresClientQuery


CURSOR_SHAPES = {
    "_check_results": ["results"],
    "_convert_query": ["query", "params"],
    "_execmany_returning": [],
    "_execute_gen": ["query", "params", "prepare", "binary"],
    "_executemany_gen_pipeline": ["query", "params_seq", "returning"],
    "_maybe_prepare_gen": ["pgq", "prepare", "binary"],
    "_reset": ["reset_query"],
    "_set_results": ["results"],
    "_start_copy_gen": ["statement", "params"],
    "_stream_send_gen": ["query", "params", "binary", "size"],
    "_start_query": ["query"],
}


def test_what_the_methods_of_a_cursor_take() -> None:
    assert set(CURSOR_SHAPES) == set(_psycopg.CURSOR_METHODS)
    for name, shape in CURSOR_SHAPES.items():
        method = inspect.getattr_static(_psycopg.BaseCursor, name)
        if isinstance(method, types.FunctionType):
            assert parameters(method) == shape, name


CONNECTION_SHAPES = {
    "_check_connection_ok": [],
    "_connect_gen": ["conninfo"],
    "_check_intrans_gen": ["attribute"],
    "_commit_gen": [],
    "_deallocate": ["name"],
    "_exec_command": ["command", "result_format"],
    "_get_tx_start_command": [],
    "_start_query": [],
}


def test_what_the_methods_of_a_connection_take() -> None:
    assert set(CONNECTION_SHAPES) == set(_psycopg.CONNECTION_METHODS)
    for name, shape in CONNECTION_SHAPES.items():
        taken = parameters(getattr(_psycopg.BaseConnection, name))
        assert taken == shape, name


def test_the_names_of_pipelines_and_transactions(conn: psycopg.Connection[Any]) -> None:
    both = (*_psycopg.PIPELINE_METHODS, *_psycopg.PIPELINE_ATTRIBUTES)
    assert lacks(psycopg.Pipeline(conn), both) == []
    assert lacks(psycopg.AsyncPipeline, _psycopg.PIPELINE_METHODS) == []
    assert issubclass(psycopg.AsyncPipeline, _psycopg.BasePipeline)
    both = (*_psycopg.TRANSACTION_METHODS, *_psycopg.TRANSACTION_ATTRIBUTES)
    assert lacks(psycopg.Transaction(conn), both) == []
    assert lacks(psycopg.AsyncTransaction, _psycopg.TRANSACTION_METHODS) == []


# -- and no others

#: private names of ours that one of theirs happens to have as well
OURS = {
    "_name",
    "_names",
    "_open",
    "_special",
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def declared() -> set[str]:
    listed = {
        name
        for table, names in vars(_psycopg).items()
        if table.isupper() and isinstance(names, tuple)
        for name in names
        if isinstance(name, str)
    }
    return {name for name in listed if private(name)}


def defined(package: types.ModuleType) -> set[str]:
    """Private methods and attributes of the classes of a package, by its source."""
    found = set()
    for file in Path(str(package.__file__)).parent.rglob("*.py"):
        classes = (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ClassDef))
        for node in (node for cls in classes for node in ast.walk(cls)):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    found.add(name)
                case ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(name)
    return {name for name in found if private(name)}


@cache
def used(file: Path) -> tuple[tuple[str, int], ...]:
    """Private attributes that a file reads or writes, methods that its classes define."""
    return tuple(_used(file))


def _used(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and private(node.attr):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and private(each.name):
                    yield each.name, each.lineno


FILES = sorted((PACKAGE / "postgres").rglob("*.py"))
THEIRS = defined(psycopg) | defined(psycopg_pool)


def test_there_is_something_to_compare() -> None:
    assert {"_maybe_prepare_gen", "_add_to_pool", "_expire_at"} <= THEIRS & declared()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_private_name_is_used_that_isnt_declared(file: Path) -> None:
    undeclared = THEIRS - declared() - OURS
    assert [f"line {line}: {name}" for name, line in used(file) if name in undeclared] == []


def test_every_declared_name_is_used() -> None:
    """A list that is longer than the truth binds us to more of psycopg than we need."""
    names = {name for file in FILES for name, _ in used(file)}
    assert declared() - names == set()


def test_private_modules_are_imported_in_one_file_only() -> None:
    private_module = re.compile(r"^\s*(?:from|import) psycopg\w*(?:\.\w+)*(?:\.| import )_", re.M)
    found = [file.name for file in PACKAGE.rglob("*.py") if private_module.search(file.read_text())]
    assert found == ["_psycopg.py"]
