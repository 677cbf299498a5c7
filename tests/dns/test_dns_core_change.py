"""The pure core: what a new answer changes, and names before anything is asked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.dns import (
    Answer,
)
from resilient.core.dns_change import BypassLimiter, Detector
from resilient.core.dns_names import (
    candidates,
    literal,
    normalise,
    parse_hosts,
    parse_resolv_conf,
)

# -- what a new answer changes


def _answer(*addresses: str, to: str = "t") -> Answer:
    return Answer(addresses, to, ("n", to), 5, 5)


def _detector(**modes: str) -> Detector:
    return Detector(modes, 100, lambda key: False)


def test_one_address_replaced_is_strict() -> None:
    detector = _detector()
    assert detector.observe("n", 4, _answer("1")) is None
    assert detector.observe("n", 4, _answer("1")) is None
    change = detector.observe("n", 4, _answer("2"))
    assert change is not None
    assert (change.mode, change.removed, change.added) == ("strict", {"1"}, {"2"})
    back = detector.observe("n", 4, _answer("1"))
    assert back is not None
    assert (back.mode, back.removed) == ("strict", {"2"})


def test_overlapping_subsets_are_rotating() -> None:
    detector = _detector()
    detector.observe("n", 4, _answer("1", "2"))
    change = detector.observe("n", 4, _answer("2", "3"))
    assert change is not None
    assert (change.mode, change.removed, change.added) == ("rotating", frozenset(), {"3"})
    assert detector.observe("n", 4, _answer("1", "3")) is None
    assert detector.observe("n", 4, _answer("1", "3")) is None
    gone = detector.observe("n", 4, _answer("1", "3"))
    assert gone is not None  # 2 was absent three times
    assert (gone.mode, gone.removed, gone.added) == ("rotating", {"2"}, frozenset())


def test_rotating_drops_what_is_absent_and_dead_or_absent_three_times() -> None:
    detector = _detector(n="rotating")
    detector.observe("n", 4, _answer("1", "2", "3"))
    change = detector.observe("n", 4, _answer("1"), frozenset({"2"}))
    assert change is not None
    assert (change.mode, change.removed) == ("rotating", {"2"})
    assert detector.observe("n", 4, _answer("1")) is None
    change = detector.observe("n", 4, _answer("1"))
    assert change is not None
    assert change.removed == {"3"}


def test_one_address_at_a_time_of_several_is_found_out() -> None:
    detector = _detector()
    modes = []
    for address in "1212121":
        change = detector.observe("n", 4, _answer(address))
        modes.append(change.mode if change else None)
    assert modes[1:3] == ["strict", "strict"]
    assert "strict" not in modes[4:]


def test_a_moved_alias_is_strict_even_for_a_rotating_name_unless_told() -> None:
    for modes, expected in (({}, {"1", "2", "3"}), ({"n": "rotating"}, set())):
        detector = _detector(**modes)
        detector.observe("n", 4, _answer("1", "2"))
        detector.observe("n", 4, _answer("2", "3"))
        change = detector.observe("n", 4, _answer("7", "8", to="u"))
        assert change is not None
        assert change.removed == expected
        assert change.added == {"7", "8"}


def test_forced_strict() -> None:
    detector = _detector(n="strict")
    detector.observe("n", 4, _answer("1", "2"))
    change = detector.observe("n", 4, _answer("2", "3"))
    assert change is not None
    assert (change.mode, change.removed) == ("strict", {"1"})


@given(
    answers=st.lists(st.sets(st.sampled_from("12345"), min_size=1), min_size=1, max_size=30),
    targets=st.lists(st.sampled_from("tu"), min_size=30, max_size=30),
)
def test_changes_add_up(answers: list[set[str]], targets: list[str]) -> None:
    """Applying every change keeps a superset of what is answered, and never forgets."""
    detector = _detector()
    held: set[str] = set(answers[0])
    for addresses, target in zip(answers, targets, strict=False):
        change = detector.observe("n", 4, _answer(*sorted(addresses), to=target))
        if change is not None:
            assert change.added.isdisjoint(held)
            assert change.removed <= held
            held = (held | change.added) - change.removed
        assert addresses <= held


def test_detector_is_bounded_but_keeps_the_watched() -> None:
    detector = Detector({}, 0, lambda key: key == ("kept", 4))
    detector.observe("kept", 4, _answer("1"))
    for i in range(100):
        detector.observe(f"n{i}", 4, _answer("1"))
    assert len(detector._histories) == 16
    assert detector.observe("kept", 4, _answer("2")) is not None


def test_a_new_name_costs_the_same_however_many_there_were() -> None:
    """A crawler's: each makes one go, and the others aren't looked at."""
    looked: list[object] = []

    def keep(key: object) -> bool:
        looked.append(key)
        return key == ("kept", 4)

    detector = Detector({}, 500, keep)
    for number in range(2000):
        name = "kept" if number == 100 else f"n{number}"
        detector.observe(name, 4, _answer("1"))
    assert len(looked) < 2 * 2000


@given(st.lists(st.floats(0, 0.3), max_size=50))
def test_bypass_limiter(pauses: list[float]) -> None:
    limiter, now, sent = BypassLimiter(), 0.0, []
    for pause in pauses:
        now += pause
        if not limiter.wait_s(("a", 4), now):
            limiter.note(("a", 4), now)
            sent.append(now)
    assert all(b - a >= 0.25 - 1e-9 for a, b in pairwise(sent))


# -- names


def test_candidates() -> None:
    assert candidates("db", False, ["x", "y"], 1) == ("db.x", "db.y", "db")
    assert candidates("a.b", False, ["x"], 1) == ("a.b", "a.b.x")
    assert candidates("db", True, ["x"], 1) == ("db",)
    assert candidates("db", False, ["x" * 252], 1) == ("db",)


@pytest.mark.parametrize("bad", ["", ".", "a..b", "a" * 64, "a b", "a\n", "a." * 127 + "a", "a\\b"])
def test_names_that_are_none(bad: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        normalise(bad)


def test_names() -> None:
    assert normalise("BÜCHER.Test.") == "xn--bcher-kva.test"
    assert normalise("_postgresql._TCP.x") == "_postgresql._tcp.x"
    assert normalise("_sip._TCP.BÜCHER。test") == "_sip._tcp.xn--bcher-kva.test"


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("straße.test", "xn--strae-oqa.test"),  # IDNA 2003: strasse.test
        ("βόλος.test", "xn--nxasmm1c.test"),  # IDNA 2003: another letter
        ("xn--strae-oqa.test", "xn--strae-oqa.test"),
        ("ﬁn.Test", "fin.test"),
    ],
)
def test_names_in_other_scripts_are_idna_2008s(name: str, wire: str) -> None:
    assert normalise(name) == wire
    assert literal("[2001:db8::1]") == "2001:db8::1"
    assert literal("fe80::1%eth0") == "fe80::1%eth0"
    assert literal("1.2.3") is None
    assert literal("1.example") is None


@given(st.text())
def test_files_of_any_content_are_read(text: str) -> None:
    parse_hosts(text)
    parse_resolv_conf(text)
    literal(text)


def test_resolv_conf() -> None:
    conf = parse_resolv_conf(
        "# c\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver fe80::1%eth0\n"
        "domain first.test\nsearch One.test. two.test .\noptions rotate ndots:99 ndots:x\n"
    )
    assert conf.nameservers == ("192.0.2.1", "fe80::1%eth0")
    assert conf.search == ("one.test", "two.test")
    assert (conf.ndots, conf.rotate) == (15, True)
