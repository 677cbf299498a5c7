"""Puts together what stands beside a connection."""

from __future__ import annotations

from typing import Any

from .._psycopg import BaseConnection
from ..commit.committer import Committer
from ..commit.resolver import Resolver
from ..replay.judge import Judge
from ..replay.recorder import Recorder
from ..replay.replayer import Replayer
from .host import PsycopgHost
from .keeper import Keeper
from .wire import Wire


def beside(conn: BaseConnection[Any], *, hooked: bool = True) -> Keeper:
    """`hooked`: it is of a class that the library has derived."""
    host = PsycopgHost(conn)
    judge = Judge(host, Wire(conn.pgconn))
    return Keeper(host, Committer(Resolver(Replayer(judge))), Recorder, hooked=hooked)
