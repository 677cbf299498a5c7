"""What to do about a failed statement: by what had been sent and what came back.

All of PostgreSQL's error codes (manual, appendix A) are here: each class as a whole, and
beside it the codes that differ from their class.  A new rule is a new line of data.

What a reply proves, which the reasons below rest on:

* An error that is the *first* reply to a statement, or to COMMIT, ended its transaction
  before the commit record was written.  `react` is asked about first replies only: a server
  that has completed a COMMIT may still serve a shutdown or a cancellation before it is ready
  again (the log line of a slow statement is such a place), and that COMMIT is committed.
* For a statement in autocommit that isn't so: a procedure, VACUUM or CREATE INDEX
  CONCURRENTLY commits on its way.
* A session that ended without any reply proves nothing.

And what a code means depends on who says it.  An ERROR on a session that stands is an answer: a
function, a trigger or a foreign server may raise any code (manual 43.9, RAISE), so the codes of
a server that goes away (`ENDINGS`) count only where the session ended with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from .._dataclass import dataclass
from .sqlstates import Says, codes


class Sent(StrEnum):
    """How far the operation had come when it failed."""

    NOTHING = "nothing"  # no byte of it left this process
    BLOCK = "block"  # a statement inside a transaction block
    AUTOCOMMIT = "autocommit"  # a statement that is a transaction of its own, and may write
    READ = "read"  # the same, and it provably writes nothing
    COMMIT = "commit"


class Action(StrEnum):
    SURFACE = "surface"  # the application's own: passes untouched
    ELSEWHERE = "elsewhere"  # send it again, on whatever the topology names now
    REPLAY = "replay"  # run the transaction so far again on the new primary, then go on
    RESOLVE = "resolve"  # find out whether it took effect
    REPREPARE = "reprepare"  # forget the prepared statements of the session, send it again
    BACK_OFF = "back-off"  # it surfaces, and tells of the endpoint: alive, and without room
    RERUN = "rerun"  # the whole function, by `run`; in a block it surfaces


#: the application's own: they say nothing of the endpoint
OWN = frozenset({Action.SURFACE, Action.RERUN})


@dataclass(frozen=True, slots=True)
class Reaction:
    """`stops`: where the server goes on as it was, the code was meant for this session alone, by
    an operator or by the application itself: then it is the caller's to see, and nothing of it
    is done again."""

    action: Action
    reason: str
    stops: bool = False


#: one reaction for each thing that may have been sent
Row = Mapping[Sent, Reaction]


def _row(action: Action, reason: str, **but: Reaction) -> Row:
    """The same for all, `but` for some, named as `Sent` names them."""
    usual = Reaction(action, reason)
    return {sent: but.get(sent.value, usual) for sent in Sent}


def _own(reason: str) -> Row:
    """The application's own error, however far it had come."""
    return _row(Action.SURFACE, reason)


_FREE = Reaction(Action.ELSEWHERE, "nothing of it was sent")
_AGAIN = Reaction(Action.ELSEWHERE, "it writes nothing, so it may be sent twice")
_UNDONE = Reaction(Action.REPLAY, "the server undid it with its session; COMMIT wasn't sent")
_MAYBE = Reaction(Action.RESOLVE, "it may have taken effect, and its reply was lost")

#: the session ended, and nobody said how far it had come
LOST: Row = {
    Sent.NOTHING: _FREE,
    Sent.BLOCK: _UNDONE,
    Sent.AUTOCOMMIT: _MAYBE,
    Sent.READ: _AGAIN,
    Sent.COMMIT: Reaction(Action.RESOLVE, "the reply to COMMIT was lost"),
}
_KILLED = "the session was ended before it took any more"
_ALIVE = _own("no SQLSTATE, and the connection stands: the driver's or the caller's own error")
_STRANGE = _own("a code that PostgreSQL doesn't have, on a connection that stands")

#: class → what its codes mean, unless they stand in `CODES`
CLASSES: dict[str, Row] = {
    "00": _own("no failure"),
    "01": _own("a warning"),
    "02": _own("no data: the application's to know"),
    "03": _own("a result is still being read: the caller's order of calls"),
    # On a session that stands: a function's, or a foreign server's that this one passes on.
    "08": _own("a connection of the server's own, to somebody else"),
    "09": _own("a trigger's own error"),
    "0A": _own("the server has no such feature"),
    "0B": _own("a transaction was begun in the wrong place"),
    "0F": _own("a bad locator"),
    "0L": _own("a bad grantor"),
    "0P": _own("a bad role"),
    "0Z": _own("a procedure's use of diagnostics"),
    "10": _own("a bad XQuery argument"),
    "20": _own("no branch of a CASE fits"),
    "21": _own("a subquery gave the wrong number of rows"),
    "22": _own("bad data"),
    "23": _own("a constraint said no"),
    "24": _own("a cursor in the wrong state"),
    "25": _own("a transaction in the wrong state"),
    "26": _own("a bad statement name"),
    "27": _own("two changes of one row by a trigger"),
    "28": _own("the server refuses this user: another one would as well"),
    "2B": _own("a privilege that others depend on"),
    "2D": _own("a transaction was ended in the wrong place"),
    "2F": _own("a routine's own error"),
    "34": _own("no such cursor"),
    "38": _own("an external routine's own error"),
    "39": _own("an external routine was called wrongly"),
    "3B": _own("no such savepoint"),
    "3D": _own("no such database: the configuration's"),
    "3F": _own("no such schema"),
    "40": _own("the transaction was rolled back for a reason of its own"),
    "42": _own("the statement's text, names or privileges"),
    "44": _own("a view's check option said no"),
    "53": _own("the server is out of resources: at once again would add to its load"),
    "54": _own("the statement is too large for the server"),
    "55": _own("an object isn't in the state that the statement needs"),
    "57": _own("an operator's doing"),
    "58": _own("the server's storage or files failed: somebody has to see it"),
    "72": _own("the snapshot has grown too old"),
    "F0": _own("the server's configuration files"),
    "HV": _own("a foreign server's error"),
    "P0": _own("a procedure's own error"),
    "XX": _own("an error of the server's own, or corrupted data: somebody has to see it"),
}

