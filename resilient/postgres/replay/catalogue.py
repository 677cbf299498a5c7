"""What statements may reach, by the server's own catalogue: asked when a reply was lost.

A transaction that has no id may still have done something: NOTIFY, foreign tables, dblink and
functions leave none.  So a lost COMMIT is a success, and a lost read is sent again, only where the
catalogue shows that no statement can have reached any of these (`reached`).

How a statement is read: each name in its text counts as whatever bears it, in any schema.  From
there views, rules, row security, triggers and defaults are followed.  That is one question for all
of them, and finds too much rather than too little.  Where it finds something, the server parses
the statement into the body of a function in `pg_temp` that is rolled back (manual 38.5,
SQL-standard bodies, from version 14), and what it made of it names each function, operator, cast
and relation exactly.  That can't be on a standby, without TEMP privilege, of a cursor's text.
"""

# long: the question, and how it is asked
from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from operator import or_

from psycopg import errors as e
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn, PGresult

from ..._dataclass import dataclass
from ...core.reach import (
    FAR_EXTENSIONS,
    Asked,
    Names,
    at_once,
    body_names,
    may_set,
    names_of,
    names_of_all,
    runs_text,
    runs_texts,
)

#: where the server doesn't answer, or there is no end of what it would say
UNTOLD = "statements that the catalogue doesn't tell about"

#: volatile functions of the server's own that leave nothing behind
HARMLESS = b"""\
random,random_normal,clock_timestamp,timeofday,pg_sleep,pg_sleep_for,pg_sleep_until,\
gen_random_uuid,uuidv4,uuidv7,currval,lastval,pg_relation_size,pg_total_relation_size,\
pg_table_size,pg_indexes_size,pg_database_size,pg_tablespace_size,pg_is_in_recovery,\
pg_last_wal_receive_lsn,pg_last_wal_replay_lsn,pg_last_xact_replay_timestamp,pg_current_wal_lsn,\
pg_current_wal_insert_lsn,pg_current_wal_flush_lsn,pg_lock_status,pg_blocking_pids,pg_xact_status,\
txid_status,pg_advisory_xact_lock,pg_advisory_xact_lock_shared,pg_try_advisory_xact_lock,\
pg_try_advisory_xact_lock_shared,pg_show_all_settings,pg_prepared_statement,pg_cursor,\
pg_timezone_names,pg_timezone_abbrevs,pg_stat_file,pg_ls_dir,pg_read_file,pg_read_binary_file,\
pg_prepared_xact,pg_available_extensions,pg_available_extension_versions,\
suppress_redundant_updates_trigger,tsvector_update_trigger,tsvector_update_trigger_column"""
#: not volatile, and yet running what they are told to
RUNNING = b"table_to_xml,schema_to_xml,database_to_xml,cursor_to_xml,query_to_xml"
_FAR = ",".join(FAR_EXTENSIONS).encode()
#: extensions whose volatile functions in C leave nothing in the session
KNOWN_EXTENSIONS = (
    "uuid-ossp", "pgcrypto", "pg_stat_statements", "pg_buffercache", "pageinspect", "pgstattuple",
    "pg_visibility", "pg_freespacemap", "pg_prewarm", "pgrowlocks", "lo", "postgis",
    "postgis_topology", "postgis_raster", "vector", "timescaledb", "citus",
)  # fmt: skip
_KNOWN = ",".join(KNOWN_EXTENSIONS).encode()

