"""Results as a caller has seen them: how large they are, and whether others are the same."""

from __future__ import annotations

import hashlib
from itertools import repeat

from psycopg import pq
from psycopg.pq.abc import PGresult

#: rows that are measured to estimate a result's size
SAMPLE_ROWS = 8
#: what one without rows takes
EMPTY_BYTES = 64

_TUPLES = pq.ExecStatus.TUPLES_OK
_FATAL = pq.ExecStatus.FATAL_ERROR


def estimate(result: PGresult) -> int:
    """A result's size in bytes, from a few of its rows."""
    rows = result.ntuples
    if not rows:
        return EMPTY_BYTES
    columns, get = result.nfields, result.get_value
    if rows == 1:
        cells = sum(map(len, filter(None, map(get, repeat(0), range(columns)))))
        return EMPTY_BYTES + cells + columns * 8
    sampled, cells = range(0, rows, rows // SAMPLE_ROWS or 1), 0
    for column in range(columns):
        cells += sum(map(len, filter(None, map(get, sampled, repeat(column)))))
    return EMPTY_BYTES + (cells * rows) // len(sampled) + rows * columns * 8


def digest(results: list[PGresult]) -> bytes:
    """A digest of everything that a caller can see of the results."""
    hashed = hashlib.blake2b(digest_size=16)
    for result in results:
        hashed.update(repr((result.status, result.command_status, result.nfields)).encode())
        for row in range(result.ntuples):
            cells = [result.get_value(row, col) for col in range(result.nfields)]
            hashed.update(repr(cells).encode())
    return hashed.digest()


def difference(old: list[PGresult] | None, kept: bytes | None, new: list[PGresult]) -> str:
    """How the new results differ from what the caller saw, or from its digest; empty when they
    don't.  Of a command whose result nobody sees only a refusal counts."""
    if kept is not None:
        return "" if digest(new) == kept else "other values"
    if old is None:
        return _refusal(new)
    if len(old) != len(new):
        return f"{len(new)} results instead of {len(old)}"
    for one, two in zip(old, new, strict=True):
        found = _differs(one, two)
        if found:
            return found
    return ""


def _refusal(results: list[PGresult]) -> str:
    for result in results:
        if result.status == _FATAL:
            return _text(result.error_message)
    return ""


def _differs(old: PGresult, new: PGresult) -> str:
    if old.status != new.status:
        return _refusal([new]) or f"{_name(new.status)} instead of {_name(old.status)}"
    if old.status == _FATAL:
        one, two = (r.error_field(pq.DiagnosticField.SQLSTATE) for r in (old, new))
        return "" if one == two else f"error {_text(two)} instead of {_text(one)}"
    if old.command_status != new.command_status:
        return f"{_text(new.command_status)} instead of {_text(old.command_status)}"
    if old.status != _TUPLES:
        return ""
    if (old.ntuples, old.nfields) != (new.ntuples, new.nfields):
        return f"{new.ntuples} rows instead of {old.ntuples}"
    get_old, get_new = old.get_value, new.get_value
    columns = range(old.nfields)
    for row in range(old.ntuples):
        for col in columns:
            if get_old(row, col) != get_new(row, col):
                return f"another value in row {row}, column {_text(old.fname(col))!r}"
    return ""


def _name(status: int) -> str:
    return pq.ExecStatus(status).name


def _text(value: bytes | None) -> str:
    return "nothing" if value is None else value.decode("utf-8", "replace").strip()
