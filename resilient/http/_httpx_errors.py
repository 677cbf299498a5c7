# Made from resilient/http/errors.py by `make generate`: change that one.
"""The errors of `resilient.http.httpx`, each also one of httpx's.

`except httpx.TransportError` catches all of them.  The failure that led to one is its
`__cause__`.  `resilient.http.httpx` has the same names on httpx's classes.
"""

from __future__ import annotations

import httpx

from .. import errors

__all__ = [
    "DeadlineExceeded",
    "NameNotFound",
    "NameServersFailed",
    "NameTimeout",
    "NoEndpointAvailable",
    "NoEndpointInTime",
    "RequestOutcomeUnknown",
    "ResolutionError",
    "RetryBudgetExhausted",
]


class DeadlineExceeded(errors.DeadlineExceeded, httpx.TimeoutException):
    """The deadline passed before a response began."""


class NoEndpointAvailable(errors.NoEndpointAvailable, httpx.ConnectError):
    """None of the origin's endpoints took a connection (`reasons` has each one's why)."""


class NoEndpointInTime(NoEndpointAvailable, DeadlineExceeded):
    """The same was still so at the deadline: an idempotent request waits until then."""


class RequestOutcomeUnknown(errors.RequestOutcomeUnknown, httpx.ReadTimeout):
    """The endpoint was proved dead while a request that can't be sent again waited there: it
    may have taken effect."""


class RetryBudgetExhausted(errors.RetryBudgetExhausted, httpx.TransportError):
    """One more attempt would exceed the retry budget."""


class ResolutionError(errors.ResolutionError, httpx.ConnectError):
    """The URL's host name could not be resolved."""

    def __init__(self, message: str = "", *, name: str = "") -> None:
        httpx.ConnectError.__init__(self, message)
        errors.ResolutionError.__init__(self, message, name=name)


class NameNotFound(ResolutionError, errors.NameNotFound):
    """The URL's host name does not exist."""


class NameTimeout(ResolutionError, errors.NameTimeout):
    """No name server answered in time."""


class NameServersFailed(ResolutionError, errors.NameServersFailed):
    """Every name server failed."""