_FUNCTIONS = "':(?:funcid|opfuncid|aggfnoid|winfnoid) (\\d+)'"
#: $1 words, $2 those before a parenthesis, $3 operators, $4 may it write, $5 what the server made
#: of the statements (`pg_node_tree`), $6 functions that were looked at before.
#: An object of the server's own has an OID below 16384 (FirstNormalObjectId).  1574 is nextval: of
#: a default where no row was written a number is missing, and nothing else.
QUESTION = b"""\
WITH RECURSIVE given (tree) AS (SELECT pg_catalog.unnest($5::text[])),
rel (oid) AS (
 SELECT oid FROM pg_catalog.pg_class WHERE relname = ANY ($1::text[])
 UNION SELECT (m)[1]::oid FROM given, pg_catalog.regexp_matches(tree, ':relid (\\d+)', 'g') m
 UNION SELECT found.oid FROM rel, LATERAL (
  SELECT (m)[1]::oid FROM pg_catalog.pg_rewrite r, pg_catalog.regexp_matches(
   r.ev_action::text || coalesce(r.ev_qual::text, ''), ':relid (\\d+)', 'g') m
  WHERE r.ev_class = rel.oid AND (r.ev_type = '1' OR $4::bool)
  UNION ALL SELECT (m)[1]::oid FROM pg_catalog.pg_policy p, pg_catalog.regexp_matches(
   pg_catalog.concat(p.polqual::text, p.polwithcheck::text), ':relid (\\d+)', 'g') m
  WHERE p.polrelid = rel.oid
  UNION ALL SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = rel.oid
  UNION ALL SELECT conrelid FROM pg_catalog.pg_constraint WHERE confrelid = rel.oid AND $4::bool
 ) found (oid)),
type (oid) AS (
 SELECT oid FROM pg_catalog.pg_type WHERE typname = ANY ($1::text[])
 UNION SELECT (m)[1]::oid FROM given, pg_catalog.regexp_matches(tree,
  ':(?:resulttype|consttype|vartype|funcresulttype) (\\d+)', 'g') m
 UNION SELECT atttypid FROM pg_catalog.pg_attribute, rel WHERE attrelid = rel.oid AND attnum > 0
 UNION SELECT next.oid FROM type JOIN pg_catalog.pg_type t ON t.oid = type.oid, LATERAL (
  SELECT t.typelem UNION ALL SELECT t.typbasetype
  UNION ALL SELECT atttypid FROM pg_catalog.pg_attribute
  WHERE attrelid = t.typrelid AND attnum > 0 AND t.oid >= 16384) next (oid)
 WHERE next.oid <> 0),
tree (tree) AS (
 SELECT tree FROM given
 UNION ALL SELECT r.ev_action::text || coalesce(r.ev_qual::text, '')
 FROM pg_catalog.pg_rewrite r JOIN rel ON rel.oid = r.ev_class WHERE r.ev_type = '1' OR $4::bool
 UNION ALL SELECT pg_catalog.concat(p.polqual::text, p.polwithcheck::text)
 FROM pg_catalog.pg_policy p JOIN rel ON rel.oid = p.polrelid
 UNION ALL SELECT pg_catalog.replace(d.adbin::text, ':funcid 1574 ', '')
 FROM pg_catalog.pg_attrdef d JOIN rel ON rel.oid = d.adrelid
 WHERE $4::bool OR EXISTS (SELECT FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> '')
 UNION ALL SELECT c.conbin::text FROM pg_catalog.pg_constraint c JOIN rel ON rel.oid = c.conrelid
 WHERE c.conbin IS NOT NULL AND $4::bool
 UNION ALL SELECT c.conbin::text FROM pg_catalog.pg_constraint c JOIN type ON type.oid = c.contypid
 WHERE c.conbin IS NOT NULL),
fn (oid) AS (
 SELECT (m)[1]::oid FROM tree, pg_catalog.regexp_matches(tree, FUNCTIONS, 'g') m
 UNION SELECT o.oprcode::oid FROM tree,
  pg_catalog.regexp_matches(tree, ':(?:eqop|sortop|opno) (\\d+)', 'g') m
  JOIN pg_catalog.pg_operator o ON o.oid = (m)[1]::oid WHERE o.oid >= 16384
 UNION SELECT oid FROM pg_catalog.pg_proc WHERE proname = ANY ($2::text[])
 UNION SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0]
 WHERE p.proname = ANY ($1::text[]) AND t.typtype IN ('c', 'd', 'p') AND p.oid >= 16384
 UNION SELECT o.oprcode::oid FROM pg_catalog.pg_operator o WHERE o.oid >= 16384
  AND pg_catalog.cardinality($1::text[]) > 0
  AND (o.oprname = ANY ($3::text[]) OR o.oprname IN ('=', '<', '>', '<=', '>=', '<>', '~~'))
  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(ARRAY[o.oprleft, o.oprright]) u (oid)
   WHERE u.oid >= 16384 AND u.oid NOT IN (SELECT oid FROM type))
 UNION SELECT c.castfunc FROM pg_catalog.pg_cast c WHERE c.castfunc >= 16384
  AND pg_catalog.cardinality($1::text[]) > 0
  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(ARRAY[c.castsource, c.casttarget]) u (oid)
   WHERE u.oid >= 16384 AND u.oid NOT IN (SELECT oid FROM type))
 UNION SELECT t.tgfoid FROM pg_catalog.pg_trigger t JOIN rel ON rel.oid = t.tgrelid
 WHERE NOT t.tgisinternal AND $4::bool)
SELECT 'far', c.relname, NULL, NULL, NULL
FROM pg_catalog.pg_class c JOIN rel ON rel.oid = c.oid WHERE c.relkind = 'f'
UNION ALL SELECT 'tells', 'NOTIFY', NULL, NULL, NULL FROM tree WHERE tree ~ '\\{NOTIFY'
UNION ALL SELECT CASE WHEN x.extname = ANY (pg_catalog.string_to_array('FAR', ','))
 THEN 'outside' ELSE 'function' END,
 p.proname, p.oid::text,
 CASE WHEN l.lanname = 'c' AND p.provolatile = 'v' AND NOT coalesce(x.extname, '') = ANY (
  pg_catalog.string_to_array('KNOWN', ',')) THEN 'c, unknown' ELSE l.lanname END,
 CASE WHEN l.lanname IN ('internal', 'c') THEN ''
 ELSE coalesce(nullif(p.prosrc, ''), SQLBODY) END
FROM fn JOIN pg_catalog.pg_proc p ON p.oid = fn.oid
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass
 AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
WHERE NOT p.oid::text = ANY ($6::text[]) AND CASE
 WHEN p.oid < 16384 THEN p.proname ~ ('^(' || pg_catalog.replace('RUNNING', ',', '|') || ')')
 OR p.provolatile = 'v' AND p.prokind <> 'a'
 AND NOT p.proname = ANY (pg_catalog.string_to_array('HARMLESS', ','))
 ELSE NOT (l.lanname IN ('internal', 'c') AND p.provolatile = 'i' AND p.prokind = 'f')
 END
LIMIT MOST"""
#: rows of an answer; more are no answer
MOST_ROWS = 500


