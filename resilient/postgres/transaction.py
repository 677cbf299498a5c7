"""`conn.transaction()` on a connection whose session may change inside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import pq
from psycopg.transaction import BaseTransaction

from .recovery import Gen

if TYPE_CHECKING:
    from .continuity import ContinuityMixin

    Base = BaseTransaction[Any]
else:
    Base = object

_IDLE = pq.TransactionStatus.IDLE


class Surviving(Base):
    """Mixed in front of psycopg's transaction classes."""

    if not TYPE_CHECKING:

        @property
        def pgconn(self) -> Any:
            return self._conn.pgconn

        @pgconn.setter
        def pgconn(self, value: Any) -> None:
            pass

    def _enter_gen(self) -> Gen:
        """The outermost BEGIN waits for the first statement, and travels with it."""
        conn = cast("ContinuityMixin", self._conn)
        yield from conn._send_due()
        if (
            conn._journal is None
            or conn._pipeline is not None
            or self._savepoint_name
            or self.pgconn.transaction_status != _IDLE
        ):
            yield from super()._enter_gen()
            return
        self.status = self.Status.ACTIVE
        self._push_savepoint()
        conn._due = conn._get_tx_start_command()


class Transaction(Surviving, psycopg.Transaction):
    __module__ = "psycopg"


class AsyncTransaction(Surviving, psycopg.AsyncTransaction):
    __module__ = "psycopg"
