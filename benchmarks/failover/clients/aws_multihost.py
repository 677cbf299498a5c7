"""The AWS Advanced Python Wrapper, unmodified: its first failover plugin with a list of hosts."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from aws_advanced_python_wrapper import AwsWrapperConnection, release_resources
from aws_advanced_python_wrapper.errors import FailoverError

from ..target import Target
from ..work import Ask

T = TypeVar("T")


class Client:
    """A connection per thread: the wrapper is one connection, and can't live in psycopg's pool.

    A connection that failed over goes on; one that failed otherwise is dropped for a new one.
    """

    asynchronous = False
    log = ("aws_advanced_python_wrapper", logging.WARNING)

    def __init__(self, target: Target) -> None:
        self._target = target
        self._mine = threading.local()

    def options(self) -> dict[str, Any]:
        """What a connection is made with."""
        given: dict[str, Any] = {
            "wrapper_dialect": "pg",
            "plugins": "failover",
            "host": ",".join(self._target.hosts),
        }
        if not self._target.is_name:
            given["target_session_attrs"] = "read-write"
        return given

    def open(self) -> None:
        self.connect().close()

    def close(self) -> None:
        release_resources()

    def block(self, steps: Callable[[Ask], T]) -> T:
        conn = getattr(self._mine, "conn", None) or self.connect()
        self._mine.conn = conn
        try:
            with contextlib.closing(conn.cursor()) as cursor:
                result = steps(
                    lambda statement, values: cursor.execute(statement, values).fetchone() or ()
                )
            conn.commit()
        except FailoverError:
            with contextlib.suppress(Exception):
                conn.rollback()
            raise
        except Exception:
            self._mine.conn = None
            with contextlib.suppress(Exception):
                conn.close()
            raise
        return result

    def connect(self) -> Any:
        """A new connection."""
        port = str(self._target.port)
        return AwsWrapperConnection.connect(
            psycopg.Connection.connect, user="app", dbname="app", port=port, **self.options()
        )