def _question(version: int) -> bytes:
    body = b"pg_catalog.pg_get_function_sqlbody(p.oid)" if version >= 140000 else b"''"
    return (
        QUESTION.replace(b"FUNCTIONS", _FUNCTIONS.encode())
        .replace(b"SQLBODY", body)
        .replace(b"'RUNNING'", b"'%s'" % RUNNING)
        .replace(b"'HARMLESS'", b"'%s'" % HARMLESS)
        .replace(b"'FAR'", b"'%s'" % _FAR)
        .replace(b"'KNOWN'", b"'%s'" % _KNOWN)
        .replace(b"LIMIT MOST", b"LIMIT %d" % MOST_ROWS)
    )


#: from here on a function may have a body that the server has parsed
MIN_VERSION = 140000
#: bodies of functions are followed so deep
MOST_ROUNDS = 8
#: statements that a function's body may be
_BODY = re.compile(rb"\s*(?:SELECT|WITH|VALUES|INSERT|UPDATE|DELETE|MERGE)\b", re.I)
_MOVES = re.compile(rb"\bset_config\b|(?:^|;)\s*(?:SET|RESET)\b", re.I)
#: its estimates would have the question compiled, which takes longer than to answer it
QUICKLY = b"SET LOCAL jit = off"
#: of what is asked while nothing fails
BRIEFLY = b"SET LOCAL statement_timeout = '100ms'"
_ENDS = re.compile(rb"[\s;]+\Z")


@dataclass(frozen=True, slots=True)
class Reached:
    """What some statements may have reached; of each the first that was found, by name.

    `effect`: something that leaves no transaction id; empty where they can only have read.
    `far`: what is not undone with the transaction, or commits by itself.  `outside`: of that, what
    takes effect at once.  `sets`: what may have left something in the session.
    """

    effect: str = ""
    far: str = ""
    outside: str = ""
    sets: str = ""


def reached(
    pgconn: PGconn,
    statements: Iterable[Asked],
    wanted: str = "effect",
    beside: Names | None = None,
) -> PQGen[Reached]:
    """Ask on an idle connection.  `wanted`: of `Reached`; where that isn't `effect`, the bodies of
    functions are followed too.  `beside`: names in statements of which no more is known.

    First by their names, which is one question however many they are, and finds too much rather
    than too little.  Where it finds something, the server is had to parse them, one by one.

    Raises `OperationalError` when the connection is lost; whatever else can't be told counts as
    reached.
    """
    distinct = list(dict.fromkeys(statements))
    names = reduce(or_, (names_of(query) for query, _ in distinct), beside or Names())
    bodies = [query.decode("utf-8", "replace") for query, _ in distinct if runs_text(query)]
    follow = None if wanted == "effect" else bodies
    mode = b"READ ONLY" if _replays(pgconn) else b"READ WRITE"
    for step in (b"BEGIN ISOLATION LEVEL READ COMMITTED " + mode, QUICKLY):
        yield from _say(pgconn, step)
    found = yield from _look(pgconn, names, names, [], follow)
    if (getattr(found, wanted) or names.unclear) and beside is None:
        trees, rest = yield from _parsed(pgconn, distinct)
        if trees:
            left = names_of_all(asked[0] for asked in rest)
            found = yield from _look(pgconn, left, names, trees, follow)
    yield from _say(pgconn, b"ROLLBACK")
    return found


