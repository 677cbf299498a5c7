"""A transaction is done again: its caller keeps the values that the database made up.

Asked on the new session before the transaction begins there; what may be given back, and how, is
`core.keep`'s to decide.  Nothing of this runs, or is imported, before a replay; and where it can't
tell, the statements are sent as they were, and a mismatch says why.
"""

# long: one transaction's questions, in one piece
from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq
from psycopg.pq.abc import PGresult

from ..._logs import Line
from ...core.keep.block import Plan, decide, form_of, later
from ...core.keep.facts import Facts, Seen, Statement, Table
from ...core.keep.forms import Insert, Refused, Select, call_of
from ...core.keep.made import CURRENT_WORDS, Made, Sequence
from ...core.keep.proof import Sure, sure
from ...core.keep.rewrite import Rewritten
from ...core.keep.tree import Parse, uncast
from ...core.outcome import Mark
from ...core.reach import names_of
from .._psycopg import PostgresClientQuery
from ..commit.facts import flushed_of
from ..errors import TransactionReplayMismatch
from . import keep_questions as ask
from .entry import Entry
from .parser import MISSING, parser
from .statements import traits

if TYPE_CHECKING:
    from ..session.host import Gen
    from .judge import Judge

logger = logging.getLogger("resilient.failover")

#: those who may have taken a number from the new primary, and not used it yet, are waited for so
#: long, in seconds: where a table's key tells afterwards, and where nothing does
SETTLE_S, SETTLE_LOOSE_S, SETTLE_PAUSE_S = 0.03, 1.0, 0.01
#: a sequence that is further behind stays so
MOST_DRAWN, FAR = 10_000, 2**63
#: a statement that may have given what a database makes up
_MAKES = re.compile(
    rb"\breturning\b|\b(?:nextval|currval|lastval|now|clock_timestamp|statement_timestamp"
    rb"|transaction_timestamp|timeofday|current_(?:timestamp|date|time)|local(?:time|timestamp)"
    rb"|random|gen_random_uuid|uuidv4|uuidv7|uuid_generate_v\w+|gen_random_bytes)\b",
    re.I,
)
_TUPLES = pq.ExecStatus.TUPLES_OK
_TEXT = pq.Format.TEXT
_BINARY = pq.Format.BINARY


class Kept:
    """What is given back in one transaction.  `mark`: its position on the server before, behind
    the statement with the number `marked`."""

    def __init__(self, mark: Mark | None = None, marked: int = -1) -> None:
        self.mark, self.marked = mark, marked
        self.why: dict[int, str] = {}
        self.instead: dict[int, Entry | None] = {}
        self.plan: Plan | None = None

    def entry(self, entry: Entry) -> Entry | None:
        """What is sent for a statement; None: nothing, its result stays."""
        return self.instead.get(id(entry), entry)

    def reason(self, entry: Entry) -> str:
        """Why what it made up wasn't given back, for the mismatch."""
        why = self.why.get(id(entry))
        return f"; not given back: {why}" if why else ""

    def use(self, plan: Plan, entries: list[Entry]) -> None:
        for number, made in plan.instead.items():
            entry = entries[number]
            self.instead[id(entry)] = None if made is None else with_values(entry, made)
        self.why = {id(entries[number]): why for number, why in plan.why.items()}
        self.plan = plan


def kept(
    judge: Judge, mark: Mark | None, pause: Callable[[float], Gen]
) -> Generator[Any, Any, Kept]:
    """What of the transaction is given back on the connection's new, idle session."""
    journal = judge.journal
    before = journal.kept
    found = Kept(mark, journal.marked)
    if mark is None and before is not None:  # a replay that was lost itself
        found = Kept(before.mark, before.marked)
    entries = journal.entries
    makes = [entry for entry in entries if _MAKES.search(entry.query)]
    if not any(_seen(entry) for entry in makes):
        return found
    parse = parser()
    if parse is None:
        found.why = {id(entry): MISSING for entry in makes}
        return found
    try:
        plan = yield from _Questions(judge, entries, found, parse, pause).plan()
    except ask.Unanswered as exc:
        logger.warning("%s", Line(step="kept", reason=str(exc), **judge.pool.labels))
        found.why = {id(entry): f"the catalogue wasn't to be asked: {exc}" for entry in makes}
        return found
    found.use(plan, entries)
    if found.instead:
        count = len(found.instead)
        logger.info("%s", Line(step="kept", statements=count, **judge.pool.labels))
    return found


