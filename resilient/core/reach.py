"""What statements may reach, from their text: the names in it, and what kind of statement it is.

The text decides nothing alone: operators, casts, views, row security and attribute notation call
functions that it doesn't show.  It gives the names that `postgres.replay.catalogue` looks up, and
says of some statements that no catalogue could clear them.  Lexical rules: PostgreSQL manual 4.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from .._dataclass import dataclass

_NAME = rb"A-Za-z0-9_$\x80-\xff"
#: where something opaque begins
_OPENS = re.compile(
    rb"(?<![" + _NAME + rb"])[eE]'|'|\"|--|/\*"
    rb"|(?<![" + _NAME + rb"])\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$"
)
_LITERAL = re.compile(rb"[^']*(?:''[^']*)*'")
_ESCAPED = re.compile(rb"[^'\\]*(?:(?:\\.|'')[^'\\]*)*'", re.S)
_QUOTED = re.compile(rb"[^\"]*(?:\"\"[^\"]*)*\"")
_LINE = re.compile(rb"[^\r\n]*")
_NESTS = re.compile(rb"/\*|\*/")

#: a word, an operator, or one of the marks that tell statements and calls apart
_TOKEN = re.compile(
    rb"[A-Za-z_\x80-\xff][\w$\x80-\xff]*|[-+*/<>=~!@#%^&|`?]+|[();]|\x00\d+\x00|[^\s]"
)
_OPERATOR = frozenset(b"+-*/<>=~!@#%^&|`?")
#: an identifier's longest form, in bytes (NAMEDATALEN)
MOST_BYTES = 63

#: statements that may turn out to leave nothing behind
READING = frozenset(("select", "with", "values", "table", "show", "explain"))
WRITING = frozenset(("insert", "update", "delete", "merge"))
#: those that are gone with the transaction, or set the session only
QUIET = frozenset(
    (
        *("begin", "start", "savepoint", "release", "rollback", "end", "set", "reset", "lock"),
        *("declare", "fetch", "move", "close", "copy", "prepare", "deallocate"),
    )
)
#: in a function's body, or a DO block's: what changes the session, or runs a text
_SETS = re.compile(
    r"(?:^|;|\bbegin|\bthen|\belse|\bloop)\s*"
    r"(?:set(?!\s+local\b)|reset|listen|unlisten|prepare|load|discard|deallocate)\b"
    r"|\bcreate\s+(?:(?:local|global)\s+)?temp|\binto\s+temp|\bpg_temp\b"
    r"|\bpg_(?:try_)?advisory_(?:un)?lock|\bexecute\b|\bsetseed\b|\bdblink_(?:dis)?connect"
)
_SET_CONFIG = re.compile(r"\bset_config\s*\(")
_SET_CONFIG_LOCAL = re.compile(r"\bset_config\s*\([^()]*(?:\([^()]*\)[^()]*)*,\s*true\s*\)")
_DYNAMIC = re.compile(r"\bexecute\b")
#: extensions whose functions speak to others than this server
FAR_EXTENSIONS = (
    "dblink", "http", "pg_net", "pg_background", "pg_cron", "plproxy", "aws_lambda", "aws_s3",
    "pg_bulkload", "mysql_fdw", "oracle_fdw", "tds_fdw",
)  # fmt: skip
#: functions of the server's own that no rollback takes back (manual 9.28, 9.27.9): done again,
#: they are done twice, or to somebody else's session on another server
AT_ONCE = (
    r"\m(pg_logical_emit_message\s*\(\s*(?!true\M|''?t)"
    r"|(pg_logical_slot_get_(binary_)?changes|pg_replication_slot_advance"
    r"|pg_(create|copy)_(physical|logical)_replication_slot|pg_drop_replication_slot"
    r"|pg_switch_wal|pg_create_restore_point|pg_promote|pg_(terminate|cancel)_backend"
    r"|lo_export|pg_file_(write|rename|unlink)|pg_backup_(start|stop))\s*\()"
)
_AT_ONCE = re.compile(re.sub(r"\\[mM]", r"\\b", AT_ONCE).replace("''", "'"), re.I)


#: a statement as it was sent: its text, and the types of its parameters (0: unknown)
Asked = tuple[bytes, Sequence[int] | None]

#: a longer text isn't kept beside others of its kind
LONG_BYTES = 65536
#: where a text isn't `intricate`
STRING = re.compile(rb"'[^']*'")
_DOLLARS = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$")
_RUNS = re.compile(rb"\s*(?:/\*.*?\*/\s*)*DO\b", re.I | re.S)


@dataclass(frozen=True, slots=True)
class Names:
    """The names in some statements.

    `calls`: those that stand before a parenthesis.  `writes`: some may write here.  `unclear`:
    why no catalogue can tell what they reach; empty when one may.
    """

    words: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    writes: bool = False
    unclear: str = ""

    def __or__(self, other: Names) -> Names:
        return Names(
            self.words | other.words,
            self.calls | other.calls,
            self.operators | other.operators,
            self.writes or other.writes,
            self.unclear or other.unclear,
        )


def runs_text(query: bytes) -> bool:
    """Is it a block of statements that a text holds?"""
    return bool(_RUNS.match(query))


def intricate(query: bytes) -> bool:
    """May what is between two quotes be no literal?  Then only `replaced` tells."""
    if b"--" in query or b"/*" in query or b"&" in query:
        return True
    if b"\\" in query and (b"E'" in query or b"e'" in query):
        return True
    if query.count(b'"') % 2:
        return True
    if b'"' in query and b"'" in query:
        parts = query.split(b'"')
        if b"'" in b"".join(parts[1::2]) or any(part.count(b"'") % 2 for part in parts[::2]):
            return True
    elif query.count(b"'") % 2:
        return True
    return b"$" in query and _DOLLARS.search(query) is not None


def without_strings(query: bytes) -> bytes:
    """A text that isn't `intricate`, without its literals."""
    return STRING.sub(b"", query) if b"'" in query else query


