"""Reads go to replicas; whoever has written reads what was written."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from django.core.signals import request_started
from django.db import DEFAULT_DB_ALIAS, connections

#: the aliases that this request (thread, task) has written to
_written: ContextVar[frozenset[str]] = ContextVar("resilient_django_written", default=frozenset())


def _begin(**_: Any) -> None:
    _written.set(frozenset())


request_started.connect(_begin, dispatch_uid="resilient.django.routing")


class Router:
    """Reads go to the alias that has `reader_of`, writes to the one it is of.

    After a write the rest of the request reads from the primary, as does what runs inside of
    `atomic`.  Nothing migrates on a replica.
    """

    def __init__(self) -> None:
        self._readers: dict[str, str] | None = None

    @property
    def readers(self) -> dict[str, str]:
        """Of an alias: the one that reads for it."""
        if self._readers is None:
            self._readers = {}
            for alias in connections:
                ours = connections.settings[alias].get("OPTIONS", {}).get("resilient") or {}
                if "reader_of" in ours:
                    self._readers.setdefault(ours["reader_of"], alias)
        return self._readers

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Django asks: the replica's alias, unless this request has written."""
        alias = self._home(hints)
        reader = self.readers.get(alias)
        if reader is None or alias in _written.get() or connections[alias].in_atomic_block:
            return alias
        return reader

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        """Django asks: the primary's alias, which this request reads from afterwards too."""
        alias = self._home(hints)
        _written.set(_written.get() | {alias})
        return alias

    def _home(self, hints: dict[str, Any]) -> str:
        """Of whom an object was read is where it is written."""
        state = getattr(hints.get("instance"), "_state", None)
        alias = getattr(state, "db", None) or DEFAULT_DB_ALIAS
        for home, reader in self.readers.items():
            if alias == reader:
                return home
        return str(alias)

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool | None:
        """Django asks: True for two objects of one database, wherever they were read."""
        homes = {self._home({"instance": item}) for item in (one, other)}
        return True if len(homes) == 1 else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Django asks: False for a replica's alias."""
        return False if db in self.readers.values() else None