def with_values(entry: Entry, made: Rewritten) -> Entry:
    """The statement with more parameters."""
    old = list(entry.params or [])
    types = list(entry.types or [0] * len(old))
    formats = list(entry.formats or [_TEXT] * len(old))
    return Entry(
        made.query,
        [*old, *made.params],
        [*types, *made.types],
        [*formats, *map(pq.Format, made.formats)],
        entry.fmt,
    )


def _seen(entry: Entry) -> Seen | None:
    """The rows that a caller has of it."""
    results = entry.results
    if entry.waiting or results is None or len(results) != 1:
        return None
    result = results[0]
    if result.status != _TUPLES or not result.ntuples:
        return None
    return _of(result)


def _of(result: PGresult) -> Seen:
    columns = range(result.nfields)
    return Seen(
        result.ntuples,
        tuple(result.ftable(at) for at in columns),
        tuple(result.ftablecol(at) for at in columns),
        tuple(result.ftype(at) for at in columns),
        tuple(result.fformat(at) == _BINARY for at in columns),
        result.get_value,
    )


def statement_of(entry: Entry, parse: Parse) -> Statement:
    """A recorded statement, read."""
    params = tuple(entry.params or ())
    formats = entry.formats or [_TEXT] * len(params)
    texts = tuple(each == _TEXT for each in formats)
    return Statement(entry.query, _trees(entry.query, parse), _seen(entry), params, texts)


def _trees(query: bytes, parse: Parse) -> Any:
    try:
        return parse(query.decode())
    except ValueError:
        return None


def behind(judge: Judge, pgq: Any) -> Gen:
    """A statement comes after values were given back: it gets the transaction's time as those
    before it, in place.  Raises `TransactionReplayMismatch` where it may tell another, or what a
    sequence gave last."""
    plan: Plan | None = judge.journal.kept.plan
    if plan is None or not (plan.timely or plan.numbers) or not judge.wire.in_block:
        return
    try:
        if plan.numbers and CURRENT_WORDS.search(pgq.query.decode("utf-8", "replace")):
            raise Refused("numbers that were given back don't set currval and lastval")
        if plan.timely and (parse := parser()) is not None:
            yield from _timed(judge, pgq, plan, parse)
    except e.OperationalError:
        if not judge.wire.lost:
            raise  # the statement will find the session gone
    except (Refused, ask.Unanswered) as exc:
        judge.wire.pgconn.finish()
        judge.give_up()
        raise TransactionReplayMismatch(
            "the transaction was done again, and values that its caller had seen were given back:"
            f" {exc} ({Entry(pgq.query).shown})"
        ) from None


def _timed(judge: Judge, pgq: Any, plan: Plan, parse: Parse) -> Gen:
    """Puts the transaction's time into psycopg's query."""
    if traits(pgq.query).plain:
        return
    entry = Entry(pgq.query, pgq.params, pgq.types, pgq.formats)
    asked = _Questions(judge, [entry], Kept(), parse)
    made = later(asked.statements[0], (yield from asked.facts()), parse, plan)
    if made is None:
        return
    if isinstance(pgq, PostgresClientQuery):
        raise Refused("a cursor that merges its parameters would tell another time")
    other = with_values(entry, made)
    pgq.query, pgq.params = other.query, other.params
    pgq.types, pgq.formats = tuple(other.types), other.formats


