"""What a statement is: which column of a table gets what, as far as it is understood.

Understood are the forms that people and ORMs send:

    INSERT INTO t DEFAULT VALUES …
    INSERT INTO t (a, b) VALUES (…), (…) …
    INSERT INTO t (a) SELECT p0::VARCHAR FROM (VALUES (…), …) AS s(p0, n) ORDER BY n …   SQLAlchemy
    INSERT INTO t (a) SELECT * FROM UNNEST(…::int[], …) …                               Django
    SELECT nextval('s'), now()

The first four with ON CONFLICT and RETURNING.  All else raises `Refused`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..._dataclass import dataclass
from .made import EXACT_TIME, TELL_TIME, VALUES, Made
from .tree import Node, body, kind, strings, uncast, walk


class Refused(ValueError):
    """The statement isn't one of those; its text says why."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that makes something up.  `start`: where it begins in the text.  `sequence`: what a
    nextval or currval was given, as text or as the number of a parameter; empty for lastval."""

    what: Made
    start: int
    name: str
    exact: bool = False
    sequence: str | int = ""


@dataclass(frozen=True, slots=True)
class Insert:
    """`columns`: None where the statement names none.  `form`: default, values, select, unnest.
    `items`: of each row what its columns get; of *select* one row, its targets."""

    tree: Node
    schema: str
    table: str
    columns: tuple[str, ...] | None
    form: str
    items: tuple[tuple[Node, ...], ...] = ()
    #: rows that it inserts; None where only the server knows
    rows: int | None = None

    @property
    def updates(self) -> bool:
        """ON CONFLICT DO UPDATE."""
        clause = self.tree.get("onConflictClause", {})
        return bool(clause.get("action") == "ONCONFLICT_UPDATE")


@dataclass(frozen=True, slots=True)
class Select:
    """Without a FROM.  `targets`: for each column the call that it is; None: made of constants,
    or of calls whose values can't be told from it."""

    tree: Node
    targets: tuple[Call | None, ...]
    calls: tuple[Call, ...]


Form = Insert | Select


def described(trees: list[Node]) -> Form:
    """What a text with these trees is.  Raises `Refused`."""
    if len(trees) != 1:
        raise Refused("several statements in one")
    statement = trees[0]["stmt"]
    if kind(statement) == "InsertStmt":
        return _insert(body(statement))
    if kind(statement) == "SelectStmt":
        return _select(body(statement))
    raise Refused("neither an INSERT nor a SELECT without FROM")


# -- calls


def call_of(node: Node) -> Call | None:
    """The call that a node is."""
    if kind(node) == "SQLValueFunction":
        op = body(node)["op"]
        timely = op.startswith(("SVFOP_CURRENT_DATE", "SVFOP_CURRENT_TIME", "SVFOP_LOCALTIME"))
        exact = op == "SVFOP_CURRENT_TIMESTAMP"
        name = "current_timestamp" if exact else op.removeprefix("SVFOP_").lower()
        return Call(Made.TIME, body(node)["location"], name, exact) if timely else None
    if kind(node) != "FuncCall":
        return None
    call = body(node)
    name, args = _name(call), call.get("args", [])
    start = call["location"]
    if name in TELL_TIME and len(args) <= 1:
        return Call(Made.TIME, start, name, name in EXACT_TIME and not args)
    if name in VALUES and len(args) <= 1:
        return Call(Made.VALUE, start, name)
    if name in ("nextval", "currval") and len(args) == 1:
        return Call(Made.SEQUENCE, start, name, sequence=_sequence(args[0]))
    if name == "lastval" and not args:
        return Call(Made.SEQUENCE, start, name)
    return None


def _name(call: Node) -> str:
    """A function's name where it is, or may be, one of the server's own."""
    parts = strings(call["funcname"])
    plain = len(parts) == 1 or (len(parts) == 2 and parts[0] in ("pg_catalog", "public"))
    return parts[-1] if plain else ""


def _sequence(node: Node) -> str | int:
    inner = uncast(node)
    if kind(inner) == "ParamRef":
        number: int = body(inner)["number"]
        return number
    if kind(inner) == "A_Const" and "sval" in body(inner):
        text: str = body(inner)["sval"]["sval"]
        return text
    raise Refused("a sequence that isn't named by a constant")


# -- SELECT without FROM

#: nodes that may stand around calls: their value follows from those of what is in them
_AROUND = frozenset(
    ("TypeCast", "FuncCall", "A_Expr", "A_Const", "ParamRef", "SQLValueFunction", "List", "String")
)
#: functions that may stand there
PURE = frozenset(("timezone", "date_trunc", "extract", "date_part", "to_char"))


def _select(tree: Node) -> Select:
    if set(tree) - {"targetList", "limitOption", "op"} or tree.get("op") != "SETOP_NONE":
        raise Refused("a SELECT that is more than a list of values")
    targets: list[Call | None] = []
    calls: list[Call] = []
    for target in tree.get("targetList", []):
        value = body(target)["val"]
        direct = call_of(uncast(value))
        targets.append(direct)
        calls.extend([direct] if direct else _calls_in(value))
    return Select(tree, tuple(targets), tuple(calls))


