"""The statement that gives seen values back, made by putting parameters into its text.

Nothing of the caller's text is written anew.  What was made is parsed again, and has to be the
tree that was meant: the old one with the new columns and parameters in it, and no other change.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Sequence as Seq
from typing import Any

from ..._dataclass import dataclass
from .forms import Insert, Refused, call_of
from .scan import Tokens
from .tree import Node, Parse, bare, body, kind, uncast, walk

#: what the protocol numbers at most (manual 55.7, Bind)
MOST_PARAMETERS = 65535
#: the columns that are put into a SQLAlchemy subquery begin so
ALIAS = "resilient_kept_"


@dataclass(frozen=True, slots=True)
class Given:
    """Values for one column, of each row; one where `each` row gets it.  `type_oid`, `array_oid`:
    of the values, and of an array of them.  `place`: of an item of the statement that they stand
    for; None: the column is put in."""

    column: str
    cells: tuple[bytes | None, ...]
    type_oid: int
    array_oid: int = 0
    binary: bool = False
    place: int | None = None
    each: bool = False

    def cell(self, row: int) -> bytes | None:
        return self.cells[0 if self.each else row]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """`params`, `types`, `formats`: of the parameters that were added behind the others."""

    query: bytes
    params: tuple[bytes | None, ...]
    types: tuple[int, ...]
    formats: tuple[int, ...]


class _Text:
    """A statement's text and tree on their way to others."""

    def __init__(self, query: bytes, statement: Node, first: int) -> None:
        self.query = query
        self.tokens = Tokens(query)
        self.statement = copy.deepcopy(statement)
        self.first = first
        self.edits: list[tuple[int, int, bytes]] = []
        self.params: list[bytes | None] = []
        self.types: list[int] = []
        self.formats: list[int] = []

    def parameter(self, value: bytes | None, type_oid: int, binary: bool) -> int:
        """The number of a new parameter."""
        self.params.append(value)
        self.types.append(type_oid)
        self.formats.append(int(binary))
        number = self.first + len(self.params)
        if number > MOST_PARAMETERS:
            raise Refused(f"more than {MOST_PARAMETERS} parameters")
        return number

    def put(self, at: int, text: str, end: int | None = None) -> None:
        self.edits.append((at, at if end is None else end, text.encode()))

    def replace(self, start: int, number: int) -> None:
        """A parameter for the call or DEFAULT that begins there."""
        self.put(start, f"${number}", self.tokens.call_end(start))
        for node in walk(self.statement):
            if kind(node) in ("FuncCall", "SQLValueFunction", "SetToDefault") and (
                body(node).get("location") == start
            ):
                node.clear()
                node.update(_ref(number))
                return
        raise Refused("what should be replaced isn't there")

    def made(self, parse: Parse) -> Rewritten:
        """The new text, once it is proved to be what was meant."""
        query = self.query
        for start, end, text in sorted(self.edits, key=lambda edit: edit[:2], reverse=True):
            query = query[:start] + text + query[end:]
        try:
            trees = parse(query.decode())
        except ValueError as exc:
            raise Refused(f"the statement that gives them back isn't understood: {exc}") from None
        if len(trees) != 1 or bare(trees[0]["stmt"]) != bare(self.statement):
            raise Refused("the statement that gives them back isn't what was meant")
        return Rewritten(query, tuple(self.params), tuple(self.types), tuple(self.formats))


def timed(query: bytes, statement: Node, first: int, time: Given, parse: Parse) -> Rewritten:
    """The statement with the transaction's time given, wherever it calls for exactly that."""
    text = _Text(query, statement, first)
    _time(text, time, set())
    return text.made(parse)


def rewritten(
    query: bytes,
    form: Insert,
    given: Seq[Given],
    parse: Parse,
    *,
    first: int = 0,
    implied: tuple[str, ...] = (),
    always: bool = False,
    time: Given | None = None,
) -> Rewritten:
    """The INSERT with the values.  `first`: its parameters so far.  `implied`: the columns that
    it means where it names none.  `always`: it needs OVERRIDING SYSTEM VALUE.  `time`: the
    transaction's, for all other calls of it.  Raises `Refused`."""
    text = _Text(query, {"InsertStmt": form.tree}, first)
    given = sorted(given, key=lambda one: not one.each)
    try:
        _FORMS[form.form](text, form, given)
        columns = [each for each in given if each.place is None]
        _columns(text, form, [each.column for each in columns], implied, always)
        if time is not None:
            _time(text, time, {start for start, _, _ in text.edits})
        return text.made(parse)
    except (ValueError, IndexError, KeyError) as exc:
        raise exc if isinstance(exc, Refused) else Refused(str(exc)) from None


