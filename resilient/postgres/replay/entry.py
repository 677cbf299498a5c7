"""One statement, as it was sent."""

from __future__ import annotations

from typing import Any

from psycopg import pq
from psycopg.pq.abc import PGresult

#: a statement's text in an error is cut to this many characters
SHOWN_CHARS = 120

_TEXT = pq.Format.TEXT


def kept(params: Any) -> Any:
    """The parameters as bytes that nobody changes: a caller may fill its buffer again, and a
    dumper's may be one (C: bytearray)."""
    try:
        return list(map(bytes, params))
    except TypeError:  # there is a NULL
        return [None if p is None else bytes(p) for p in params]


class Entry:
    """One statement, in the form in which it is sent again."""

    __slots__ = ("__dict__", "fmt", "formats", "params", "query", "results", "types")

    #: of its results, where they aren't kept
    digest: bytes | None = None
    #: inside a savepoint that was rolled back
    undone = False
    #: queued in a pipeline: whatever it gives is its answer
    waiting = False

    def __init__(
        self,
        query: bytes,
        params: Any = None,
        types: Any = None,
        formats: Any = None,
        fmt: pq.Format = _TEXT,
    ) -> None:
        self.query = query
        self.params = params
        self.types = types
        self.formats = formats
        self.fmt = fmt
        #: what it gave; None for a command whose result nobody sees
        self.results: list[PGresult] | None = None

    def send(self, pgconn: pq.abc.PGconn) -> None:
        """Send it again; through the simple protocol where that was used."""
        if self.params or self.fmt != _TEXT:
            self.send_params(pgconn)
        else:
            pgconn.send_query(self.query)

    def send_params(self, pgconn: pq.abc.PGconn) -> None:
        pgconn.send_query_params(
            self.query,
            self.params,
            param_types=self.types,
            param_formats=self.formats,
            result_format=self.fmt,
        )

    @property
    def shown(self) -> str:
        """The statement as an error names it."""
        text = " ".join(self.query.decode("utf-8", "replace").split())
        return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