#: classes of failures that are the server's: with the connection gone, it is a lost session.
#: The others' errors are replies to what was sent; that the connection went afterwards
#: doesn't change what they say.
SERVERS: dict[str, Row] = {
    # 08: a pooler's word that its server is gone.
    **dict.fromkeys(("08", "57", "58", "F0", "XX"), LOST),
    "53": {**LOST, Sent.NOTHING: Reaction(Action.BACK_OFF, "the server has no room for us")},
}

_POLICY = "a time limit that the application or the operator set"
_DEMOTED = "the primary was demoted"
_FULL = "the server takes no connection now"
_CONFLICT = "two transactions were in each other's way; nothing of this one is left"
_STOPPED = "an operator, or a time limit, stopped the statement; it did nothing"
_FORGOTTEN = "the session's prepared statement is gone; nothing was executed"
_OUTSIDE = "only a session outside of a transaction ends like this"

_ROOM = _row(
    Action.BACK_OFF,
    _FULL,
    # A refusal to connect is no reply to a COMMIT: what became of it isn't known.
    commit=Reaction(Action.RESOLVE, "the reply to COMMIT was lost, and " + _FULL),
)
_REPREPARED = _row(
    Action.REPREPARE,
    _FORGOTTEN,
    block=Reaction(Action.SURFACE, "the transaction has failed with it"),
    commit=Reaction(Action.SURFACE, "COMMIT isn't prepared: the application's own"),
)
_AMBIGUOUS: Row = {
    **LOST,
    **dict.fromkeys(
        (Sent.AUTOCOMMIT, Sent.COMMIT),
        Reaction(Action.RESOLVE, "the server itself doesn't know whether it took effect"),
    ),
}

#: the codes that differ from their class, whoever says them
CODES: dict[str, Row] = {
    "25006": {
        sent: Reaction(
            Action.REPLAY if sent in (Sent.BLOCK, Sent.COMMIT) else Action.ELSEWHERE,
            f"{_DEMOTED}: it did nothing",
            stops=True,
        )
        for sent in Sent
    },
    "25P02": _own("the transaction failed before: its first error is the one to see"),
    "25P03": _own(f"{_POLICY}: idle in a transaction"),
    "25P04": _own(f"{_POLICY}: the transaction's"),
    "26000": _REPREPARED,
    **dict.fromkeys(codes(Says.RERUN), _row(Action.RERUN, _CONFLICT)),
    "55P03": _own(f"{_POLICY}: waiting for a lock"),
    "55P04": _own("an enum's new value isn't committed yet: it would fail for ever"),
    "57014": _own(_STOPPED),
}

#: the codes that a session ends with; the class tells what they are on one that stands
ENDINGS: dict[str, Row] = {
    "08007": _AMBIGUOUS,
    "40003": _AMBIGUOUS,
    "53300": _ROOM,
    "57P01": {
        Sent.NOTHING: _FREE,
        Sent.BLOCK: Reaction(Action.REPLAY, _KILLED, stops=True),
        Sent.AUTOCOMMIT: Reaction(Action.RESOLVE, _KILLED, stops=True),
        Sent.READ: Reaction(Action.ELSEWHERE, _KILLED, stops=True),
        Sent.COMMIT: Reaction(Action.REPLAY, _KILLED, stops=True),
    },
    # Sent by a signal handler, in the middle of anything: unlike 57P01 it proves nothing.
    "57P02": LOST,
    "57P03": _ROOM,
    # Only a standby ends sessions with it (a DROP DATABASE that it replays), and there
    # nothing can be committed.
    "57P04": _own("the database was dropped: it is gone on every server"),
    # The server looks for it once more when a statement has arrived, before it is executed.
    "57P05": _row(
        Action.ELSEWHERE,
        "the session ended, idle, before it took the statement",
        block=Reaction(Action.REPLAY, f"{_OUTSIDE}: nothing of the block was executed"),
        commit=Reaction(Action.RESOLVE, f"{_OUTSIDE}: what became of ours isn't known"),
    ),
}

#: what 0A000 says when a prepared statement's result type has changed under it
CACHED_PLAN = "cached plan must not change result type"


def _lookup(code: str, broken: bool) -> Row:
    group = code[:2]
    if code in CODES:
        return CODES[code]
    if broken and code in ENDINGS:
        return ENDINGS[code]
    if group not in CLASSES:
        return LOST if broken else _STRANGE
    return SERVERS.get(group, CLASSES[group]) if broken else CLASSES[group]


def react(
    sqlstate: str | None,
    sent: Sent,
    *,
    broken: bool,
    read_only: bool = False,
    text: str = "",
) -> Reaction:
    """What to do about a failure.

    `sqlstate`: of the first reply, None when there was none.  `broken`: the connection is
    gone, or said FATAL.  `read_only`: the transaction asked to be so.  `text`: the message,
    which for one code (0A000) makes the difference.
    """
    if sqlstate is None:
        row = LOST if broken else _ALIVE
    elif sqlstate == "0A000" and CACHED_PLAN in text:
        row = _REPREPARED
    else:
        row = _lookup(sqlstate, broken)
    if sqlstate == "25006" and read_only:
        return Reaction(Action.SURFACE, "the transaction asked to be read-only, and wrote")
    return row[sent]