def _time(text: _Text, time: Given, done: set[int]) -> None:
    calls = [call_of(node) for node in walk(text.statement) if kind(node) in _CALLS]
    starts = {call.start for call in calls if call is not None and call.exact} - done
    if starts:
        number = text.parameter(time.cells[0], time.type_oid, time.binary)
        _keep_names(text, starts)
        for start in starts:
            text.replace(start, number)


def _keep_names(text: _Text, starts: set[int]) -> None:
    """A column that is called after its function stays so."""
    for node in walk(text.statement):
        target = body(node) if kind(node) == "ResTarget" else {}
        call = call_of(uncast(target["val"])) if "val" in target and "name" not in target else None
        if call is None or call.start not in starts:
            continue
        number = text.tokens.at(call.start)
        depth = text.tokens.all[number].depth
        end = len(text.query)
        for token in text.tokens.all[number:]:
            ends = token.depth < depth or (token.depth == depth and token.text in _ENDS)
            if ends or (token.depth == depth - 1 and token.text == b")"):
                end = token.start
                break
        target["name"] = call.name
        text.put(end, f" AS {_name(call.name)} ")


#: what stands behind a column of a SELECT
_ENDS = (b",", b"from", b";", b"where", b"order", b"limit", b"union", b"group")


_CALLS = ("FuncCall", "SQLValueFunction")


def _ref(number: int) -> Node:
    return {"ParamRef": {"number": number}}


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _string(text: str) -> Node:
    return {"String": {"sval": text}}


def _insert_of(text: _Text) -> Node:
    found: Node = text.statement["InsertStmt"]
    return found


def _source_at(text: _Text, form: Insert) -> int:
    """The number of the token with which what is inserted begins."""
    columns = form.tree.get("cols", [])
    after = text.tokens.at(body(columns[-1])["location"] if columns else 0)
    word = {"default": b"default", "values": b"values"}.get(form.form, b"select")
    return text.tokens.find(word, after, 0)


def _columns(
    text: _Text, form: Insert, new: list[str], implied: tuple[str, ...], always: bool
) -> None:
    insert = _insert_of(text)
    source = text.tokens.all[_source_at(text, form)]
    override = "OVERRIDING SYSTEM VALUE " if always else ""
    if insert.get("override") == "OVERRIDING_SYSTEM_VALUE":
        override = ""
    if override:
        insert["override"] = "OVERRIDING_SYSTEM_VALUE"
    if form.columns is not None:
        if new:
            names = "".join(f"{_name(each)}, " for each in new)
            text.put(body(form.tree["cols"][0])["location"], names)
        if override:
            text.put(source.start, override)
    else:
        new = [*new, *implied]
        names = ", ".join(map(_name, new))
        edit = f"({names}) {override}"
        if form.form == "default":
            start, end, values = text.edits.pop()
            text.put(start, edit + values.decode(), end)
        else:
            text.put(source.start, edit)
    named: list[Node] = [{"ResTarget": {"name": each}} for each in new]
    insert["cols"] = named + insert.get("cols", [])


def _default(text: _Text, form: Insert, given: Seq[Given]) -> None:
    start = _source_at(text, form)
    values = text.tokens.find(b"values", start, 0)
    numbers = [text.parameter(each.cells[0], each.type_oid, each.binary) for each in given]
    row = ", ".join(f"${number}" for number in numbers)
    end = text.tokens.all[values].end
    text.put(text.tokens.all[start].start, f"VALUES ({row})", end)
    _insert_of(text)["selectStmt"] = {
        "SelectStmt": {
            "valuesLists": [{"List": {"items": [_ref(number) for number in numbers]}}],
            "limitOption": "LIMIT_OPTION_DEFAULT",
            "op": "SETOP_NONE",
        }
    }


def _values(text: _Text, form: Insert, given: Seq[Given]) -> None:
    values = _source_at(text, form)
    rows = body(_insert_of(text)["selectStmt"])["valuesLists"]
    _into_rows(text, values, rows, [each for each in given if each.place is None])
    for each in given:
        if each.place is None:
            continue
        for number, row in enumerate(form.items):
            start = _start(row[each.place])
            if start is not None:
                value = text.parameter(each.cell(number), each.type_oid, each.binary)
                text.replace(start, value)


def _start(item: Node) -> int | None:
    """Where what makes an item up begins; None: it is given."""
    if kind(item) == "SetToDefault":
        found: int = body(item)["location"]
        return found
    while kind(item) == "TypeCast":
        item = body(item)["arg"]
    call = call_of(item)
    return None if call is None else call.start


