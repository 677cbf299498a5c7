"""One transaction: which of the values that its caller has seen are given back, and how.

A statement is left as it is where its values may not be given back: it makes up others, its result
differs, and the mismatch says why (`Plan.why`).

The transaction's time is one value a block: where the caller has seen it, each statement gets it,
or none does.  Given numbers leave `currval` as it was, so that a block that may read it gets none.
"""

# long: the decision on one transaction, in one piece
from __future__ import annotations

from ..._dataclass import dataclass
from .facts import Facts, Seen, Statement, Table
from .forms import Call, Form, Insert, Refused, Select, call_of, described
from .made import CURRENT_WORDS, TIME_WORDS, Column, Default, Made, default_of, integer, passed
from .rewrite import Given, Rewritten, rewritten, timed
from .tree import Node, Parse, body, kind, strings, uncast, walk

#: the type `timestamp with time zone`
TIMESTAMPTZ = 1184
_TIME_LITERALS = frozenset(("now", "today", "tomorrow", "yesterday"))
_WRITES = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")


@dataclass(frozen=True, slots=True)
class Plan:
    """By the statements' numbers: `instead`, what is sent (None: nothing, its result is known);
    `why`, why it is sent as it is.  `time`: the transaction's, for what comes behind; `timely`: it
    was given back.  `numbers`: of each sequence what was given back; `keys`: of tables and columns
    the values that nobody may have."""

    instead: dict[int, Rewritten | None]
    why: dict[int, str]
    time: Given | None
    timely: bool
    numbers: dict[int, set[int]]
    keys: list[tuple[int, str, tuple[int, ...]]]
    #: sequences whose numbers no table keeps from being given twice
    loose: frozenset[int] = frozenset()
    #: the last statement that gets numbers; -1: none does
    last: int = -1


@dataclass(slots=True)
class _Give:
    """What one statement gets."""

    form: Form
    given: list[Given]
    times: bool
    always: bool
    implied: tuple[str, ...]
    numbers: list[tuple[int, int]]
    keys: list[tuple[int, str, tuple[int, ...]]]


def form_of(statement: Statement) -> Form | str:
    """What it is, or why that isn't known."""
    if statement.trees is None:
        return "the statement isn't understood"
    try:
        return described(statement.trees)
    except Refused as exc:
        return str(exc)


def decide(statements: list[Statement], facts: Facts, parse: Parse) -> Plan:
    """What is given back in this block."""
    return _Block(statements, facts, parse).plan()


def later(statement: Statement, facts: Facts, parse: Parse, time: Given | None) -> Rewritten | None:
    """What is sent for a statement of a block in which the transaction's time was given back;
    None: the statement as it is.  Raises `Refused` where it may tell another time."""
    block = _Block([statement], facts, parse)
    block.time = time
    block.everywhere()
    return block.rewritten(statement, block.gives.get(0), True)


