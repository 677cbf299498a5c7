"""What has to be known to give values back: what the caller saw, and what the catalogue says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..._dataclass import dataclass
from .made import Column, Function, Sequence
from .tree import Node


@dataclass(frozen=True, slots=True)
class Seen:
    """One result that a caller has.  Of each column: `tables`, the OID of the table that it is of
    (0: of none), `columns`, its number there, `types`, the OID of its type, `binary`, how its
    values are written.  `cell(row, column)` is one of them."""

    rows: int
    tables: tuple[int, ...]
    columns: tuple[int, ...]
    types: tuple[int, ...]
    binary: tuple[bool, ...]
    cell: Callable[[int, int], bytes | None]

    def column(self, at: int) -> tuple[bytes | None, ...]:
        return tuple(self.cell(row, at) for row in range(self.rows))


@dataclass(frozen=True, slots=True)
class Statement:
    """One of a block.  `trees`: None where nobody could parse it.  `seen`: None where its result
    has no rows.  `params`: as they were sent, in text where `texts` says so."""

    query: bytes
    trees: list[Node] | None = None
    seen: Seen | None = None
    params: tuple[bytes | None, ...] = ()
    texts: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """`kind`: as `pg_class.relkind`.  `ruled`: rules rewrite what is inserted."""

    oid: int
    schema: str
    name: str
    kind: str
    ruled: bool
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """`tables`: by OID.  `named`: the OIDs of tables that an INSERT names.  `sequences`: by OID,
    `sequence_named`: their OIDs by the texts that name them.  `arrays`: type → type of its arrays.
    `shadowed`: names of functions that aren't the server's own alone.  `time`, `current`: what the
    block reaches that tells the transaction's time, or the sequence's last value, by itself.
    `taken`: why a sequence's values may not be given back after all."""

    tables: Mapping[int, Table]
    functions: Mapping[int, Function]
    sequences: Mapping[int, Sequence]
    sequence_named: Mapping[str, int]
    arrays: Mapping[int, int]
    named: Mapping[tuple[str, str], int]
    shadowed: frozenset[str] = frozenset()
    time: str = ""
    current: str = ""
    taken: Mapping[int, str] | None = None