def _calls_in(value: Node) -> list[Call]:
    """The calls in an expression.  Raises `Refused` where something else is in it."""
    call = call_of(value)
    if call is not None:
        if call.what is Made.SEQUENCE:
            raise Refused(f"{call.name}() in an expression")
        return [call]
    if kind(value) not in _AROUND:
        raise Refused("an expression that may depend on more than its parts")
    inner = body(value)
    if kind(value) == "SQLValueFunction" or (
        kind(value) == "FuncCall" and _name(inner) not in PURE
    ):
        raise Refused("an expression that calls other functions")
    parts = [*inner.get("args", []), *[inner[k] for k in ("arg", "lexpr", "rexpr") if k in inner]]
    return [call for part in parts for call in _calls_in(part)]


# -- INSERT


def _insert(tree: Node) -> Insert:
    if "withClause" in tree:
        raise Refused("an INSERT with a WITH")
    relation = tree["relation"]
    columns: tuple[str, ...] | None = None
    if "cols" in tree:
        targets = [body(target) for target in tree["cols"]]
        if any("indirection" in target for target in targets):
            raise Refused("an INSERT into a part of a column")
        columns = tuple(target["name"] for target in targets)
    if tree.get("override") == "OVERRIDING_USER_VALUE":
        raise Refused("OVERRIDING USER VALUE")
    for node in walk(tree.get("returningList", tree.get("returningClause", []))):
        fields = node.get("fields", [])
        if len(fields) > 1 and strings(fields)[0] == "old":
            raise Refused("RETURNING old values")
    schema, table = relation.get("schemaname", ""), relation["relname"]
    if "catalogname" in relation:
        raise Refused("a table of a named database")
    form, items, rows = _source(tree)
    if columns is None and form not in ("default", "values"):
        raise Refused("an INSERT … SELECT that doesn't name its columns")
    if columns is not None and any(len(row) != len(columns) for row in items if items):
        raise Refused("rows with fewer values than columns")
    return Insert(tree, schema, table, columns, form, items, rows)


def _source(tree: Node) -> tuple[str, tuple[tuple[Node, ...], ...], int | None]:
    if "selectStmt" not in tree:
        return "default", (), 1
    source = body(tree["selectStmt"])
    if "valuesLists" in source:
        if set(source) - {"valuesLists", "limitOption", "op"}:
            raise Refused("VALUES with an ORDER BY, LIMIT or WITH")
        rows = _rows(source)
        return "values", rows, len(rows)
    if set(source) - {"targetList", "fromClause", "sortClause", "limitOption", "op"} or (
        source.get("op") != "SETOP_NONE" or len(source.get("fromClause", [])) != 1
    ):
        raise Refused("an INSERT … SELECT of another form than VALUES or UNNEST")
    (origin,) = source["fromClause"]
    if kind(origin) == "RangeFunction":
        return _unnest(source, body(origin))
    if kind(origin) == "RangeSubselect":
        return _subselect(source, body(origin))
    raise Refused("an INSERT … SELECT from a table")


def _rows(source: Node) -> tuple[tuple[Node, ...], ...]:
    return tuple(tuple(body(row)["items"]) for row in source["valuesLists"])


def _subselect(source: Node, origin: Node) -> tuple[str, tuple[tuple[Node, ...], ...], int | None]:
    inner = body(origin["subquery"])
    alias = origin.get("alias", {})
    if set(inner) - {"valuesLists", "limitOption", "op"} or "valuesLists" not in inner:
        raise Refused("an INSERT … SELECT from a subquery that isn't VALUES")
    rows = _rows(inner)
    names = strings(alias.get("colnames", []))
    if origin.get("lateral") or len(names) != len(rows[0]):
        raise Refused("VALUES whose columns have no names")
    _in_order(source.get("sortClause", []), rows, names)
    targets = tuple(body(target)["val"] for target in source["targetList"])
    if any(kind(target) == "ColumnRef" and "" in _fields(target) for target in targets):
        raise Refused("SELECT * FROM (VALUES …)")
    return "select", (targets,), len(rows)


def _fields(node: Node) -> list[str]:
    return strings(body(node)["fields"])


def _in_order(sort: list[Node], rows: tuple[tuple[Node, ...], ...], names: list[str]) -> None:
    """Raises unless the rows are inserted in the order in which they stand there."""
    if not sort:
        return
    by = body(sort[0])
    usual = ("SORTBY_DEFAULT", "SORTBY_ASC")
    if len(sort) == 1 and kind(by["node"]) == "ColumnRef" and by["sortby_dir"] in usual:
        name = _fields(by["node"])[-1]
        if names.count(name) == 1 and "useOp" not in by:
            numbers = [_constant(row[names.index(name)]) for row in rows]
            if all(one < two for one, two in pairwise(numbers)):
                return
    raise Refused("an ORDER BY whose order isn't seen")


def _constant(node: Node) -> int:
    value: Any = body(node).get("ival") if kind(node) == "A_Const" else None
    if value is None:
        raise Refused("an ORDER BY of something else than constants")
    number: int = value.get("ival", 0)
    return number


def _unnest(source: Node, origin: Node) -> tuple[str, tuple[tuple[Node, ...], ...], int | None]:
    targets = source["targetList"]
    star = len(targets) == 1 and kind(body(targets[0])["val"]) == "ColumnRef"
    if not star or _fields(body(targets[0])["val"]) != [""] or "sortClause" in source:
        raise Refused("a SELECT from UNNEST of other columns than *")
    calls = origin.get("functions", [])
    if set(origin) - {"functions"} or len(calls) != 1:
        raise Refused("UNNEST with more than its arrays")
    call = body(calls[0])["items"][0]
    if kind(call) != "FuncCall" or strings(body(call)["funcname"])[-1] != "unnest":
        raise Refused("an INSERT … SELECT from a function")
    return "unnest", (), None