class _Block:
    """The decision under way."""

    def __init__(self, statements: list[Statement], facts: Facts, parse: Parse) -> None:
        self.statements, self.facts, self.parse = statements, facts, parse
        self.forms = [form_of(statement) for statement in statements]
        self.why: dict[int, str] = {}
        self.gives: dict[int, _Give] = {}
        self.time: Given | None = None
        #: of each sequence, and of all (0), the number that was given last
        self.latest: dict[int, int] = {}

    def plan(self) -> Plan:
        for number, statement in enumerate(self.statements):
            form = self.forms[number]
            if statement.seen is None:
                continue
            if isinstance(form, str):
                self.why[number] = form
                continue
            try:
                give = self._give(form, statement, statement.seen)
            except (Refused, ValueError) as exc:
                self.why[number] = str(exc)
                continue
            if give is not None:
                self.gives[number] = give
        self._current()
        timely = self._timely()
        if timely:
            try:
                self.everywhere()
            except Refused as exc:
                self._drop(lambda give: give.times, str(exc))
                timely, self.time = False, None
        return self._made(timely)

    def _drop(self, which: object, why: str) -> None:
        assert callable(which)
        for number, give in list(self.gives.items()):
            if which(give):
                del self.gives[number]
                self.why[number] = why

    # -- one statement

    def _give(self, form: Form, statement: Statement, seen: Seen) -> _Give | None:
        found = self._select(form, statement, seen) if isinstance(form, Select) else None
        if isinstance(form, Insert):
            found = self._insert(form, statement, seen)
        if found is not None:
            for sequence, number in found.numbers:
                self.latest[sequence] = self.latest[0] = number
        return found

    def _select(self, form: Select, statement: Statement, seen: Seen) -> _Give | None:
        if not form.calls:
            return None
        if seen.rows != 1 or len(form.targets) != len(seen.types):
            raise Refused("a result of another shape")
        numbers: list[tuple[int, int]] = []
        for each in form.calls:
            self._own(each)
        for at, call in enumerate(form.targets):
            if call is not None and call.what is Made.SEQUENCE:
                value = integer(seen.cell(0, at) or b"", seen.binary[at])
                numbers += self._number(call, value, statement)
            if call is not None and call.exact and seen.types[at] == TIMESTAMPTZ:
                self._told(seen, at)
        times = any(call.what is Made.TIME for call in form.calls)
        return _Give(form, [], times, False, (), numbers, [])

    def _own(self, call: Call) -> None:
        if call.name in self.facts.shadowed:
            raise Refused(f"{call.name}() isn't the server's own alone")

    def _number(self, call: Call, value: int, statement: Statement) -> list[tuple[int, int]]:
        """What a nextval gave, if it may be given back; what a currval gave, if it stays so."""
        if call.name == "lastval":
            if self.latest.get(0) != value:
                raise Refused("lastval() of a number that isn't given back")
            return []
        sequence = self._sequence(call, statement)
        if call.name == "currval":
            if self.latest.get(sequence) != value:
                raise Refused("currval() of a number that isn't given back")
            return []
        self._free(sequence, value)
        return [(sequence, value)]

    def _sequence(self, call: Call, statement: Statement) -> int:
        name = call.sequence
        if isinstance(name, int):
            value = statement.params[name - 1] if name <= len(statement.params) else None
            if value is None or not statement.texts[name - 1]:
                raise Refused("a sequence whose name isn't a text")
            name = value.decode()
        found = self.facts.sequence_named.get(name)
        if found is None:
            raise Refused(f"no sequence {name}")
        return found

    def _free(self, oid: int, value: int) -> None:
        """Raises unless the sequence will never give this to anybody else."""
        sequence = self.facts.sequences.get(oid)
        if sequence is None:
            raise Refused("a sequence that the catalogue doesn't tell of")
        why = passed(sequence, value) or (self.facts.taken or {}).get(oid, "")
        if not why and not sequence.usable:
            why = f"permission denied for sequence {sequence.name} (42501)"
        if why:
            raise Refused(why)

    # -- INSERT

    def _table(self, form: Insert, oids: set[int]) -> Table:
        table = self.facts.tables.get(next(iter(oids))) if len(oids) == 1 else None
        if table is None or table.name != form.table or (form.schema not in ("", table.schema)):
            raise Refused("a result whose table isn't known")
        if table.kind not in ("r", "p") or table.ruled:
            raise Refused(f"{table.name} is a view, a foreign table, or has rules")
        return table

    def _insert(self, form: Insert, statement: Statement, seen: Seen) -> _Give | None:
        table = self._table(form, {oid for oid in seen.tables if oid})
        names, implied = _names(form, table)
        give = _Give(form, [], False, False, implied, [], [])
        for column in table.columns:
            made = self._made_up(form, column, names, statement)
            if made is None:
                continue
            default, place, call = made
            at = _returned(column, table, seen)
            if at is None:
                continue
            if default.why:
                raise Refused(default.why)
            cells = seen.column(at)
            self._may_be_given(give, table, column)
            if default.what is Made.TIME:
                give.times = True
                if default.exact and seen.types[at] == TIMESTAMPTZ:
                    self._told(seen, at)
            elif default.what is Made.SEQUENCE:
                sequence = self._sequence(call, statement) if call else column.sequence
                known = [integer(cell, seen.binary[at]) for cell in cells if cell is not None]
                self._numbers(give, table, column, sequence, known)
            given = Given(
                *(column.name, cells, seen.types[at]),
                *(self.facts.arrays.get(seen.types[at], 0), seen.binary[at], place),
            )
            give.given.append(given)
        if not give.given:
            return None
        if form.rows is not None and form.rows != seen.rows:
            raise Refused("of its rows only some were inserted, and nobody knows which")
        return give

    def _made_up(
        self, form: Insert, column: Column, names: tuple[str, ...], statement: Statement
    ) -> tuple[Default, int | None, Call | None] | None:
        """What the database makes up for a column, the place of what is to be replaced, and the
        call that makes it up there; None where it is given."""
        if column.generated:
            return None
        known = dict(self.facts.functions)
        if column.name not in names:
            default = default_of(column, known)
            return None if default == Default() else (default, None, None)
        place = names.index(column.name)
        for row in form.items:
            item = uncast(row[place])
            if kind(item) == "SetToDefault":
                default = default_of(column, known)
                return None if default == Default() else (default, place, None)
            call = call_of(item)
            if call is not None:
                self._own(call)
                if call.name in ("currval", "lastval"):
                    raise Refused(f"{call.name}() in an INSERT")
                return Default(call.what, call.exact), place, call
        return None

    @staticmethod
    def _may_be_given(give: _Give, table: Table, column: Column) -> None:
        assert isinstance(give.form, Insert)
        _not_in_conflict(give.form, column.name)
        if not column.insertable:
            raise Refused(f"permission denied to write {table.name}.{column.name} (42501)")
        give.always |= column.identity == "a"

    def _numbers(
        self, give: _Give, table: Table, column: Column, sequence: int, values: list[int]
    ) -> None:
        """Numbers of a sequence for one column: has it passed them, and who would have them?"""
        assert isinstance(give.form, Insert)
        for value in values:
            self._free(sequence, value)
            give.numbers.append((sequence, value))
        if not column.unique:
            raise Refused(f"no unique index tells who has {table.name}.{column.name}")
        if column.leads and not give.form.updates:
            give.keys.append((table.oid, column.name, tuple(values)))

    # -- what a block may read by itself

    def _current(self) -> None:
        """Given numbers leave currval and lastval as they were."""
        if not any(give.numbers for give in self.gives.values()):
            return
        why = self.facts.current
        for number, statement in enumerate(self.statements):
            answered = number in self.gives and isinstance(self.forms[number], Select)
            if not answered and CURRENT_WORDS.search(statement.query.decode("utf-8", "replace")):
                why = why or "a statement"
        if why:
            reason = f"{why} may read currval or lastval, which numbers given back don't set"
            self._drop(lambda give: bool(give.numbers) or _reads_current(give.form), reason)

    # -- the transaction's time

    def _told(self, seen: Seen, at: int) -> None:
        """The transaction's time, as the caller has seen it."""
        value = seen.cell(0, at)
        if value is not None:
            self.time = self.time or Given("", (value,), TIMESTAMPTZ, 0, seen.binary[at])

    def _timely(self) -> bool:
        """Has the caller seen it?"""
        seen = any(give.times for give in self.gives.values())
        for number, statement in enumerate(self.statements):
            if statement.seen is not None and statement.trees:
                seen |= self._set_and_returned(number, statement, statement.seen)
        return seen

    def _set_and_returned(self, number: int, statement: Statement, seen: Seen) -> bool:
        """Does it set a column to the time, and return it?  (UPDATE, ON CONFLICT DO UPDATE)"""
        assert statement.trees is not None
        tree = body(statement.trees[0]["stmt"]) if len(statement.trees) == 1 else {}
        targets = [*tree.get("onConflictClause", {}).get("targetList", [])]
        if len(statement.trees) == 1 and kind(statement.trees[0]["stmt"]) == "UpdateStmt":
            targets += tree.get("targetList", [])
        found = False
        for target in targets:
            call = call_of(uncast(body(target).get("val", {})))
            if call is None or call.what is not Made.TIME:
                continue
            for at, (oid, column) in enumerate(zip(seen.tables, seen.columns, strict=True)):
                table = self.facts.tables.get(oid)
                names = {each.number: each.name for each in table.columns} if table else {}
                if names.get(column) == body(target)["name"]:
                    found = True
                    if call.exact and seen.types[at] == TIMESTAMPTZ:
                        self._told(seen, at)
        return found

    def everywhere(self) -> None:
        """The time for each statement that would tell it.  Raises `Refused` where it can't be."""
        if self.facts.time:
            raise Refused(f"{self.facts.time} may tell the transaction's time, which is seen")
        for number, statement in enumerate(self.statements):
            form = self.forms[number]
            if isinstance(form, Select) and number in self.gives:
                continue
            if statement.trees is None:
                _no_words(statement)
                continue
            give = self.gives.get(number)
            if isinstance(form, Insert):
                self._insert_time(number, form, statement)
                give = self.gives.get(number)
            elif statement.trees and kind(statement.trees[0]["stmt"]) == "InsertStmt":
                raise Refused("an INSERT that isn't understood may tell the transaction's time")
            self._calls(statement, give)

    def _insert_time(self, number: int, form: Insert, statement: Statement) -> None:
        """Defaults that are the time, and aren't returned."""
        give = self.gives.get(number)
        oids = {oid for oid in statement.seen.tables if oid} if statement.seen else set()
        oid = self.facts.named.get((form.schema, form.table))
        table = self._table(form, oids or ({oid} if oid else set()))
        names, implied = _names(form, table)
        held = {each.column for each in give.given} if give else set()
        for column in table.columns:
            made = self._made_up(form, column, names, statement)
            if made is None or column.name in held:
                continue
            default, place, _ = made
            if default.why:
                raise Refused(default.why)
            if default.what is not Made.TIME:
                continue
            if not default.exact or self.time is None or not column.insertable:
                raise Refused(f"the default of {column.name!r} tells the transaction's time")
            _not_in_conflict(form, column.name)
            cells, binary = self.time.cells, self.time.binary
            given = Given(column.name, cells, TIMESTAMPTZ, 0, binary, place, each=True)
            if give is None:
                give = self.gives[number] = _Give(form, [], True, False, implied, [], [])
            give.times = True
            give.given.append(given)

    def _calls(self, statement: Statement, give: _Give | None) -> None:
        """All that a statement's tree shows of it."""
        tree = statement.trees
        assert tree is not None
        written = bool(tree) and kind(tree[0]["stmt"]) in _WRITES
        replaced = _replaced(give)
        for node in walk(tree):
            if kind(node) == "A_Const" and "sval" in body(node):
                if body(node)["sval"].get("sval", "").strip().lower() in _TIME_LITERALS:
                    raise Refused("a literal that tells the transaction's time")
            elif kind(node) == "SetToDefault" and written and give is None:
                if kind(tree[0]["stmt"]) != "InsertStmt":
                    raise Refused("a DEFAULT that may be the transaction's time")
            elif kind(node) in ("FuncCall", "SQLValueFunction"):
                call = call_of(node)
                if call is None or call.what is not Made.TIME or call.start in replaced:
                    continue
                self._own(call)
                if not call.exact or self.time is None or len(tree) != 1:
                    raise Refused(f"{call.name} tells the transaction's time, which is seen")

    # -- the whole

    def _made(self, timely: bool) -> Plan:
        instead: dict[int, Rewritten | None] = {}
        numbers: dict[int, set[int]] = {}
        keys: list[tuple[int, str, tuple[int, ...]]] = []
        for number, statement in enumerate(self.statements):
            give = self.gives.get(number)
            try:
                made = self.rewritten(statement, give, timely)
            except Refused as exc:
                self.why[number] = str(exc)
                if timely:  # everywhere, or nowhere
                    self._drop(lambda give: give.times, str(exc))
                    self.time = None
                    return self._made(False)
                continue
            if made is not None or (give is not None and isinstance(give.form, Select)):
                instead[number] = made
            if give is not None:
                for sequence, value in give.numbers:
                    numbers.setdefault(sequence, set()).add(value)
                keys += give.keys
        loose = {
            sequence
            for give in self.gives.values()
            if isinstance(give.form, Select)
            for sequence, _ in give.numbers
        }
        time = self.time if timely else None
        last = max((at for at, give in self.gives.items() if give.numbers), default=-1)
        return Plan(instead, self.why, time, timely, numbers, keys, frozenset(loose), last)

    def rewritten(self, statement: Statement, give: _Give | None, timely: bool) -> Rewritten | None:
        if give is not None and isinstance(give.form, Select):
            return None
        trees, first = statement.trees, len(statement.params)
        time = self.time if timely else None
        if give is not None and trees is not None:
            assert isinstance(give.form, Insert)
            return rewritten(
                *(statement.query, give.form, give.given, self.parse),
                first=first,
                implied=give.implied,
                always=give.always,
                time=time,
            )
        if time is None or not trees or len(trees) != 1 or not _exact_calls(trees[0]["stmt"]):
            return None
        return timed(statement.query, trees[0]["stmt"], first, time, self.parse)


