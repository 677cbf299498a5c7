"""What a statement's text tells about running it again.  Lexical, cautious, cached.

The text can't tell whether a statement writes (`nextval`, functions): that is asked of the
server.  It does tell what can't be repeated on another server, what outlives a transaction,
and whether the statement may travel in one message with others.  A text in which something
never closes is taken for several statements, of which nothing good is assumed.  Lexical rules:
PostgreSQL manual 4.1, with `standard_conforming_strings` on.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ...core.reach import LONG_BYTES, STRING, intricate, replaced, runs_text


class Traits(NamedTuple):
    """`merges`: may be sent together with BEGIN.  `piggybacks`: a query of ours may follow it in
    the same breath.  `writes`: may assign a transaction id.  `hazard`: why its transaction
    can't be replayed.  `lasting`: the hazard outlives the transaction.  `session`: it
    changes a setting of the session.  `begins`: BEGIN, START.  `ends`: COMMIT, END.
    `control`: it may end the transaction on its way.  `undoes`: ROLLBACK TO.  `reads`:
    it looks as if it only read.  `calls`: there is a parenthesis.  `plain`: it runs no
    function.  `forgets`: prepared statements of the session are gone after it.  `discards`: so
    is all else of the session.
    `special`: any of the rarer ones."""

    merges: bool
    piggybacks: bool
    writes: bool
    hazard: str
    lasting: bool
    session: bool
    begins: bool
    ends: bool
    control: bool
    undoes: bool
    reads: bool
    calls: bool
    plain: bool
    forgets: bool
    discards: bool
    special: bool


#: what is left of a comment and of a quoted name; of all else a literal
_BARE = {b"--": b" ", b"/*": b" ", b'"': b'""'}

#: longer texts aren't kept: with parameters merged in, each is another one
CACHED_BYTES = 4096

_WORD = re.compile(rb"\s*([A-Za-z_]+)")
#: a row without anything that is called, behind another one
_ROW = re.compile(rb"\) (\([^()]*\))")
_LEVELS = bytes.maketrans(b"123456789.,\t\r\n", b"000000000     ")
_PLAIN = frozenset((b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"WITH", b"MERGE", b"VALUES"))
#: these take no snapshot of their own: a query that follows them would take one too early
_QUIET = frozenset((b"SET", b"SHOW", b"RESET", b"LOCK"))
#: these run nothing of anybody's
_STEPS = frozenset(
    (
        *(b"BEGIN", b"START", b"COMMIT", b"END", b"SAVEPOINT", b"RELEASE", b"ROLLBACK"),
        *(b"ABORT", b"SET", b"RESET", b"SHOW"),
    )
)
_CONTROL = re.compile(
    rb"\b(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE|LISTEN|DECLARE|COPY)\b",
    re.I,
)
_CHAIN = re.compile(rb"\bAND\s+CHAIN\b", re.I)
_LASTING = re.compile(rb"\b(?:LISTEN|PREPARE)\b", re.I)
_TEMPORARY = re.compile(
    rb"\b(?:CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?"
    rb"|INTO\s+(?:TABLE\s+)?TEMP(?:ORARY)?|pg_temp)\b",
    re.I,
)
_SESSION_LOCK = re.compile(rb"\bpg_(?:try_)?advisory_(?:un)?lock(?:_shared|_all)?\s*\(", re.I)
_SET_CONFIG = re.compile(rb"\bset_config\s*\(", re.I)
_SET_CONFIG_LOCAL = re.compile(rb"\bset_config\s*\([^()]*,\s*true\s*\)", re.I)
_SET_LOCAL = re.compile(rb"\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\b", re.I)
_SET_AMONG = re.compile(rb"(?:^|;)\s*(?:SET|RESET)\b", re.I)
_SETTING = re.compile(
    rb"\s*(?:(?:SET\s+(?:SESSION\s+)?|RESET\s+)(?:(ROLE)\b|([a-z_][\w.]*)\s*(?:=|\bTO\b|;?\s*\Z))"
    rb"|SELECT\s+(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*'([a-z_][\w.]*)'\s*,[^(),]*,\s*false\s*\)"
    rb"\s*(?:AS\s+\w+\s*)?;?\s*\Z)",
    re.I,
)
_TWO_PHASE = re.compile(rb"\s+(?:TRANSACTION|PREPARED)\b", re.I)
_TO = re.compile(rb"\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b", re.I)
_WRITING = re.compile(
    rb"\b(?:INTO|INSERT|UPDATE|DELETE|MERGE|FOR\s+(?:NO\s+KEY\s+)?(?:UPDATE|SHARE|KEY\s+SHARE))\b",
    re.I,
)


def bared(query: bytes) -> bytes | None:
    """The text without literals, quoted names and comments; None when it isn't clear."""
    return replaced(query, lambda token, _begin, _end: _BARE.get(token, b"''"))


def _shortened(query: bytes) -> bytes:
    """A long text without its literals and the lengths of its lists, where that is quickly made:
    what is looked for in it is still there."""
    if intricate(query) or runs_text(query) or b"set_config" in query.lower():
        return query
    text = STRING.sub(b"''", query).translate(_LEVELS)
    for again, once in ((b"00", b"0"), (b"  ", b" "), (b"0 0", b"0"), (b"'' ''", b"''")):
        while again in text:
            text = text.replace(again, once)
    at = 0
    for _ in range(8):  # rows with casts or NULLs: one of each is kept
        row = _ROW.search(text, at) if len(text) > CACHED_BYTES else None
        if row is None:
            break
        at = row.end() - 1
        rest, another = text[at:], row.group()  # behind a name it would be a call
        while another in rest:
            rest = rest.replace(another, b")")
        text = text[:at] + rest
    return text


