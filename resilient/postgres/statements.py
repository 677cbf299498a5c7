"""What a statement's text tells about running it again.  Lexical, cautious, cached.

The text can't tell whether a statement writes (`nextval`, functions): that is asked of the
server.  It does tell what can't be repeated on another server, what outlives a transaction,
and whether the statement may travel in one message with others.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple


class Traits(NamedTuple):
    """`merges`: may be sent together with BEGIN.  `rides`: a query of ours may follow it in
    the same breath.  `writes`: may assign a transaction id.  `hazard`: why its transaction
    can't be replayed.  `lasting`: the hazard outlives the transaction.  `session`: it
    changes a setting of the session.  `begins`: BEGIN, START.  `ends`: COMMIT, END.
    `reads`: provably only reads.
    `forgets`: prepared statements of the session are gone after it.  `special`: any of
    hazard, session, forgets."""

    merges: bool
    rides: bool
    writes: bool
    hazard: str
    lasting: bool
    session: bool
    begins: bool
    ends: bool
    reads: bool
    forgets: bool
    special: bool


_LEAD = re.compile(rb"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.S)
_WORD = re.compile(rb"[A-Za-z_]+")
_PLAIN = frozenset((b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"WITH", b"MERGE", b"VALUES"))
#: these take no snapshot of their own: a query that follows them would take one too early
_QUIET = frozenset((b"SET", b"SHOW", b"RESET", b"LOCK"))
_CONTROL = re.compile(
    rb"\b(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE|LISTEN|DECLARE|COPY)\b",
    re.I,
)
_TEMPORARY = re.compile(
    rb"\b(?:CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?"
    rb"|INTO\s+(?:TABLE\s+)?TEMP(?:ORARY)?|pg_temp)\b",
    re.I,
)
_SESSION_LOCK = re.compile(rb"\bpg_(?:try_)?advisory_(?:un)?lock(?:_shared|_all)?\s*\(", re.I)
_SET_CONFIG = re.compile(rb"\bset_config\s*\(", re.I)
_SET_CONFIG_LOCAL = re.compile(rb"\bset_config\s*\([^()]*,\s*true\s*\)", re.I)
_SET_LOCAL = re.compile(rb"\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\b", re.I)
_PREPARE_TRANSACTION = re.compile(rb"\s+(?:TRANSACTION|PREPARED)\b", re.I)
#: a literal, a quoted identifier or a comment: nothing inside counts
_OPAQUE = re.compile(
    rb"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/"
    rb"|\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$",
    re.S,
)
_CHAIN = re.compile(rb"\bAND\s+CHAIN\b", re.I)
_LASTING = re.compile(rb"\b(?:LISTEN|PREPARE)\b", re.I)
_WRITING = re.compile(
    rb"\b(?:INTO|INSERT|UPDATE|DELETE|MERGE|FOR\s+(?:NO\s+KEY\s+)?(?:UPDATE|SHARE|KEY\s+SHARE))\b",
    re.I,
)
_CALL = re.compile(rb"([A-Za-z_][\w.$]*|\")\s*\(")
#: what may stand before a parenthesis in a statement that is sure to write nothing:
#: keywords, and functions that are immutable or stable
_HARMLESS = frozenset(
    b"""and or not in any all some exists as on using where having when then else case select
    from join values union except intersect by over filter within group order limit offset
    distinct array row cast coalesce nullif greatest least count sum avg min max bool_and
    bool_or every string_agg array_agg json_agg jsonb_agg json_object_agg jsonb_object_agg
    lower upper length char_length octet_length substr substring trim ltrim rtrim btrim replace
    concat concat_ws left right lpad rpad split_part position strpos overlay format to_char
    to_date to_timestamp to_number date_trunc date_part extract age now timezone abs ceil floor
    round trunc mod power sqrt sign row_number rank dense_rank lag lead first_value last_value
    ntile unnest generate_series jsonb_build_object json_build_object to_json to_jsonb md5
    numeric decimal varchar char timestamp timestamptz time interval bit lateral
    current_setting pg_is_in_recovery version pg_backend_pid inet_server_addr inet_server_port
    pg_current_wal_lsn pg_last_wal_replay_lsn txid_current_if_assigned
    pg_current_xact_id_if_assigned""".split()
)


@lru_cache(maxsize=4096)
def traits(query: bytes) -> Traits:
    """What the statement's text tells (PostgreSQL manual, part VI)."""
    lead = _LEAD.match(query)
    start = lead.end() if lead else 0
    match = _WORD.match(query, start)
    word = match.group().upper() if match else b""
    rest = query[match.end() :] if match else query[start:]
    bare = _OPAQUE.sub(b"''", query)
    several = b";" in bare.rstrip(b"; \t\r\n")
    hazard, lasting = _hazard(word, rest, bare, several)
    plain = word in _PLAIN and not several
    quiet = word in _QUIET and not several
    sets = _sets_session(word, rest, bare)
    forgets = word in (b"DISCARD", b"DEALLOCATE")
    return Traits(
        merges=(plain or quiet) and not hazard,
        rides=plain and not hazard,
        writes=not quiet,
        hazard=hazard,
        lasting=lasting,
        session=sets,
        begins=word in (b"BEGIN", b"START"),
        ends=word in (b"COMMIT", b"END") and not several and not hazard,
        reads=_only_reads(word, bare, several),
        forgets=forgets,
        special=bool(hazard) or sets or forgets,
    )


def _hazard(word: bytes, rest: bytes, bare: bytes, several: bool) -> tuple[str, bool]:
    """(why a transaction with this statement can't be replayed, does that last?)"""
    if word == b"COPY":
        return "COPY", False
    if word in (b"DECLARE", b"FETCH", b"MOVE", b"CLOSE"):
        return "a server-side cursor", b"HOLD" in rest.upper()
    if word == b"LISTEN":
        return "LISTEN", True
    if word == b"LOAD":
        return "LOAD", True
    if word in (b"PREPARE", b"EXECUTE") or (
        word in (b"COMMIT", b"ROLLBACK") and rest.upper().lstrip().startswith(b"PREPARED")
    ):
        if _PREPARE_TRANSACTION.match(rest):
            return "a two-phase transaction", False
        return "PREPARE", True
    if word in (b"COMMIT", b"END", b"ROLLBACK", b"ABORT") and _CHAIN.search(rest):
        return "a chained transaction", False
    if _TEMPORARY.search(bare):
        return "a temporary table", True
    if _SESSION_LOCK.search(bare):
        return "a session-level advisory lock", True
    if several and _CONTROL.search(bare):
        return "several statements in one, with transaction control", bool(_LASTING.search(bare))
    return "", False


def _sets_session(word: bytes, rest: bytes, bare: bytes) -> bool:
    if word == b"SET":
        return not _SET_LOCAL.match(rest)
    if word == b"RESET":
        return True
    return bool(_SET_CONFIG.search(bare)) and not _SET_CONFIG_LOCAL.search(bare)


def _only_reads(word: bytes, bare: bytes, several: bool) -> bool:
    """A lost reply of such a statement does no harm: it can simply be asked again."""
    if several or word not in (b"SELECT", b"WITH", b"VALUES", b"TABLE", b"SHOW"):
        return False
    if _WRITING.search(bare):
        return False
    return all(name.lower() in _HARMLESS for name in _CALL.findall(bare))
