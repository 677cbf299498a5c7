"""Errors travel: between processes (pickle), and through whatever copies them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import httpx
import httpx2
import psycopg
import pytest

from resilient import errors as core
from resilient.core.model import Endpoint, EndpointView, Health, Role, Topology
from resilient.http import _httpx_errors, errors
from resilient.postgres import ConnectionPool
from resilient.postgres import errors as postgres

WAYS: list[Callable[[Any], Any]] = [
    lambda exc: pickle.loads(pickle.dumps(exc)),
    copy.copy,
    copy.deepcopy,
]
KINDS = [
    getattr(module, name)
    for module in (core, postgres, errors, _httpx_errors)
    for name in module.__all__
]
VIEW = EndpointView(Endpoint("a.test", "127.0.0.1", 5432), None, Role.UNKNOWN, Health.DEAD)


def made(kind: type[Any]) -> Any:
    """One with all that it can carry."""
    told: dict[str, Any] = {}
    if issubclass(kind, core.NoEndpointAvailable):
        told = {"topology": Topology(endpoints=(VIEW,)), "reasons": {"a.test": "dead"}}
    elif issubclass(kind, core.CommitOutcomeUnknown):
        told = {"details": {"xid": 7, "resolver": "nobody could be asked"}}
    elif issubclass(kind, core.ResolutionError):
        told = {"name": "a.test"}
    exc = kind("it failed", **told)
    for library in (httpx2, httpx):
        if isinstance(exc, library.RequestError):
            exc.request = library.Request("GET", "http://a.test/")
    exc.add_note("while it was tried")
    return exc


@pytest.mark.parametrize("way", WAYS, ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_an_error_is_the_same_afterwards(kind: type[Any], way: Callable[[Any], Any]) -> None:
    exc = made(kind)
    again = way(exc)
    assert type(again) is kind
    assert (str(again), again.args) == (str(exc), exc.args)
    for name in {*exc.__dict__, "sqlstate", "errno"} - {"_request"}:
        assert getattr(again, name, None) == getattr(exc, name, None), name
    if "_request" in exc.__dict__:
        assert again.request.url == exc.request.url


def finds_nobody() -> None:
    with ConnectionPool("host=127.0.0.1 port=1 user=app", min_size=0, max_size=1) as pool:
        pool.getconn(0.05)


def test_an_error_comes_out_of_another_process() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as others:
        failure = others.submit(finds_nobody).exception(30)
    assert isinstance(failure, postgres.NoEndpointAvailable)
    assert isinstance(failure, psycopg.OperationalError)
    assert "127.0.0.1:1" in failure.reasons
