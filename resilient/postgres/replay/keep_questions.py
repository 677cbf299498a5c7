"""What a new primary is asked before values that a caller has seen are given back to it.

All questions are of the catalogue, and unprivileged.  OIDs of tables are as they were: a standby
is a copy of its primary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn

from ...core.keep.facts import Table
from ...core.keep.made import (
    CURRENT_WORDS,
    EXTENSIONS,
    TIME_WORDS,
    Column,
    Function,
)
from ...core.keep.made import Sequence as Numbers
from ...core.reach import body_names, runs_texts

TABLES = b"""\
SELECT c.oid, n.nspname, c.relname, c.relkind,
 EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '3'),
 a.attnum, a.attname, a.attidentity, a.attgenerated <> '',
 CASE WHEN a.attgenerated = '' THEN d.adbin::text END,
 coalesce(
  (SELECT x.refobjid FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_class s ON s.oid = x.refobjid
   WHERE x.classid = 'pg_catalog.pg_attrdef'::regclass AND x.objid = d.oid
   AND x.refclassid = 'pg_catalog.pg_class'::regclass AND s.relkind = 'S' LIMIT 1),
  (SELECT x.objid FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_class s ON s.oid = x.objid
   WHERE x.classid = 'pg_catalog.pg_class'::regclass AND x.refobjid = c.oid
   AND x.refclassid = 'pg_catalog.pg_class'::regclass AND x.refobjsubid = a.attnum
   AND x.deptype = 'i' AND s.relkind = 'S' LIMIT 1), 0),
 pg_catalog.has_column_privilege(c.oid, a.attnum, 'INSERT'),
 EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique
  AND i.indisvalid AND i.indpred IS NULL AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])),
 pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
 AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
  AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.oid = ANY ($1::oid[]) ORDER BY c.oid, a.attnum"""

ARRAYS = b"""\
SELECT oid, typarray FROM pg_catalog.pg_type WHERE oid = ANY ($1::oid[]) AND typarray <> 0"""

_EXTENSION = """\
LEFT JOIN pg_catalog.pg_depend x ON x.classid = 'pg_catalog.pg_proc'::regclass
 AND x.objid = p.oid AND x.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid"""
_OWN = "(p.oid < 16384 OR coalesce(e.extname IN ({}), false))".format(
    ", ".join(f"'{name}'" for name in sorted(EXTENSIONS))
)
FUNCTIONS = b"""\
SELECT p.oid, p.proname, OWN, p.provolatile = 'v'
FROM pg_catalog.pg_proc p EXTENSION WHERE p.oid = ANY ($1::oid[])"""
SHADOWED = b"""\
SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p EXTENSION
WHERE p.proname = ANY ($1::text[]) AND NOT OWN"""
FUNCTIONS, SHADOWED = (
    query.replace(b"OWN", _OWN.encode()).replace(b"EXTENSION", _EXTENSION.encode())
    for query in (FUNCTIONS, SHADOWED)
)

NAMED = b"""\
SELECT n, pg_catalog.to_regclass(n)::oid FROM pg_catalog.unnest($1::text[]) n
WHERE pg_catalog.to_regclass(n) IS NOT NULL"""

#: a sequence that has given nothing has no last value
SEQUENCES = b"""\
SELECT s.seqrelid, c.relname,
 CASE WHEN may THEN pg_catalog.pg_sequence_last_value(s.seqrelid) END,
 s.seqincrement, s.seqcache, s.seqcycle, may,
 pg_catalog.has_sequence_privilege(s.seqrelid, 'USAGE, UPDATE')
FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid,
LATERAL (SELECT pg_catalog.has_sequence_privilege(s.seqrelid, 'USAGE, SELECT') OFFSET 0) m (may)
WHERE s.seqrelid = ANY ($1::oid[])"""

#: transactions that have taken numbers, and aren't over
TAKERS = b"""\
SELECT relation, pg_catalog.concat(virtualtransaction, ' ', pid) FROM pg_catalog.pg_locks
WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
AND database = (SELECT oid FROM pg_catalog.pg_database
 WHERE datname = pg_catalog.current_database())
AND relation = ANY ($1::oid[]) AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid()"""

#: $1: names, $2: what triggers fire on (`pg_trigger.tgtype`), $3: defaults count too
SOURCES = b"""\
WITH RECURSIVE rel (oid) AS (
 SELECT oid FROM pg_catalog.pg_class WHERE relname = ANY ($1::text[])
 AND relkind IN ('r', 'p', 'v', 'm', 'f') AND oid >= 16384
 UNION SELECT found.oid FROM rel, LATERAL (
  SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = rel.oid
  UNION ALL SELECT conrelid FROM pg_catalog.pg_constraint
   WHERE confrelid = rel.oid AND $2::int & 24 <> 0) found (oid))
SELECT 'function', p.proname, pg_catalog.concat(p.prosrc, ' ',
 pg_catalog.regexp_replace(pg_catalog.pg_get_triggerdef(t.oid), 'EXECUTE.*', '')),
 l.lanname IN ('c', 'internal') AND p.oid >= 16384
FROM pg_catalog.pg_trigger t JOIN rel ON rel.oid = t.tgrelid
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE NOT t.tgisinternal AND t.tgtype & $2::int <> 0
UNION ALL SELECT 'function', p.proname, coalesce(nullif(p.prosrc, ''), SQLBODY), false
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.proname = ANY ($1::text[]) AND p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal')
UNION ALL SELECT 'view', c.relname, pg_catalog.pg_get_ruledef(r.oid), false
FROM pg_catalog.pg_rewrite r JOIN rel ON rel.oid = r.ev_class
JOIN pg_catalog.pg_class c ON c.oid = rel.oid
UNION ALL SELECT 'policy', p.polname, pg_catalog.concat(
 pg_catalog.pg_get_expr(p.polqual, p.polrelid), ' ',
 pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)), false
