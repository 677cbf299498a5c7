"""Why connections can't be made: said once, at once, with what to change; again when it changes.

psycopg_pool warns at every attempt, so of a wrong password forty times in half a minute, and of a
dead primary beside the log of its failover.  What one of our pools has said in its own words,
its line doesn't repeat; the attempts after the first are DEBUG lines of ours.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

from ..._logs import Line
from ...core.model import Endpoint
from ..classify import connect_failure, login_of, stays
from ..errors import WrongRole
from ..session.keeper import link_of

__all__ = ["Complaints", "advice", "brief"]

logger = logging.getLogger("resilient.postgres")

#: what a failure to connect says → what to look at; `{}`: where the connection string is from
_ADVICE = (
    ("no password supplied", "give the password in {}, PGPASSWORD or a passfile"),
    ("authentication failed", "correct the user or the password in {}"),
    ("pg_hba.conf", "the server's pg_hba.conf must admit this user, database, address and sslmode"),
    ("unexpected eof", "see what ends connections to {}: a proxy, or a server that goes down"),
    ("certificate", "see sslrootcert, sslmode and the host in {}, and RESILIENT_TLS_NAMES"),
    ("ssl", "see sslmode in {}, and whether the server offers TLS"),
    ('database "', "correct dbname in {}, or create the database"),
    ('role "', "correct the user in {}, or create the role"),
    ("connection refused", "see host and port in {}, and whether the server runs"),
    ("timeout expired", "see host and port in {}, and what lies between"),
)
_REFUSED_NAME = "see host in {}, RESILIENT_DNS_NAMESERVERS and RESILIENT_DNS_SEARCH"


def advice(text: str, source: str) -> str:
    """What to change, for a failure to connect; empty where nobody knows."""
    text = text.lower()
    found = next((hint for words, hint in _ADVICE if words in text), "")
    return found.format(source)


def name_advice(source: str) -> str:
    """The same where a name doesn't resolve."""
    return _REFUSED_NAME.format(source)


class Watched(Protocol):
    """A cluster, for who complains of it."""

    @property
    def knew_a_writer(self) -> bool: ...


class Complaining(Protocol):
    """A pool, for its complaints.  `source`: where its connection string is from."""

    source: str

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def cluster(self) -> Watched: ...

    def name_errors(self) -> Mapping[str, str]: ...


_numbers = itertools.count()
_ALL: WeakValueDictionary[int, Complaints] = WeakValueDictionary()


class Complaints:
    """Of one pool and its replicas'.  Written by any worker; a race repeats a line, at worst."""

    def __init__(self) -> None:
        self._number = next(_numbers)
        _ALL[self._number] = self
        #: what was said, of whom, and not taken back since
        self._said: dict[str, set[object]] = {}
        #: the last warning that there was nobody to dial, which has the reasons
        self._warned = ""

    def failed(self, pool: Complaining, endpoint: Endpoint, exc: BaseException) -> None:
        """A dial to the endpoint has failed."""
        _mark(exc)
        text = brief(exc)
        said = getattr(exc, "sqlstate", None), str(exc)
        kind, settled = connect_failure(*said), stays(*said, login_of(exc))
        fix = advice(text, pool.source)
        labels = pool.labels
        line = Line(
            event="connect.failed",
            endpoint=endpoint.place,
            reason=text,
            fix=fix or None,
            **labels,
        )
        key = f"{kind.value} {fix}"
        # Who has been there and is gone has a failover of its own, which is told.
        told = key in self._said or (fix and fix in self._warned)
        role = isinstance(exc, WrongRole)  # who was dialled before anybody knew what it is
        loud = (settled or not pool.cluster.knew_a_writer) and not told and not role
        where = self._said.setdefault(key, set())
        again = logging.DEBUG if endpoint in where else logging.INFO
        where.add(endpoint)
        logger.log(logging.WARNING if loud else again, "%s", line)

    def unfit(self, pool: Complaining, endpoint: Endpoint, exc: BaseException) -> None:
        """A session was made, and the user's `configure` failed on it: psycopg_pool says so,
        of the first that comes to it."""
        text = brief(exc)
        line = Line(event="connect.unfit", endpoint=endpoint.place, reason=text, **pool.labels)
        logger.debug("%s", line)

        exc._resilient_unfit = (self._number, text)  # type: ignore[attr-defined]

    def repeats_unfit(self, text: str) -> bool:
        """Was that said before?  It is now."""
        told = self._said.setdefault(f"unfit {text}", set())
        before = bool(told)
        told.add("")
        return before

    def nobody(self, pool: Complaining, exc: BaseException, intent: str) -> None:
        """There was nobody to dial."""
        _mark(exc)
        loud = not pool.cluster.knew_a_writer and not pool.name_errors() and not self._said
        key = f"nobody {intent}"
        again = logging.DEBUG if key in self._said else logging.INFO
        self._said.setdefault(key, set()).add(intent)
        line = Line(event="connect.nobody", reason=brief(exc), **pool.labels)
        if loud:
            self._warned = brief(exc)
        logger.log(logging.WARNING if loud else again, "%s", line)

    def connected(self, endpoint: Endpoint) -> None:
        """It works: what is wrong the next time is news."""
        self._warned = ""
        if not self._said:
            return
        for key, where in list(self._said.items()):
            where.discard(endpoint)
            if not where or key.startswith("nobody"):
                self._said.pop(key, None)


def brief(exc: BaseException) -> str:
    """An exception's text on one line."""
    return " ".join(str(exc).split())


def _mark(exc: BaseException) -> None:
    exc._resilient_told = True  # type: ignore[attr-defined]


def _was_told(arg: object) -> bool:
    if isinstance(arg, BaseException):
        number, text = getattr(arg, "_resilient_unfit", (-1, ""))  # it may be pickled: plain values
        complaints = _ALL.get(number)
        return getattr(arg, "_resilient_told", False) or (
            complaints is not None and complaints.repeats_unfit(text)
        )
    return bool(getattr(link_of(arg), "evicted", ""))


class _Repeats(logging.Filter):
    """Of psycopg_pool's lines, those whose matter was told."""

    def filter(self, record: logging.LogRecord) -> bool:
        args: Any = record.args if isinstance(record.args, tuple) else ()
        return not any(map(_was_told, args))


logging.getLogger("psycopg.pool").addFilter(_Repeats())
