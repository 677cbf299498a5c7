"""Forced failovers in the middle of plain blocks, on both shells.

Each test is one act of a script (`acts_*`); the acts of a script share its failovers.
"""

from __future__ import annotations

import pytest

from . import acts_cursors, acts_pipelines
from .acts_going_on import GOING_ON
from .acts_refused import REFUSED
from .acts_state import STATE
from .conftest import Perform
from .stage import script

pytestmark = pytest.mark.lab

#: the same blocks under the faults that end sessions in other ways: with a word (57P01),
#: or without any, on a server that goes on listening
OTHERS = [script("switchover", "switchover"), script("hang", "hang")]
for _other in OTHERS:
    for _act in (
        "same_objects",
        "savepoints",
        "errors_that_were_caught",
        acts_cursors.executemany_struck.__name__,
        "between_the_last_statement_and_commit",
        "during_a_statement",
        "during_the_first_statement",
        "a_second_transaction_on_the_checkout",
        "idle_between_two_transactions",
        acts_pipelines.a_pipeline_around.__name__,
    ):
        _other.act(GOING_ON.acts[_act])


@pytest.mark.parametrize("act", GOING_ON.acts)
@pytest.mark.parametrize("shell", ["sync", "async"])
def test_a_block_goes_on(perform: Perform, shell: str, act: str) -> None:
    perform(shell, GOING_ON.title).check(act)


@pytest.mark.parametrize("act", STATE.acts)
@pytest.mark.parametrize("shell", ["sync", "async"])
def test_the_session_is_as_it_was(perform: Perform, shell: str, act: str) -> None:
    perform(shell, STATE.title).check(act)


@pytest.mark.parametrize("act", REFUSED.acts)
@pytest.mark.parametrize("shell", ["sync", "async"])
def test_what_cannot_be_done_again_is_refused(perform: Perform, shell: str, act: str) -> None:
    perform(shell, REFUSED.title).check(act)


@pytest.mark.parametrize("act", OTHERS[0].acts)
@pytest.mark.parametrize("fault", [other.title for other in OTHERS])
@pytest.mark.parametrize("shell", ["sync", "async"])
def test_other_faults(perform: Perform, shell: str, fault: str, act: str) -> None:
    perform(shell, fault).check(act)
