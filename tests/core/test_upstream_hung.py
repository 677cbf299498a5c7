"""When a request that can't be sent again is given up: the endpoint must be proved dead."""

from __future__ import annotations

from math import inf

import pytest
from test_upstream import A, B, World, refused, silent

from resilient.core.upstream import UpstreamConfig, proved_dead
from resilient.core.upstream_events import Gone, Input, Lost, Probed, Succeeded, Trouble

ACTIVE = UpstreamConfig(active=True)


def hung(since_s: float = 1.0) -> Lost:
    return Lost(A, Trouble.SILENT, "no answer for 2 s", since_s)


@pytest.mark.parametrize(
    ("hung_since_s", "heard_s", "others_s", "now", "dead"),
    [
        (1.0, 0.5, (2.9,), 3.0, True),
        (None, 0.5, (2.9,), 3.0, False),  # only requests were silent: it may be slow
        (1.0, 0.5, (2.9,), 2.9, False),  # not for a window yet
        (1.0, 1.5, (2.9,), 3.0, False),  # it sent something meanwhile …
        (1.0, 1.5, (2.9,), 3.5, True),  # … and then fell silent
        (1.0, 0.5, (0.9, -inf), 9.0, False),  # nobody was heard since: it may be the network
        (1.0, 0.5, (2.0,), 9.0, False),  # which may have failed after that
        (1.0, 0.5, (), 9.0, False),
        (1.0, 2.0, (1.5, 2.9), 9.0, False),  # it was heard last, or nearly
    ],
)
def test_what_proves_it(
    hung_since_s: float | None, heard_s: float, others_s: tuple[float, ...], now: float, dead: bool
) -> None:
    assert proved_dead(hung_since_s, heard_s, others_s, ACTIVE, now) is dead


def test_only_silent_health_checks_say_hung() -> None:
    world = World(A, B, config=ACTIVE)(3.0, silent(A))
    assert world.view(A).hung_since_s is None
    assert world(3.1, hung()).view(A).hung_since_s == 1.0
    assert world(3.2, silent(A)).view(A).hung_since_s == 1.0  # what requests see takes nothing back


@pytest.mark.parametrize(
    "event",
    [refused(A), Probed(A, False), Probed(A, True), Succeeded(A, 4.0)],
    ids=["refuses", "answers badly", "answers well", "serves"],
)
def test_any_other_word_of_it_takes_that_back(event: Input) -> None:
    config = UpstreamConfig(active=True, success_threshold=2)
    world = World(A, B, config=config)(3.0, hung())
    assert world(4.0, event).view(A).hung_since_s is None


def test_the_last_one_isnt_given_up() -> None:
    world = World(A, B, config=ACTIVE)(2.0, refused(B))(3.0, hung())
    assert world.view(A).hung_since_s is None


def test_a_retired_one_may_hang() -> None:
    world = World(A, B, config=ACTIVE)(1.0, Succeeded(A, 1.0), Gone())(3.0, hung())
    assert world.view(A).retired
    assert world.view(A).hung_since_s == 1.0