FROM pg_catalog.pg_policy p JOIN rel ON rel.oid = p.polrelid
UNION ALL SELECT 'default of', c.relname, pg_catalog.pg_get_expr(d.adbin, d.adrelid), false
FROM pg_catalog.pg_attrdef d JOIN rel ON rel.oid = d.adrelid
JOIN pg_catalog.pg_class c ON c.oid = rel.oid WHERE $3::bool
LIMIT 500"""
MOST_SOURCES = 500

#: bodies of functions are followed so deep
MOST_ROUNDS = 8
_KINDS = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
_FUNCTION_ID = re.compile(r":(?:funcid|opfuncid) (\d+)")

Rows = list[list[Any]]


class Unanswered(Exception):
    """The server doesn't answer a question; nothing is given back then."""


def rows(pgconn: PGconn, query: bytes, *params: bytes) -> PQGen[Rows]:
    """The rows of a question.  Raises `Unanswered`, or `OperationalError` where the connection is
    lost."""
    pgconn.send_query_params(query, list(params) or None)
    results = yield from generators.execute(pgconn)
    if pgconn.status == pq.ConnStatus.BAD or not results:
        raise e.OperationalError("the connection was lost")
    (result,) = results
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise Unanswered((result.error_message or b"").decode("utf-8", "replace").strip())
    cells = range(result.nfields)
    values = [[result.get_value(row, col) for col in cells] for row in range(result.ntuples)]
    return [[None if v is None else v.decode("utf-8", "replace") for v in row] for row in values]


def numbers(values: Iterable[int]) -> bytes:
    """An array literal of numbers."""
    return b"{%s}" % b",".join(b"%d" % value for value in sorted(values))


def texts(values: Iterable[str]) -> bytes:
    """An array literal of texts (manual 8.15.6)."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in sorted(values))
    return "{{{}}}".format(",".join(f'"{value}"' for value in quoted)).encode()


def tables(pgconn: PGconn, oids: Iterable[int]) -> PQGen[dict[int, Table]]:
    """These tables with their columns."""
    found = yield from rows(pgconn, TABLES, numbers(oids))
    heads: dict[int, tuple[str, str, str, bool]] = {}
    made: dict[int, list[Column]] = {}
    for row in found:
        oid, schema, name, kind, ruled, number, column, identity, generated, tree, *rest = row
        sequence, insertable, unique, leads = rest
        heads[int(oid)] = schema, name, kind, ruled == "t"
        made.setdefault(int(oid), []).append(
            Column(
                *(int(number), column, identity.strip("\0"), generated == "t", tree or ""),
                *(int(sequence), insertable == "t", unique == "t", leads == "t"),
            )
        )
    return {oid: Table(oid, *heads[oid], tuple(columns)) for oid, columns in made.items()}


def functions_of(known: Mapping[int, Table]) -> set[int]:
    """The functions that defaults call."""
    return {
        int(oid)
        for table in known.values()
        for column in table.columns
        for oid in _FUNCTION_ID.findall(column.tree)
    }


def functions(pgconn: PGconn, oids: Iterable[int]) -> PQGen[dict[int, Function]]:
    found = yield from rows(pgconn, FUNCTIONS, numbers(oids))
    return {
        int(oid): Function(int(oid), name, own == "t", volatile == "t")
        for oid, name, own, volatile in found
    }


def sequences(pgconn: PGconn, oids: Iterable[int]) -> PQGen[dict[int, Numbers]]:
    found = yield from rows(pgconn, SEQUENCES, numbers(oids))
    return {
        int(oid): Numbers(
            *(int(oid), name, None if last is None else int(last), int(increment), int(cache)),
            cycles == "t",
            may == "t",
            use == "t",
        )
        for oid, name, last, increment, cache, cycles, may, use in found
    }


def taken(pgconn: PGconn, table: Table, column: str, values: Sequence[int]) -> PQGen[bool]:
    """Has anybody one of these keys?"""
    schema, name, key = (quoted(each) for each in (table.schema, table.name, column))
    query = "SELECT 1 FROM {}.{} WHERE {} = ANY ($1::bigint[]) LIMIT 1"
    found = yield from rows(pgconn, query.format(schema, name, key).encode(), numbers(values))
    return bool(found)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def mentions(pgconn: PGconn, words: frozenset[str]) -> PQGen[tuple[str, str]]:
    """(what tells the transaction's time, what a sequence's last value), of all that statements
    with these words reach by themselves: triggers, functions, views, policies, and what those
    reach.  Empty: nothing does."""
    body = b"''"
    if pgconn.server_version >= 140000:
        body = b"pg_catalog.pg_get_function_sqlbody(p.oid)"
    query = SOURCES.replace(b"SQLBODY", body)
    time = current = ""
    known: set[str] = set()
    for number in range(MOST_ROUNDS):
        kinds = sum(bit for word, bit in _KINDS.items() if word in words | known)
        deeper = b"t" if number else b"f"
        found = yield from rows(pgconn, query, texts(words), b"%d" % kinds, deeper)
        if len(found) >= MOST_SOURCES:
            break
        known |= words
        more: set[str] = set()
        for kind, name, source, opaque in found:
            shown, text = f"{kind} {name}", source or ""
            if opaque == "t" or runs_texts(text):
                time, current = time or shown, current or shown
            time = time or (shown if TIME_WORDS.search(text) else "")
            current = current or (shown if CURRENT_WORDS.search(text) else "")
            more |= body_names(text).words
        words = frozenset(more - known)
        if not words or (time and current):
            return time, current
    return "what functions call", "what functions call"
