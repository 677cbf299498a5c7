"""The errors: what catches them, what they carry."""

from __future__ import annotations

import copy
import pickle
import socket
import subprocess
import sys

import pytest

from resilient import errors
from resilient.errors import (
    CommitOutcomeUnknown,
    ConfigError,
    NameNotFound,
    NameServersFailed,
    NameTimeout,
    NoEndpointAvailable,
    ResilientError,
    ResolutionError,
)

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("error", ALL)
def test_one_base_catches_all(error: type[Exception]) -> None:
    assert issubclass(error, ResilientError)
    assert error.__doc__


def test_a_config_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (NameNotFound, socket.EAI_NONAME),
        (NameTimeout, socket.EAI_AGAIN),
        (NameServersFailed, socket.EAI_AGAIN),
    ],
)
def test_resolution_errors_are_gaierrors(error: type[ResolutionError], number: int) -> None:
    with pytest.raises(socket.gaierror) as caught:
        raise error("db.test: no answer", name="db.test")
    assert caught.value.errno == number
    assert str(caught.value) == "db.test: no answer"
    assert isinstance(caught.value, OSError)
    assert error("x", name="db.test").name == "db.test"


def test_no_endpoint_available_tells_each_reason() -> None:
    error = NoEndpointAvailable("nobody", reasons={"a": "dead", "b": "a replica"})
    assert str(error) == "nobody (a: dead; b: a replica)"
    assert error.reasons == {"a": "dead", "b": "a replica"}


def test_reasons_and_details_are_not_shared() -> None:
    given = {"a": "dead"}
    error = NoEndpointAvailable(reasons=given)
    given["b"] = "new"
    assert error.reasons == {"a": "dead"}
    assert CommitOutcomeUnknown().details is not CommitOutcomeUnknown().details


@pytest.mark.parametrize("error", ALL)
def test_an_error_survives_pickling_and_copying(error: type[Exception]) -> None:
    before = error("why")
    for after in (pickle.loads(pickle.dumps(before)), copy.copy(before)):
        assert type(after) is error
        assert str(after) == "why"


def test_errors_import_no_driver() -> None:
    code = (
        "import sys, resilient.errors; "
        "bad = {'psycopg', 'psycopg_pool', 'httpx', 'httpx2', 'dns', 'opentelemetry', 'asyncio'}; "
        "assert not bad & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