def only_reading(pgconn: PGconn, statements: Iterable[Asked]) -> PQGen[list[Asked]]:
    """Those of them that can only read, by the names in their texts: nothing is written for it, as
    it is for `reached`.  On an idle connection, whose transaction it is in between.  One that takes
    longer than `BRIEFLY` says is the last that is looked at.

    Raises `OperationalError` when the connection is lost.
    """
    for step in (b"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", QUICKLY, BRIEFLY):
        yield from _say(pgconn, step)
    found: list[Asked] = []
    for asked in statements:
        names = names_of(asked[0])
        if names.unclear or names.writes:
            continue
        rows = yield from _ask(pgconn, names, False, [], [])
        if rows is None:
            break
        if not rows:
            found.append(asked)
    yield from _say(pgconn, b"ROLLBACK")
    return found


def _replays(pgconn: PGconn) -> bool:
    """Is it a standby?  (Manual 55.2.7, from version 14.)"""
    return pgconn.parameter_status(b"in_hot_standby") == b"on"


def _look(
    pgconn: PGconn, names: Names, clear: Names, trees: list[str], bodies: list[str] | None
) -> PQGen[Reached]:
    """`names`: those that aren't in the `trees`; `clear`: those of all.  `bodies`: of blocks, to be
    followed with the functions'; None: nothing is."""
    rows = yield from _ask(pgconn, names, clear.writes, trees, [])
    if rows is None:
        return Reached(UNTOLD, UNTOLD, UNTOLD, UNTOLD)
    effect = clear.unclear or next((_shown(row) for row in rows), "")
    if bodies is None:
        return Reached(effect)
    return (yield from _followed(pgconn, effect, rows, bodies))


def _followed(
    pgconn: PGconn, effect: str, rows: list[list[str]], bodies: list[str]
) -> PQGen[Reached]:
    """The bodies of the functions that were found, and so on."""
    far = outside = sets = ""
    seen: list[str] = []
    for _ in range(MOST_ROUNDS):
        names = Names()
        for body in bodies:
            names |= body_names(body)
            sets = sets or ("DO" if may_set(body) else "")
            far = far or ("a text that a DO block runs" if runs_texts(body) else "")
        for row in rows:
            kind, name, oid, language, source = row
            if kind in ("far", "outside"):
                far = far or _shown(row)
                outside = outside or (_shown(row) if kind == "outside" else "")
            elif kind == "function":
                seen.append(oid)
                names |= body_names(source) if language in ("sql", "plpgsql") else Names()
                compiled = language in ("internal", "c", "c, unknown")
                opaque = not compiled and language not in ("sql", "plpgsql")
                if opaque or runs_texts(source):
                    far, outside = far or _shown(row), outside or _shown(row)
                outside = outside or at_once(source)
                setter = name in SETTERS or language == "c, unknown"
                if opaque or setter or may_set(source):
                    sets = sets or _shown(row)
        if not names.words:
            break
        bodies = []
        more = yield from _ask(pgconn, names, True, [], seen)
        if more is None:
            return Reached(effect, UNTOLD, UNTOLD, UNTOLD)
        rows = more
    else:
        far = outside = sets = "functions that call each other"
    return Reached(effect, far, outside, sets)


#: functions of the server's own that leave something in the session
SETTERS = frozenset(
    (
        *("pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock"),
        *("pg_try_advisory_lock_shared", "setseed", "set_config"),
        *("pg_replication_origin_session_setup", "pg_backup_start", "pg_start_backup"),
    )
)


def _shown(row: list[str]) -> str:
    kind, name = row[0], row[1]
    return {"far": f"foreign table {name}", "tells": name}.get(kind, f"function {name}()")