class _Questions:
    """One transaction's questions to the new primary."""

    def __init__(
        self,
        judge: Judge,
        entries: list[Entry],
        kept: Kept,
        parse: Parse,
        pause: Callable[[float], Gen] | None = None,
    ) -> None:
        self.wire, self.pgconn = judge.wire, judge.wire.pgconn
        self.parse, self.pause = parse, pause
        self.mark, self.marked = kept.mark, kept.marked
        #: of sequences that were behind: the numbers that are ours now
        self.drawn: dict[int, set[int]] = {}
        self.behind: dict[int, set[int]] = {}
        self.entries = entries
        self.statements = [statement_of(entry, parse) for entry in entries]
        self.forms = [form_of(statement) for statement in self.statements]

    def plan(self) -> Gen:
        self._not_elsewhere()
        facts = yield from self._within(b"READ ONLY", self.facts())
        hoped = decide(self.statements, _hopeful(facts), self.parse)
        for oid, values in hoped.numbers.items():
            if any(map(facts.sequences[oid].behind, values)):
                # Rolled back, which waits for no standby: numbers are drawn for good.
                draw = self._draw(facts.sequences[oid], values)
                yield from self._within(b"READ WRITE", draw)
        if self.drawn:
            sequences = ask.sequences(self.pgconn, set(facts.sequences))
            known = yield from self._within(b"READ ONLY", sequences)
            facts = replace(facts, sequences=known)
        plan = decide(self.statements, facts, self.parse)
        refused = yield from self._within(b"READ ONLY", self._taken(plan, facts))
        if refused:
            plan = decide(self.statements, replace(facts, taken=refused), self.parse)
        return plan

    def _within(self, mode: bytes, questions: Gen) -> Gen:
        """Questions, in a transaction that is none of the caller's."""
        for step in (b"BEGIN ISOLATION LEVEL READ COMMITTED " + mode, b"SET LOCAL jit = off"):
            yield from ask.rows(self.pgconn, step)
        try:
            return (yield from questions)
        finally:
            if self.pgconn.status != pq.ConnStatus.BAD:
                yield from ask.rows(self.pgconn, b"ROLLBACK")

    def _draw(self, sequence: Sequence, values: set[int]) -> Gen:
        """A failover has thrown the sequence back: what it would give again is drawn from it, so
        that nobody else gets it.  (`setval` would throw back whoever was quicker.)"""
        far = max(values) if sequence.increment > 0 else min(values)
        self.behind[sequence.oid] = {value for value in values if sequence.behind(value)}
        drawn: set[int] = set()
        while sequence.usable and len(drawn) < MOST_DRAWN and (steps := sequence.steps(far)):
            if steps > MOST_DRAWN:
                break
            numbers = yield from ask.drawn(self.pgconn, sequence.oid, steps)
            drawn.update(numbers)
            sequence = replace(sequence, last=numbers[-1])
        if drawn:
            self.drawn[sequence.oid] = drawn

    def _not_elsewhere(self) -> None:
        """OIDs are those of a copy: another cluster has others."""
        mark, now = self.mark, self.wire.facts
        there, here = mark and mark.incarnation.system_id, now and now.incarnation.system_id
        if there and here and there != here:
            raise ask.Unanswered("the new primary is another cluster")

    # -- facts

    def facts(self) -> Gen:
        pgconn = self.pgconn
        seen = [each.seen for each in self.statements if each.seen is not None]
        wanted = {(form.schema, form.table) for form in self.forms if isinstance(form, Insert)}
        sequences = self._sequence_names()
        texts = {_dotted(*name): name for name in wanted}
        oids = yield from self._named({*texts, *sequences})
        named = {texts[text]: oid for text, oid in oids.items() if text in texts}
        numbers = {text: oid for text, oid in oids.items() if text in sequences}
        all_oids = {oid for each in seen for oid in each.tables if oid} | set(named.values())
        tables = yield from ask.tables(pgconn, all_oids)
        functions = yield from ask.functions(pgconn, ask.functions_of(tables))
        types = {oid for each in seen for oid in each.types}
        arrays = yield from ask.rows(pgconn, ask.ARRAYS, ask.numbers(types))
        shadowed = yield from ask.rows(pgconn, ask.SHADOWED, ask.texts(_CALLED))
        used = {column.sequence for table in tables.values() for column in table.columns}
        found = yield from ask.sequences(pgconn, {*used, *numbers.values()} - {0})
        words = frozenset(
            word
            for entry in self.entries
            if not traits(entry.query).plain
            for word in names_of(entry.query).words
        )
        time_told, current = yield from ask.mentions(pgconn, words)
        return Facts(
            *(tables, functions, found, numbers),
            {int(row[0]): int(row[1]) for row in arrays},
            named,
            frozenset(row[0] for row in shadowed),
            *(time_told, current),
        )

    def _sequence_names(self) -> set[str]:
        """The texts by which calls name sequences."""
        found: set[str] = set()
        for statement, form in zip(self.statements, self.forms, strict=True):
            if isinstance(form, str) or statement.seen is None:
                continue
            for name in sequences_of(form):
                if isinstance(name, str):
                    found.add(name)
                elif name <= len(statement.params) and statement.texts[name - 1]:
                    found.add((statement.params[name - 1] or b"").decode("utf-8", "replace"))
        return found - {""}

    def _named(self, names: set[str]) -> Gen:
        if not names:
            return {}
        found = yield from ask.rows(self.pgconn, ask.NAMED, ask.texts(names))
        return {row[0]: int(row[1]) for row in found}

    # -- may somebody else have a number?

    def _taken(self, plan: Plan, facts: Facts) -> Gen:
        """Of sequences whose numbers may be somebody's: why."""
        certain = self._certain()
        clear = certain is Sure.ALL or (certain is Sure.MARKED and plan.last <= self.marked)
        theirs = plan.numbers.items()
        others = {oid for oid, values in theirs if values - self.drawn.get(oid, set())}
        unsure = set() if clear else others
        refused: dict[int, str] = {
            oid: "the failover has lost what this transaction had written, and sequence"
            f" {facts.sequences[oid].name} may have given it again"
            for oid in unsure & plan.loose
            if certain is Sure.LOST
        }
        refused |= {
            oid: f"sequence {facts.sequences[oid].name} may have given it to a session that keeps"
            " several (CACHE)"
            for oid in unsure
            if facts.sequences[oid].cache > 1
        }
        for oid in set(self.drawn) & set(plan.numbers):
            behind = self.behind.get(oid, set()) - self.drawn[oid]
            if behind:
                refused[oid] = f"somebody has drawn it from sequence {facts.sequences[oid].name}"
        refused |= yield from self._settled(unsure - set(refused), plan.loose, facts)
        for oid, column, values in plan.keys:
            table: Table = facts.tables[oid]
            if values and (yield from ask.taken(self.pgconn, table, column, values)):
                sequences = {each.sequence for each in table.columns if each.name == column}
                known = sequences & set(plan.numbers) or set(plan.numbers)
                why = f"somebody has the key in {table.name}.{column}"
                refused |= dict.fromkeys(known, why)
        return refused

    def _certain(self) -> Sure:
        """Had the sequences passed the numbers before anybody could use the new primary?"""
        seen = self.wire.facts
        if seen is None or self.mark is None:
            return Sure.NONE
        flushed = flushed_of(self.mark.incarnation)
        return sure(self.mark, seen.incarnation, seen.received, flushed)

    def _settled(self, oids: set[int], loose: frozenset[int], facts: Facts) -> Gen:
        """Waits for the transactions that may have taken numbers from the new primary.  Who has
        written one into a table by then keeps it: the key is taken, or waited for."""
        until = time.monotonic() + (SETTLE_LOOSE_S if oids & loose else SETTLE_S)
        first: set[tuple[str, str]] | None = None
        while oids:
            found = yield from ask.rows(self.pgconn, ask.TAKERS, ask.numbers(oids))
            now = {(row[0], row[1]) for row in found}
            first = now if first is None else first & now
            if not first:
                break
            if time.monotonic() >= until:
                why = "another transaction may have taken it from sequence {}"
                held = {int(oid) for oid, _ in first} & loose
                return {oid: why.format(facts.sequences[oid].name) for oid in held}
            if self.pause is not None:
                yield from self.pause(SETTLE_PAUSE_S)
        return {}


