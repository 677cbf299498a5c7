"""What to do about each failure: the rules as a table, and no code without a reaction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors as e

from resilient.core.reaction import (
    CACHED_PLAN,
    CLASSES,
    CODES,
    ENDINGS,
    SERVERS,
    Action,
    Sent,
    react,
)

#: every code that psycopg has an exception for, which are those of PostgreSQL's appendix A
KNOWN = sorted(
    {
        kind.sqlstate
        for kind in vars(e).values()
        if isinstance(kind, type) and issubclass(kind, e.Error) and kind.sqlstate
    }
)
ACTIONS = {action.value: action for action in Action}
LOST = "elsewhere replay resolve elsewhere resolve"
OWN = "surface surface surface surface surface"
ROOM = "back-off back-off back-off back-off resolve"
PREPARED = "reprepare surface reprepare reprepare surface"
RERUN = "rerun rerun rerun rerun rerun"
DEMOTED = "elsewhere replay elsewhere elsewhere replay"

#: code, is the connection gone → nothing sent, block, autocommit, read, commit
RULES: list[tuple[str | None, bool | None, str]] = [
    (None, True, LOST),
    (None, False, OWN),
    # the session's end: FATAL, or its socket's end
    ("08000", True, LOST),
    ("08001", True, LOST),
    ("08003", True, LOST),
    ("08006", True, LOST),
    ("08P01", True, LOST),
    ("57P01", True, "elsewhere replay resolve elsewhere replay"),
    ("57P02", True, LOST),
    ("57P05", True, "elsewhere replay elsewhere elsewhere resolve"),
    ("57P04", True, OWN),
    # the same codes raised by a function, or passed on from a foreign server
    ("08000", False, OWN),
    ("08006", False, OWN),
    ("08007", False, OWN),
    ("08P01", False, OWN),
    ("53300", False, OWN),
    ("57P01", False, OWN),
    ("57P02", False, OWN),
    ("57P03", False, OWN),
    ("57P05", False, OWN),
    ("57000", False, OWN),
    ("57000", True, LOST),
    # a demoted primary
    ("25006", None, DEMOTED),
    # no room
    ("57P03", True, ROOM),
    ("53300", True, ROOM),
    # conflicts
    ("40001", None, RERUN),
    ("40P01", None, RERUN),
    ("40003", True, LOST),
    ("40003", False, OWN),
    ("40002", None, OWN),
    # prepared statements
    ("26000", None, PREPARED),
    ("42P05", None, OWN),
    ("0A000", None, OWN),
    # policies
    ("25P02", None, OWN),
    ("25P03", None, OWN),
    ("25P04", None, OWN),
    ("57014", None, OWN),
    ("55P03", None, OWN),
    ("55P04", None, OWN),
    # the server's troubles: its word while it lives, a lost session when it took that with it
    ("53100", False, OWN),
    ("53200", True, "back-off replay resolve elsewhere resolve"),
    ("58030", False, OWN),
    ("58030", True, LOST),
    ("F0000", True, LOST),
    ("XX000", False, OWN),
    ("XX000", True, LOST),
    ("XX001", False, OWN),
    # the application's own stay so, whatever became of the connection afterwards
    ("22012", None, OWN),
    ("23505", None, OWN),
    ("23503", None, OWN),
    ("28P01", None, OWN),
    ("3D000", None, OWN),
    ("42601", None, OWN),
    ("P0001", None, OWN),
    # nobody's: a pooler's or a cloud's
    ("ZZ999", False, OWN),
    ("ZZ999", True, LOST),
    ("", True, LOST),
]


@pytest.mark.parametrize(("sqlstate", "broken", "expected"), RULES)
def test_the_rules(sqlstate: str | None, broken: bool | None, expected: str) -> None:
    wanted = [ACTIONS[name] for name in expected.split()]
    for gone in (True, False) if broken is None else (broken,):
        found = [react(sqlstate, sent, broken=gone).action for sent in Sent]
        assert found == wanted, f"broken={gone}"


@pytest.mark.parametrize("sent", list(Sent))
@pytest.mark.parametrize("broken", [True, False])
def test_every_code_has_a_reaction_with_a_reason(sent: Sent, broken: bool) -> None:
    for sqlstate in KNOWN:
        assert sqlstate in CODES or sqlstate in ENDINGS or sqlstate[:2] in CLASSES
        for read_only in (True, False):
            reaction = react(sqlstate, sent, broken=broken, read_only=read_only)
            assert reaction.reason
            assert "code that PostgreSQL doesn't have" not in reaction.reason


def test_psycopg_knows_all_classes_and_codes_of_the_tables() -> None:
    assert len(KNOWN) > 200
    assert set(CODES) | set(ENDINGS) <= set(KNOWN)
    assert not set(CODES) & set(ENDINGS)
    # classes of codes that are no errors have no exceptions
    assert set(CLASSES) - {code[:2] for code in KNOWN} <= {"00", "01"}
    assert set(SERVERS) <= set(CLASSES)


@pytest.mark.parametrize("broken", [True, False])
def test_what_may_have_committed_is_never_sent_again(broken: bool) -> None:
    """A write goes again only on a proof: the first reply was the error that undid it."""
    proved = {"25006", "40001", "40P01", "57P05", "26000", "53300", "57P03"}
    again = {Action.ELSEWHERE, Action.REPLAY, Action.REPREPARE, Action.BACK_OFF, Action.RERUN}
    for sqlstate in [*KNOWN, None]:
        if react(sqlstate, Sent.AUTOCOMMIT, broken=broken).action in again:
            assert sqlstate in proved
        if react(sqlstate, Sent.COMMIT, broken=broken).action in again:
            assert sqlstate in {"25006", "40001", "40P01", "57P01"}


@pytest.mark.parametrize("sent", [Sent.NOTHING, Sent.BLOCK, Sent.READ])
def test_what_can_not_have_committed_is_never_resolved(sent: Sent) -> None:
    for sqlstate in [*KNOWN, None]:
        for broken in (True, False):
            assert react(sqlstate, sent, broken=broken).action is not Action.RESOLVE


@pytest.mark.parametrize("sent", list(Sent))
def test_a_transaction_that_asked_to_be_read_only_and_wrote(sent: Sent) -> None:
    assert react("25006", sent, broken=False, read_only=True).action is Action.SURFACE


def test_that_it_asked_to_be_read_only_proves_nothing() -> None:
    """NOTIFY, dblink and foreign tables pass (manual, SET TRANSACTION)."""
    for code in [*KNOWN, None]:
        for sent in Sent:
            if code != "25006":
                asked = react(code, sent, broken=True, read_only=True)
                assert asked == react(code, sent, broken=True)


def test_a_changed_result_type_is_told_by_its_text_only() -> None:
    for sent, name in zip(Sent, PREPARED.split(), strict=True):
        text = f"ERROR:  {CACHED_PLAN}"
        assert react("0A000", sent, broken=False, text=text).action is ACTIONS[name]
        assert react("0A000", sent, broken=False, text="no").action is Action.SURFACE
        assert react("42601", sent, broken=False, text=text).action is Action.SURFACE


@given(st.text(max_size=6) | st.none(), st.sampled_from(Sent), st.booleans(), st.booleans())
def test_anything_else_has_a_reaction_too(
    sqlstate: str | None, sent: Sent, broken: bool, read_only: bool
) -> None:
    reaction = react(sqlstate, sent, broken=broken, read_only=read_only)
    assert reaction.reason
    if sqlstate not in CODES and not broken:
        assert reaction.action is Action.SURFACE


def test_only_an_operators_kill_and_a_refused_write_may_be_meant_for_the_session_alone() -> None:
    for sqlstate in [*KNOWN, None]:
        for sent in Sent:
            stops = react(sqlstate, sent, broken=True).stops
            assert stops == (
                sqlstate in ("25006", "57P01")
                and not (sqlstate == "57P01" and sent is Sent.NOTHING)
            )
            assert react(sqlstate, sent, broken=False).stops == (sqlstate == "25006")
