"""What a database makes up: by a function's name, by a column's default, from a sequence.

*Time* is the transaction's, one value a block.  A *value* is new with each call: a clock's, a
UUID, a random number.  What a sequence gives, it has to have passed for good before anybody else
may use it: `passed`.
"""

from __future__ import annotations

import re
import struct
from enum import StrEnum

from ..._dataclass import dataclass


class Made(StrEnum):
    SEQUENCE = "sequence"
    TIME = "time"
    VALUE = "value"


#: functions without arguments; what they give is the transaction's time itself
EXACT_TIME = frozenset(("now", "transaction_timestamp"))
#: functions whose values nothing else depends on
VALUES = frozenset(
    (
        *("clock_timestamp", "statement_timestamp", "timeofday", "random"),
        *("gen_random_uuid", "uuidv4", "uuidv7"),
        *("uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "gen_random_bytes"),
    )
)
#: the extensions that some of them come from
EXTENSIONS = frozenset(("uuid-ossp", "pgcrypto"))
#: they tell the time without an argument: `age(x)` is since today's midnight
TELL_TIME = EXACT_TIME | {"age"}
CURRENT = frozenset(("currval", "lastval"))

#: in a text: it may tell the transaction's time
TIME_WORDS = re.compile(
    r"\b(?:now|transaction_timestamp|current_(?:timestamp|date|time)|local(?:time|timestamp)|age"
    r"|today|tomorrow|yesterday)\b",
    re.I,
)
CURRENT_WORDS = re.compile(r"\b(?:currval|lastval)\b", re.I)

#: casts between the integers, which a serial column's default has around its nextval
_INTEGER_CASTS = frozenset((480, 714))
_NEXTVAL = 1574
_FUNCTION_ID = re.compile(r":(?:funcid|opfuncid) (\d+)")
_TIME_NODE = re.compile(r"\{SQLVALUEFUNCTION :op ([0-8]) ")
_EXACT_NODE = re.compile(r"\{SQLVALUEFUNCTION :op 3 ")


@dataclass(frozen=True, slots=True)
class Function:
    """One that a default calls.  `own`: the server's own, or of an extension that is known."""

    oid: int
    name: str
    own: bool
    volatile: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column, by the catalogue.

    `identity`: a (always), d (by default) or empty.  `tree`: its default as the server parsed it.
    `sequence`: the OID of what its default, or identity, takes numbers from; 0: none is known.
    `insertable`: this role may write it.  `unique`: some unique index has it; `leads`: as the
    first column of some index.
    """

    number: int
    name: str
    identity: str = ""
    generated: bool = False
    tree: str = ""
    sequence: int = 0
    insertable: bool = True
    unique: bool = False
    leads: bool = False


@dataclass(frozen=True, slots=True)
class Default:
    """What a column gets that isn't given.  `what` None: the same again, as far as anybody
    knows.  `exact`: the transaction's time and nothing else.  `why`: not to be given back."""

    what: Made | None = None
    exact: bool = False
    why: str = ""


def default_of(column: Column, functions: dict[int, Function]) -> Default:
    """What a column's default makes up."""
    if column.identity:
        return Default(Made.SEQUENCE) if column.sequence else Default(why=_unclear(column))
    called = [int(oid) for oid in _FUNCTION_ID.findall(column.tree)]
    if not column.tree or not (called or _TIME_NODE.search(column.tree)):
        return Default()
    if _NEXTVAL in called:
        bare = called.count(_NEXTVAL) == 1 and set(called) <= {_NEXTVAL, *_INTEGER_CASTS}
        return Default(Made.SEQUENCE) if bare and column.sequence else Default(why=_unclear(column))
    found = [functions.get(oid) for oid in called]
    if any(each is None or not each.own for each in found):
        return Default(why=f"the default of {column.name!r} calls a function of its own")
    known = [each for each in found if each is not None]
    odd = [each.name for each in known if each.volatile and each.name not in VALUES]
    if odd:
        return Default(why=f"the default of {column.name!r} calls {odd[0]}()")
    time = _TIME_NODE.search(column.tree) or any(each.name in TELL_TIME for each in known)
    if time:
        exact = len(called) <= 1 and (
            _EXACT_NODE.match(column.tree) is not None
            or (len(called) == 1 and known[0].name in EXACT_TIME)
        )
        return Default(Made.TIME, exact)
    made = any(each.name in VALUES for each in known)
    return Default(Made.VALUE) if made else Default()


def _unclear(column: Column) -> str:
    return f"the default of {column.name!r} takes from a sequence in a way that isn't understood"


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence on the new primary.  `last`: None while it has given nothing."""

    oid: int
    name: str
    last: int | None
    increment: int = 1
    cache: int = 1
    cycles: bool = False
    readable: bool = True
    usable: bool = True


def passed(sequence: Sequence, value: int) -> str:
    """Why `value` may still be given to somebody else; empty when the sequence has passed it."""
    if not sequence.readable:
        return f"this role may not read sequence {sequence.name} (GRANT USAGE)"
    if sequence.cycles:
        return f"sequence {sequence.name} begins anew when it is at its end (CYCLE)"
    last = sequence.last
    up = sequence.increment > 0
    if last is None or (last < value if up else last > value):
        return f"sequence {sequence.name} has not passed {value} on the new primary"
    return ""


_WIDTHS = {2: ">h", 4: ">i", 8: ">q"}


def integer(value: bytes, binary: bool) -> int:
    """A number as the server wrote it.  Raises ValueError for what is none."""
    if not binary:
        return int(value)
    if len(value) not in _WIDTHS:
        raise ValueError("not an integer")
    number: int = struct.unpack(_WIDTHS[len(value)], value)[0]
    return number