def _reads_current(form: Form) -> bool:
    if not isinstance(form, Select):
        return False
    return any(call.name in ("currval", "lastval") for call in form.calls)


def _exact_calls(tree: Node) -> bool:
    nodes = (node for node in walk(tree) if kind(node) in ("FuncCall", "SQLValueFunction"))
    return any((call := call_of(node)) is not None and call.exact for node in nodes)


def _no_words(statement: Statement) -> None:
    if TIME_WORDS.search(statement.query.decode("utf-8", "replace")):
        raise Refused("a statement that isn't understood may tell the transaction's time")


def _replaced(give: _Give | None) -> set[int]:
    """Where the calls begin that values stand for."""
    if give is None or not isinstance(give.form, Insert):
        return set()
    places = {each.place for each in give.given if each.place is not None}
    calls = [call_of(uncast(row[at])) for row in give.form.items for at in places]
    return {call.start for call in calls if call is not None}


def _names(form: Insert, table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that it gives, and those that it means without naming them."""
    if form.columns is not None:
        return form.columns, ()
    width = len(form.items[0]) if form.items else 0
    if any(len(row) != width for row in form.items) or width > len(table.columns):
        raise Refused("rows of several lengths")
    implied = tuple(column.name for column in table.columns[:width])
    return implied, implied


def _returned(column: Column, table: Table, seen: Seen) -> int | None:
    """Where in the result it is."""
    for at, (oid, number) in enumerate(zip(seen.tables, seen.columns, strict=True)):
        if oid == table.oid and number == column.number:
            return at
    return None


def _not_in_conflict(form: Insert, column: str) -> None:
    """Raises where ON CONFLICT looks at a value that wasn't there before it was seen."""
    if not form.updates:
        return
    clause = form.tree["onConflictClause"]
    infer = clause.get("infer", {})
    if "conname" in infer:
        raise Refused("ON CONFLICT ON CONSTRAINT, whose columns aren't seen")
    for node in walk(infer):
        fields = node.get("fields")
        name = strings(fields)[-1] if fields else node.get("name")
        if name == column:
            raise Refused(f"ON CONFLICT ({column}), which would be given back")
    for node in walk([clause.get("targetList", []), clause.get("whereClause", {})]):
        fields = strings(node.get("fields", []))
        if len(fields) == 2 and fields[0] == "excluded" and fields[1] in (column, ""):
            raise Refused(f"ON CONFLICT DO UPDATE with excluded.{column}")
