"""The errors of a call that are our own, with what led to them in their text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._attempt import Attempt, clock

if TYPE_CHECKING:
    from ._call import Call


def late(call: Call, attempt: Attempt) -> Exception:
    """Our deadline passed, or the one that the request brought with it."""
    waited_s = clock() - attempt.began_s
    what = "sent, not answered" if attempt.sent else "no connection"
    text = (
        f"no response by the deadline: {attempt.slot.text}: {what}"
        f" for {waited_s:.1f} s (attempt {attempt.number})"
    )
    error: Exception = call.library.errors.DeadlineExceeded(text)
    return error


def stranded(call: Call, attempt: Attempt, now: float) -> Exception:
    """The endpoint is proved dead, and the request may not be sent again."""
    text = (
        f"{attempt.slot.text}: sent, and no answer for {now - attempt.began_s:.1f} s, nor to"
        " health checks, while others answer: the request may have taken effect"
    )
    error: Exception = call.library.errors.RequestOutcomeUnknown(text)
    return error


def budget(call: Call, exc: Exception) -> Exception:
    """One more attempt would exceed the retry budget."""
    text = f"{call.origin.host}: no retry left in the budget after {call.attempts} attempts"
    error: Exception = call.library.errors.RetryBudgetExhausted(f"{text}: {exc}")
    return error


def nobody(call: Call) -> Exception:
    """No endpoint takes connections."""
    host, snapshot = call.origin.host, call.origin.snapshot
    if snapshot.gone and not snapshot.resolved:
        text = f"{host}: no such name, and none of its endpoints answers any more"
        error: Exception = call.library.errors.NameNotFound(text, name=host)
        return error
    return _without_endpoint(call, call.library.errors.NoEndpointAvailable, "")


def nobody_in_time(call: Call) -> Exception:
    """The same was still so when the time for it was over."""
    return _without_endpoint(call, call.library.errors.NoEndpointInTime, " in time")


def _without_endpoint(call: Call, kind: Any, when: str) -> Exception:
    snapshot, name = call.origin.snapshot, f"{call.origin.host}:{call.origin.port}"
    error: Exception = kind(
        f"{name} has no endpoint that takes connections{when}",
        topology=snapshot,
        reasons=snapshot.reasons(),
    )
    return error