def setting_of(query: bytes) -> bytes:
    """The one setting that this changes in the session; empty: several, or it isn't clear."""
    found = _SETTING.match(query)
    name = (found.group(1) or found.group(2) or found.group(3)).lower() if found else b""
    return b"" if name in (b"all", b"session_authorization") else name


def traits(query: bytes) -> Traits:
    """What the statement's text tells (PostgreSQL manual, part VI)."""
    found = KNOWN.get(query)
    if found is None:
        if len(query) > CACHED_BYTES:
            found = _examine(_shortened(query))
            return found._replace(special=True) if len(query) > LONG_BYTES else found
        found = _examine(query)
        if len(KNOWN) >= KNOWN_MOST:  # statements that are never the same: start over
            KNOWN.clear()
        KNOWN[query] = found
    return found


def _examine(query: bytes) -> Traits:
    clear = bared(query)
    bare = query if clear is None else clear
    match = _WORD.match(bare)
    word = match.group(1).upper() if match else b""
    rest = bare[match.end() :] if match else bare
    several = clear is None or b";" in bare.rstrip(b"; \t\r\n\f\v")
    # A procedure's body may hold anything.
    hazard, lasting = _hazard(word, rest, query if word in (b"DO", b"CALL") else bare, several)
    plain = word in _PLAIN and not several
    quiet = word in _QUIET and not several
    sets = not several and _sets_session(word, rest, bare)
    control = hazard.startswith((SEVERAL, TWO_PHASE, CHAINED))
    undoes = word == b"ROLLBACK" and bool(_TO.match(rest))
    held = query if word == b"DO" else bare if several else b""
    forgets = word in (b"DISCARD", b"DEALLOCATE") or b"DEALLOCATE" in held.upper()
    return Traits(
        merges=(plain or quiet) and not hazard,
        piggybacks=plain and not hazard,
        writes=not quiet,
        hazard=hazard,
        lasting=lasting,
        session=sets,
        begins=word in (b"BEGIN", b"START"),
        ends=word in (b"COMMIT", b"END") and not several and not hazard,
        control=control,
        undoes=undoes,
        reads=_looks_like_a_read(word, bare, several),
        calls=b"(" in bare,
        plain=word in _STEPS and not several,
        forgets=forgets,
        discards=word == b"DISCARD" and not several,
        special=bool(hazard) or sets or forgets or undoes,
    )


#: statements that were examined; who is in a hurry looks here first
KNOWN: dict[bytes, Traits] = {}
KNOWN_MOST = 4096

SEVERAL = "several statements in one, with transaction control"
TWO_PHASE = "a two-phase transaction"
CHAINED = "COMMIT AND CHAIN"


def _hazard(word: bytes, rest: bytes, bare: bytes, several: bool) -> tuple[str, bool]:
    """(why a transaction with this statement can't be replayed, does that last?)"""
    if several and _CONTROL.search(bare):
        return SEVERAL, bool(_LASTING.search(bare))
    if several and (_SET_AMONG.search(bare) or _SET_CONFIG.search(bare)):
        return "a setting of the session, changed among other statements", True
    if _TEMPORARY.search(bare):
        return "a temporary table", True
    if _SESSION_LOCK.search(bare):
        return "a session-level advisory lock", True
    if word in (b"DO", b"CALL") and (_SET_CONFIG.search(bare) or _LASTING.search(bare)):
        return "a procedure that changes the session", True
    return _by_word(word, rest)


def _by_word(word: bytes, rest: bytes) -> tuple[str, bool]:
    if word == b"COPY":
        return "COPY", False
    if word in (b"DECLARE", b"FETCH", b"MOVE", b"CLOSE"):
        return "a server-side cursor", b"HOLD" in rest.upper()
    if word in (b"LISTEN", b"LOAD"):
        return word.decode(), True
    if word in (b"PREPARE", b"COMMIT", b"ROLLBACK") and _TWO_PHASE.match(rest):
        prepared = word == b"PREPARE" or rest.upper().lstrip().startswith(b"PREPARED")
        if prepared:
            return TWO_PHASE, False
    if word in (b"PREPARE", b"EXECUTE"):
        return "PREPARE", True
    if word in (b"COMMIT", b"END") and _CHAIN.search(rest):
        return CHAINED, False
    if word in (b"ROLLBACK", b"ABORT") and _CHAIN.search(rest):
        return "ROLLBACK AND CHAIN", False
    return "", False


def _sets_session(word: bytes, rest: bytes, bare: bytes) -> bool:
    if word == b"SET":
        return not _SET_LOCAL.match(rest)
    if word == b"RESET":
        return True
    return len(_SET_CONFIG.findall(bare)) > len(_SET_CONFIG_LOCAL.findall(bare))


def _looks_like_a_read(word: bytes, bare: bytes, several: bool) -> bool:
    """Whether it is one, the catalogue tells."""
    if several or word not in (b"SELECT", b"WITH", b"VALUES", b"TABLE", b"SHOW"):
        return False
    return not _WRITING.search(bare)
