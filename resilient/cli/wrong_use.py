"""Wrong use: one line on standard error that names what is accepted, and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from ..errors import ConfigError

__all__ = ["MALFORMED", "refused", "wrong_use"]

MALFORMED = (
    "--dsn is malformed; accepted: a libpq connection string such as 'host=a,b dbname=shop', or"
    " postgresql://user@host:port/dbname"
)


def wrong_use(verb: str, text: str) -> NoReturn:
    """Say it, and end."""
    print(f"resilient {verb}: {text}", file=sys.stderr)
    raise typer.Exit(2)


@contextmanager
def refused(verb: str) -> Iterator[None]:
    """What can't be used inside (`ConfigError`, a connection string that psycopg can't parse)
    is wrong use."""
    import psycopg

    try:
        yield
    except ConfigError as error:
        wrong_use(verb, str(error))
    except psycopg.ProgrammingError:
        wrong_use(verb, MALFORMED)
