"""What a PostgreSQL failure says of the endpoint: SQLSTATE where there is one, else text.

A failure to connect carries no SQLSTATE through libpq, only the server's or the system's
words; the system's are compared through `os.strerror`, so they fit any locale.  Source:
PostgreSQL manual, appendix A (error codes), and libpq's own messages.
"""

from __future__ import annotations

import errno
import os
import re

from ..core.model import FailureKind
from ..core.sqlstates import kind_of

_SYSTEM = (
    (errno.ECONNREFUSED, FailureKind.REFUSED),
    (errno.ENOENT, FailureKind.REFUSED),  # a Unix socket that isn't there
    (errno.EMFILE, FailureKind.LOCAL),
    (errno.ENFILE, FailureKind.LOCAL),
    (errno.ENOMEM, FailureKind.LOCAL),
    (errno.ENOBUFS, FailureKind.LOCAL),
    (errno.EADDRNOTAVAIL, FailureKind.LOCAL),
    (errno.ECONNRESET, FailureKind.LOST),
    (errno.EPIPE, FailureKind.LOST),
    (errno.EHOSTUNREACH, FailureKind.UNREACHABLE),
    (errno.ENETUNREACH, FailureKind.UNREACHABLE),
    (errno.EHOSTDOWN, FailureKind.UNREACHABLE),
    (errno.ETIMEDOUT, FailureKind.SILENT),
)

_WORDS = (
    ("the database system is", FailureKind.NOT_READY),
    ("too many clients", FailureKind.CROWDED),
    ("too many connections", FailureKind.CROWDED),
    ("remaining connection slots", FailureKind.CROWDED),
    ("no more connections allowed", FailureKind.CROWDED),
    ("timeout expired", FailureKind.SILENT),
    ("server closed the connection", FailureKind.LOST),
    ("connection to server was lost", FailureKind.LOST),
    ("the connection is lost", FailureKind.LOST),
    ("terminating connection", FailureKind.SHUTDOWN),
    ("connection socket closed", FailureKind.LOST),
    # OpenSSL's words for a socket that ends; of its other errors the server is the cause.
    ("SSL SYSCALL error", FailureKind.LOST),
    ("unexpected eof while reading", FailureKind.LOST),
    ("SSL connection has been closed", FailureKind.LOST),
    ("certificate", FailureKind.REJECTED),
    ("SSL", FailureKind.REJECTED),
    ("authentication failed", FailureKind.REJECTED),
    ("no password supplied", FailureKind.REJECTED),
    ("pg_hba.conf", FailureKind.REJECTED),
    ("does not exist", FailureKind.REJECTED),
    ("is not permitted to log in", FailureKind.REJECTED),
    ("is not currently accepting connections", FailureKind.REJECTED),
    ("permission denied for database", FailureKind.REJECTED),
    # It lives, and says no for a reason that isn't understood: `lc_messages` may be any language.
    ("FATAL", FailureKind.REJECTED),
)
_REFUSALS = tuple(words for words, kind in _WORDS[:-1] if kind is FailureKind.REJECTED)


def connect_failure(sqlstate: str | None, text: str) -> FailureKind:
    """Why a connection could not be made."""
    said = kind_of(sqlstate)
    if said is not None:
        return said
    for number, kind in _SYSTEM:
        if os.strerror(number) in text:
            return kind
    for words, kind in _WORDS:
        if words in text:
            return kind
    return FailureKind.LOST


#: libpq's words for a login that other credentials would fare better at
_CREDENTIALS = ("authentication failed", "no password supplied", "pg_hba.conf", 'role "')

Login = tuple[str, ...]


def login_of(exc: object) -> Login:
    """(user, database) of a connection that failed, as far as libpq still knows them."""
    pgconn = getattr(exc, "pgconn", None)
    if pgconn is None:
        return ()
    return tuple(name.decode("utf-8", "replace") for name in (pgconn.user, pgconn.db))


def _names(text: str, name: str) -> bool:
    """Does a FATAL that isn't understood name it?  In any language those do that are meant for a
    user or a database; that a server starts, stops, or is full is said of nobody."""
    said = text.rpartition("FATAL")[2]
    return bool(name) and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said) is not None


def credentials_refused(sqlstate: str | None, text: str, login: Login = ()) -> bool:
    """Is it the user or the password that a server didn't accept?  A database that isn't there
    may be on its way, at a standby."""
    if connect_failure(sqlstate, text) is not FailureKind.REJECTED:
        return False
    if sqlstate is not None:
        return sqlstate.startswith("28")
    if any(words in text for words in _REFUSALS):
        return any(words in text for words in _CREDENTIALS)
    user, database = (*login, "", "")[:2]
    return _names(text, user) and not _names(text, database)


def stays(sqlstate: str | None, text: str, login: Login = ()) -> bool:
    """Would another try fare no better?  A refusal that isn't understood, and names neither the
    user nor the database, may be for the moment, as that of a server that starts."""
    if connect_failure(sqlstate, text) is not FailureKind.REJECTED:
        return False
    known = sqlstate is not None or any(words in text for words in _REFUSALS)
    return known or any(_names(text, name) for name in login)


def unfit_for_tls(text: str) -> bool:
    """Has the server no TLS, or not the one that the conninfo asks for?  It is this server's own
    trouble: the next one may be who it says it is."""
    return "certificate" in text or ("SSL" in text and "FATAL" not in text)


def server_refused(sqlstate: str | None, text: str, login: Login = ()) -> bool:
    """Does a server that is up refuse this login for what it is, not for the moment?"""
    if not stays(sqlstate, text, login):
        return False
    return "FATAL" in text or credentials_refused(sqlstate, text, login)


def crowded_out(failure: BaseException | None) -> bool:
    """Was there no room for a session?"""
    sqlstate = getattr(failure, "sqlstate", None)
    return connect_failure(sqlstate, str(failure)) is FailureKind.CROWDED


def statement_failure(sqlstate: str | None, broken: bool, text: str) -> FailureKind | None:
    """What a failed statement says of its endpoint; None when it is the application's own."""
    if sqlstate is not None:
        kind = kind_of(sqlstate)
        return FailureKind.LOST if kind is None and broken else kind
    if not broken:
        return None
    kind = connect_failure(None, text)
    # Nobody is rejected in the middle of a session: what TLS finds wrong there is the way.
    return FailureKind.LOST if kind is FailureKind.REJECTED else kind


def probe_failure(sqlstate: str | None, broken: bool, text: str) -> FailureKind:
    """Why a role query failed on a connection that stood."""
    if sqlstate and sqlstate[:2] in ("53", "57") and kind_of(sqlstate) is None:
        return FailureKind.CROWDED  # busy: out of memory, statement_timeout
    kind = statement_failure(sqlstate, broken, text)
    return FailureKind.ERROR if kind is None else kind
