"""What is known to be wrong, by the names of tests (with * for anything): a list to shorten."""

from __future__ import annotations

_NO_XID = "no transaction id is taken for nothing written"
_TEXT = "a text that looks like a read is taken for one"
EXPECTED: dict[str, str] = {
    "test_told_by_guess.py::test_block_without_a_transaction_id[*": _NO_XID,
    "test_told_by_guess.py::test_run_without_a_transaction_id[*": _NO_XID,
    "test_told_by_guess.py::test_what_looks_like_a_read_in_autocommit[*": _TEXT,
    "test_told_by_guess.py::test_autocommit_without_a_transaction_id[*": _TEXT,
    "test_told_by_guess.py::test_block_that_writes_here_and_far[*": "the far half is forgotten",
    "test_told_by_guess.py::test_killed_after_the_far_commit[*": "57P01 is taken for a proof",
    "test_told_by_guess.py::test_killed_while_it_waits_for_a_standby[*": "a WARNING is a proof",
    "test_told_by_guess.py::test_read_only_checkout_of_an_autocommit_pool[*": "not told",
    "test_told_by_guess.py::test_read_only_checkout_whose_reply_is_lost[*": "sent again",
}