def names_of_all(queries: Iterable[bytes]) -> Names:
    """The names in all of these statements."""
    found = Names()
    for query in queries:
        found |= names_of(query)
    return found


def opaque(query: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Its literals, quoted names and comments: what each opens with, where that begins, and where
    all of it ends.  ValueError where something never closes."""
    at = 0
    while opening := _OPENS.search(query, at):
        token = opening.group()
        at = _closing(query, opening.end(), token)
        if at < 0:
            raise ValueError("something never closes")
        yield token, opening.start(), at


def replaced(query: bytes, instead: Callable[[bytes, int, int], bytes]) -> bytes | None:
    """The text with something else for each that is `opaque`; None: something never closes."""
    parts: list[bytes] = []
    at = 0
    try:
        for token, begin, end in opaque(query):
            parts += (query[at:begin], instead(token, begin, end))
            at = end
    except ValueError:
        return None
    return b"".join((*parts, query[at:]))


def _closing(query: bytes, start: int, token: bytes) -> int:
    """Where what `token` opened ends; -1 when it doesn't."""
    if token == b"/*":
        depth = 1
        for found in _NESTS.finditer(query, start):
            depth += 1 if found.group() == b"/*" else -1
            if not depth:
                return found.end()
        return -1
    if token.startswith(b"$"):
        found_at = query.find(token, start)
        return found_at + len(token) if found_at >= 0 else -1
    pattern = {b"'": _LITERAL, b'"': _QUOTED, b"--": _LINE}.get(token, _ESCAPED)
    match = pattern.match(query, start)
    return match.end() if match else -1


def names_of(query: bytes) -> Names:
    """The names in a statement, or in several in one text."""
    quoted: list[bytes] = []
    escaped = False

    def instead(token: bytes, begin: int, end: int) -> bytes:
        nonlocal escaped
        if token != b'"':
            return b" "
        escaped = escaped or query[begin - 2 : begin].lower() == b"u&"
        quoted.append(query[begin + 1 : end - 1].replace(b'""', b'"'))
        return b"\x00%d\x00" % (len(quoted) - 1)

    text = replaced(query, instead)
    if text is None:
        return Names(unclear="a text in which something never closes")
    if escaped:
        return Names(unclear="a name with Unicode escapes")
    return _names_in(text, quoted)


def _names_in(text: bytes, quoted: list[bytes]) -> Names:
    words: set[str] = set()
    calls: set[str] = set()
    operators: set[str] = set()
    firsts: list[str] = []
    tokens = _TOKEN.findall(text)
    begins = True
    for number, token in enumerate(tokens):
        word = _word(token, quoted)
        if word is not None:
            words.add(word)
            if tokens[number + 1 : number + 2] == [b"("]:
                calls.add(word)
            if begins:
                firsts.append(word)
        elif token[0] in _OPERATOR:
            text_of = token.decode()
            operators.update(
                text_of[i:j] for i in range(len(text_of)) for j in range(i + 1, len(text_of) + 1)
            )
        begins = token == b";" or (begins and token == b"(")
    return Names(
        frozenset(words),
        frozenset(calls),
        frozenset(operators),
        bool(words & WRITING),
        _unclear(firsts, words),
    )


def _word(token: bytes, quoted: list[bytes]) -> str | None:
    if token.startswith(b"\x00"):
        name = quoted[int(token.strip(b"\x00"))]
    elif token[0] in b"_" or token[:1].isalpha() or token[0] >= 0x80:
        name = token.lower()
    else:
        return None
    return name[:MOST_BYTES].decode("utf-8", "replace")


def _unclear(firsts: list[str], words: set[str]) -> str:
    for first in firsts:
        if first not in READING and first not in WRITING and first not in QUIET:
            return first.upper()
    if "copy" in firsts and not words & {"stdin", "stdout"}:
        return "COPY with a file or a program"
    return ""


# -- bodies of functions


def body_names(source: str) -> Names:
    """The names in a function's body: also those in its literals, which it may run."""
    bare = re.sub(r"--[^\r\n]*", " ", source)
    return _names_in(re.sub(rb"['\"$\x00]", b" ", bare.encode()), [])


def runs_texts(source: str) -> bool:
    """Does a body run texts that it makes itself?"""
    return bool(_DYNAMIC.search(source.lower()))


def at_once(source: str) -> str:
    """What a text does that no rollback takes back; empty: nothing that is known."""
    found = _AT_ONCE.search(source)
    return f"{found.group().partition('(')[0].strip()}()" if found else ""


def may_set(source: str) -> bool:
    """May a body leave something in the session that outlives the transaction?"""
    text = re.sub(r"--[^\r\n]*|/\*.*?\*/", " ", source, flags=re.S).lower()
    local = len(_SET_CONFIG_LOCAL.findall(text))
    return bool(_SETS.search(text)) or len(_SET_CONFIG.findall(text)) > local