def _into_rows(text: _Text, values: int, rows: list[Node], new: Seq[Given]) -> None:
    """New items at the beginning of each row."""
    opens = text.tokens.rows(values)
    if len(opens) != len(rows):
        raise Refused("rows that aren't where they should be")
    if not new:
        return
    for number, (at, row) in enumerate(zip(opens, rows, strict=True)):
        numbers = [text.parameter(each.cell(number), each.type_oid, each.binary) for each in new]
        text.put(text.tokens.all[at].end, "".join(f"${each}, " for each in numbers))
        items: list[Any] = body(row)["items"]
        items[:0] = [_ref(each) for each in numbers]


def _select(text: _Text, form: Insert, given: Seq[Given]) -> None:
    tokens = text.tokens
    select = body(_insert_of(text)["selectStmt"])
    origin = body(select["fromClause"][0])
    inner = body(origin["subquery"])
    values = tokens.find(b"values", tokens.find(b"from", _source_at(text, form), 0), 1)
    targets = select["targetList"]
    front = body(targets[0])["location"]
    _into_rows(text, values, inner["valuesLists"], given)
    aliases = [f"{ALIAS}{number}" for number in range(1, len(given) + 1)]
    close = tokens.find(b")", values, 0)
    at = close + 1 + (tokens.all[close + 1].text == b"as")
    text.put(tokens.all[tokens.find(b"(", at, 0)].end, "".join(f"{each}, " for each in aliases))
    names = origin["alias"]["colnames"]
    names[:0] = [_string(each) for each in aliases]
    new: list[Node] = []
    for each, alias in zip(given, aliases, strict=True):
        column: Node = {"ColumnRef": {"fields": [_string(alias)]}}
        if each.place is None:
            new.append({"ResTarget": {"val": column}})
            continue
        start = _start(form.items[0][each.place])
        if start is None:
            raise Refused("what should be replaced isn't there")
        number = text.parameter(None, each.type_oid, each.binary)  # its place, for a moment
        text.replace(start, number)
        for kept in (text.params, text.types, text.formats):
            kept.pop()
        text.edits[-1] = (*text.edits[-1][:2], alias.encode())
        _swap(text.statement, number, column)
    if new:
        listed = [alias for each, alias in zip(given, aliases, strict=True) if each.place is None]
        text.put(front, "".join(f"{alias}, " for alias in listed))
        targets[:0] = new


def _swap(statement: Node, number: int, column: Node) -> None:
    for node in walk(statement):
        if kind(node) == "ParamRef" and body(node) == {"number": number}:
            node.clear()
            node.update(column)
            return


def _unnest(text: _Text, form: Insert, given: Seq[Given]) -> None:
    select = body(_insert_of(text)["selectStmt"])
    call = body(body(body(select["fromClause"][0])["functions"][0])["items"][0])
    at = text.tokens.at(call["location"])
    opens = text.tokens.all[text.tokens.find(b"(", at, text.tokens.all[at].depth)].end
    numbers: list[int] = []
    alike: list[int] = []
    for each in given:
        if each.each:
            alike.append(text.parameter(each.cells[0], each.type_oid, each.binary))
            continue
        if not each.array_oid:
            raise Refused("a type that has no arrays")
        value = array(each.cells, each.type_oid, each.binary)
        numbers.append(text.parameter(value, each.array_oid, each.binary))
    targets = select["targetList"]
    text.put(body(targets[0])["location"], "".join(f"${number}, " for number in alike))
    targets[:0] = [{"ResTarget": {"val": _ref(number)}} for number in alike]
    text.put(opens, "".join(f"${number}, " for number in numbers))
    call["args"][:0] = [_ref(number) for number in numbers]


_FORMS = {"default": _default, "values": _values, "select": _select, "unnest": _unnest}


def array(cells: Seq[bytes | None], type_oid: int, binary: bool) -> bytes:
    """An array of these values (manual 8.15.6; binary: `array_recv`)."""
    if not binary:
        return b"{%s}" % b",".join(_quoted(cell) for cell in cells)
    null = int(any(cell is None for cell in cells))
    head = struct.pack("!iiIii", 1, null, type_oid, len(cells), 1)
    parts = [
        struct.pack("!i", -1) if cell is None else struct.pack("!i", len(cell)) + cell
        for cell in cells
    ]
    return head + b"".join(parts)


def _quoted(cell: bytes | None) -> bytes:
    if cell is None:
        return b"NULL"
    return b'"%s"' % cell.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
