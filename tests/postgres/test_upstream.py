"""The private names of psycopg_pool that `_upstream` lists are there, in the shape used."""

from __future__ import annotations

import inspect
import threading
from collections import Counter, deque
from importlib.metadata import version
from typing import Any

import psycopg_pool
import pytest
from psycopg_pool import null_pool, null_pool_async, pool, pool_async

from resilient.postgres import _upstream

CLASSES = [
    psycopg_pool.ConnectionPool,
    psycopg_pool.NullConnectionPool,
    psycopg_pool.AsyncConnectionPool,
    psycopg_pool.AsyncNullConnectionPool,
]
SYNC = CLASSES[:2]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("psycopg-pool").split(".")[:2] == ["3", "3"]


@pytest.mark.parametrize("name", _upstream.POOL_METHODS)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_method_is_there(cls: type[Any], name: str) -> None:
    assert callable(getattr(cls, name))


SHAPES = {
    "_add_to_pool": ["conn"],
    "_check_connection": ["conn"],
    "_check_open_getconn": [],
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


@pytest.mark.parametrize("name", _upstream.POOL_METHODS)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_method_takes_what_it_is_given(cls: type[Any], name: str) -> None:
    if name in SHAPES:
        assert parameters(getattr(cls, name)) == SHAPES[name]


def test_every_listed_method_has_its_shape_here() -> None:
    assert set(_upstream.POOL_METHODS) == set(SHAPES)


def shape_of(instance: Any) -> None:
    for name in _upstream.POOL_ATTRIBUTES:
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
        for name in _upstream.OPEN_ATTRIBUTES:
            assert hasattr(instance, name), name
        assert parameters(instance._sched.enter) == ["delay", "action"]
        assert parameters(instance.worker) == ["q"]
        done = threading.Event()
        extra = _upstream.spawn(instance.worker, args=(instance._tasks,), name="one more")
        instance._workers.append(extra)
        instance._sched.enter(0.0, done.set)
        assert done.wait(5)
    assert not extra.is_alive()  # it was told to stop with the others
    assert parameters(_upstream.aspawn) == parameters(_upstream.spawn)


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
    for name in _upstream.__all__:
        assert hasattr(_upstream, name), name
