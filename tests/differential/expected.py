"""What is known to be wrong, by the names of tests (with * for anything): a list to shorten."""

from __future__ import annotations

_NO_XID = "no transaction id is taken for nothing written"
_TEXT = "a text that looks like a read is taken for one"
_KILL = "an operator's kill is taken for a failover"
_OWN = "the application's own error is taken for a failover"
_LIMIT = "a limit of time is taken for a failover"
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
    "test_stop.py::test_an_operators_kill[*": _KILL,
    "test_stop.py::test_an_operators_kill_whatever_the_attempts[*": _KILL,
    "test_stop.py::test_an_operators_kill_of_a_session_idle_in_a_transaction[*": _KILL,
    "test_stop.py::test_a_statement_that_fells_its_server[*": "it fells it again and again",
    "test_stop.py::test_idle_in_transaction_too_long[*": _LIMIT,
    "test_stop.py::test_idle_in_transaction_too_long_in_run[*": _LIMIT,
    "test_stop.py::test_a_transaction_that_takes_too_long[*": _LIMIT,
    "test_stop.py::test_what_the_applications_functions_raise[*": _OWN,
    "test_stop.py::test_a_write_in_what_the_application_made_read_only[*": _OWN,
    "test_stop.py::test_a_user_who_may_only_read[*": _OWN,
    "test_stop.py::test_a_foreign_server_that_cannot_be_reached[*": _OWN,
    "test_told_by_guess.py::test_far_work_is_not_done_again_in_a_replay[*": "done again",
    "test_told_by_guess.py::test_the_ledger_resolves_what_leaves_no_transaction_id[*": _NO_XID,
    "test_told_by_guess.py::test_auto_*": "there is no such resolver",
    "test_told_by_guess.py::test_a_ledger_that_may_not_be_written_to_is_*": "not clear",
    "test_sessions.py::test_a_state_of_the_session[*": "it is lost in silence",
    "test_sessions.py::test_row_security_by_a_callback[*-check-*": "check isn't run again",
    "test_sessions.py::test_types_have_other_numbers_after_the_loss[*": "old adapters stay",
    "test_promoted.py::test_what_readers_left_*": "readers' connections become the writer's",
    "test_promoted.py::test_a_recovery_conflict_*": "the same replica is tried again",
    "test_extras.py::test_prepared_names_that_are_gone[*": "our own names are missed",
    "test_extras.py::test_forgotten_*": "our own names are missed",
    "test_extras.py::test_the_token_of_a_primary_that_died[*": "a private error",
    "test_extras.py::test_a_block_that_is_open_during_close[*": "it ends in an error",
    "test_extras.py::test_a_pipeline_that_is_struck[*": "the error is the pipeline's",
    "test_extras.py::test_a_read_that_differs_after_the_loss[*": "it isn't said",
    "test_extras.py::test_a_large_result_costs_no_more_than_a_bound": "each row is recorded",
    "test_sent_is_kept.py::test_a_buffer_*": "it is kept by reference",
}