#: names of functions that a user's own must not bear
_CALLED = (
    *("now", "transaction_timestamp", "age", "clock_timestamp", "statement_timestamp"),
    *("timeofday", "random", "gen_random_uuid", "uuidv4", "uuidv7", "uuid_generate_v1"),
    *("uuid_generate_v1mc", "uuid_generate_v4", "gen_random_bytes", "nextval", "currval"),
    *("lastval", "timezone", "date_trunc", "extract", "date_part", "to_char"),
)


def sequences_of(form: Insert | Select) -> list[str | int]:
    """What the calls for numbers in a statement name."""
    if isinstance(form, Select):
        return [call.sequence for call in form.calls if call.what is Made.SEQUENCE]
    calls = [call_of(uncast(item)) for row in form.items for item in row]
    return [call.sequence for call in calls if call is not None and call.what is Made.SEQUENCE]


def _hopeful(facts: Facts) -> Facts:
    """As if no sequence were behind: what would be given back then?"""
    sequences = {
        oid: replace(each, last=FAR if each.increment > 0 else -FAR)
        for oid, each in facts.sequences.items()
    }
    return replace(facts, sequences=sequences)


def _dotted(schema: str, table: str) -> str:
    return ".".join(ask.quoted(name) for name in (schema, table) if name)