def _parsed(pgconn: PGconn, statements: list[Asked]) -> PQGen[tuple[list[str], list[Asked]]]:
    """What the server makes of the statements, and those that it can't be asked about."""
    able = [asked for asked in statements if _BODY.match(asked[0])]
    # A changed search path, or role, may give names another meaning.
    moved = any(_MOVES.search(asked[0]) for asked in statements)
    if not able or moved or _replays(pgconn) or pgconn.server_version < MIN_VERSION:
        return [], statements
    trees: list[str] = []
    rest = [asked for asked in statements if not _BODY.match(asked[0])]
    for asked in able:
        tree = yield from _tree(pgconn, asked)
        if tree is None:
            rest.append(asked)
        else:
            trees.append(tree)
    return trees, rest


def _tree(pgconn: PGconn, asked: Asked) -> PQGen[str | None]:
    yield from _say(pgconn, b"SAVEPOINT asked")
    types = yield from _types(pgconn, asked)
    if types is not None:
        body = _ENDS.sub(b"", asked[0])
        text = b"CREATE FUNCTION pg_temp._resilient_asked(%s) RETURNS void BEGIN ATOMIC %s\n; END"
        result = yield from _say(pgconn, text % (types.encode(), body))
        if result.status == pq.ExecStatus.COMMAND_OK:
            result = yield from _say(
                pgconn,
                b"SELECT prosqlbody::text FROM pg_catalog.pg_proc WHERE pronamespace ="
                b" pg_catalog.pg_my_temp_schema() AND proname = '_resilient_asked'",
            )
            tree = _value(result)
            yield from _say(pgconn, b"ROLLBACK TO asked")
            return tree
    yield from _say(pgconn, b"ROLLBACK TO asked")
    return None


def _types(pgconn: PGconn, asked: Asked) -> PQGen[str | None]:
    """The types of its parameters, as the server takes them; None: it doesn't take it."""
    if not re.search(rb"\$\d", asked[0]):
        return ""
    pgconn.send_prepare(b"", asked[0], param_types=asked[1] or None)
    prepared = yield from _first(pgconn)
    if prepared.status != pq.ExecStatus.COMMAND_OK:
        return None
    pgconn.send_describe_prepared(b"")
    described = yield from _first(pgconn)
    oids = [described.param_type(number) for number in range(described.nparams)]
    pgconn.send_query_params(
        b"SELECT pg_catalog.string_agg(pg_catalog.format_type(t, NULL), ',' ORDER BY n)"
        b" FROM pg_catalog.unnest($1::oid[]) WITH ORDINALITY u (t, n)",
        [b"{%s}" % b",".join(b"%d" % oid for oid in oids)],
    )
    named = yield from _first(pgconn)
    return _value(named) or ""


def _say(pgconn: PGconn, query: bytes) -> PQGen[PGresult]:
    pgconn.send_query(query)
    return (yield from _first(pgconn))


def _first(pgconn: PGconn) -> PQGen[PGresult]:
    """The answer; behind the server's last words there may be another one."""
    results = yield from generators.execute(pgconn)
    if pgconn.status == pq.ConnStatus.BAD or not results:
        raise e.OperationalError("the connection was lost")
    first: PGresult = results[0]
    return first


def _value(result: PGresult) -> str | None:
    if result.status != pq.ExecStatus.TUPLES_OK or result.ntuples != 1:
        return None
    value = result.get_value(0, 0)
    return None if value is None else value.decode("utf-8", "replace")


def _ask(
    pgconn: PGconn, names: Names, writes: bool, trees: list[str], seen: list[str]
) -> PQGen[list[list[str]] | None]:
    """The rows of the question; None when the server doesn't answer it."""
    lists = [_array(each) for each in (names.words, names.calls, names.operators)]
    params = [*lists, b"t" if writes else b"f", _array(trees), _array(seen)]
    pgconn.send_query_params(_question(pgconn.server_version), params)
    result = yield from _first(pgconn)
    if result.status != pq.ExecStatus.TUPLES_OK or result.ntuples == MOST_ROWS:
        return None
    cells = range(result.nfields)
    return [
        [(result.get_value(row, col) or b"").decode("utf-8", "replace") for col in cells]
        for row in range(result.ntuples)
    ]


def _array(values: Iterable[str]) -> bytes:
    """An array literal (manual 8.15.6)."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in sorted(values))
    return "{{{}}}".format(",".join(f'"{value}"' for value in quoted)).encode()
