"""Base URLs that serve the same (`HTTP_FALLBACKS`): asked when a URL's own endpoints fail.

A request that may be repeated gets stages: the URL itself, then each fallback, each with its
share of the time that is left; and once more the URL itself, for the rest of the time, when
nobody there took connections.  The share bounds getting a connection; silence only where the
request brought its own deadline (slow isn't lost).  A fallback is asked under its own name
(URL, Host, SNI) for the same path and query below its base path.
"""

from __future__ import annotations

from typing import Any

from ..core.upstream_retry import PASSED_ON, may_repeat
from ._attempt import clock
from ._call import PATIENT, SHARE_S
from ._library import Library

#: a stage that would be shorter than this isn't begun, in seconds
MIN_S = 0.02
_SCHEMES = frozenset({"http", "https"})


def variant(request: Any, **changes: Any) -> Any:
    """A copy of the request with other attributes; the body is shared."""
    copy = request.__class__.__new__(request.__class__)
    copy.__dict__.update(request.__dict__)
    copy.__dict__.update(changes)
    return copy


class Fallbacks:
    """The configured base URLs, as URLs of the library."""

    def __init__(self, library: Library, bases: tuple[str, ...]) -> None:
        self._library = library
        self._bases = tuple(library.client.URL(base) for base in bases)

    def relay(self, request: Any, deadline_s: float) -> Relay | None:
        """How this request is passed on; None when it may not be.  `deadline_s`: seconds
        that it has."""
        options = request.extensions.get("resilient") or {}
        url = request.url
        if url.scheme not in _SCHEMES or not url.host:
            return None
        if not may_repeat(request.method, options.get("idempotent"), request.headers):
            return None
        if not isinstance(request.stream, self._library.client.ByteStream):
            return None
        bases = [base for base in self._bases if _origin(base) != _origin(url)]
        if not bases:
            return None
        asked = options.get("deadline_s") is not None
        return Relay(self._library, request, bases, clock() + deadline_s, asked)


class Relay:
    """One request on its way through the stages."""

    def __init__(
        self, library: Library, request: Any, bases: list[Any], deadline_s: float, asked: bool
    ) -> None:
        #: the request itself brought a deadline: then silence is bounded by its shares too
        self._asked = asked
        self._library = library
        self._request = request
        self._deadline_s = deadline_s
        self._stages = [request.url, *(_below(base, request.url) for base in bases)]
        self._stage = 0
        self._kept: Any = None
        self._error: Exception | None = None

    def request(self) -> Any:
        """The request of the next stage."""
        url = self._stages[self._stage]
        left_s = max(0.0, self._deadline_s - clock())
        again = self._stage > 0 and url is self._request.url
        waiting = sum(later is not self._request.url for later in self._stages[self._stage + 1 :])
        options = self._request.extensions.get("resilient") or {}
        bound = "deadline_s" if self._asked else SHARE_S
        options = {**options, bound: left_s / (1 + waiting), PATIENT: again}
        extensions = {**self._request.extensions, "resilient": options}
        if url is self._request.url:
            return variant(self._request, extensions=extensions)
        extensions.pop("sni_hostname", None)
        headers = self._request.headers.copy()
        headers["host"] = url.netloc.decode("ascii")
        return variant(self._request, url=url, headers=headers, extensions=extensions)

    def failed(self, exc: Exception) -> Any:
        """The stage failed: None to go on with the next one, or the response that was
        kept.  Raises what the caller is to see."""
        client = self._library.client
        own = client.NetworkError | client.TimeoutException | client.RemoteProtocolError
        if not isinstance(exc, own | self._library.errors.RetryBudgetExhausted):
            raise exc
        silent = isinstance(exc, client.ReadTimeout | client.WriteTimeout | client.PoolTimeout)
        if silent and not isinstance(exc, self._library.errors.RequestOutcomeUnknown):
            raise exc  # slow isn't lost
        own_url = self._stages[self._stage] is self._request.url
        if own_url:
            self._error = exc
        errors = self._library.errors
        if self._stage == 0 and isinstance(exc, client.ConnectError | errors.DeadlineExceeded):
            self._stages.append(self._request.url)
        if self._advance():
            return None
        if self._kept is not None:
            return self._kept
        if self._error is None or own_url:
            raise exc
        raise self._error from exc

    def answered(self, response: Any) -> tuple[Any, Any]:
        """(the response to hand out, or None to go on; a response to close, or None)."""
        kept = self._kept
        if response.status_code not in PASSED_ON:
            return response, kept
        if kept is None:
            self._kept = kept = response
            return (None, None) if self._advance() else (response, None)
        return (None, response) if self._advance() else (kept, response)

    @property
    def kept(self) -> Any:
        """A bad response that is handed out when no stage has a better one."""
        return self._kept

    def _advance(self) -> bool:
        self._stage += 1
        more = self._stage < len(self._stages)
        return more and self._deadline_s - clock() > MIN_S


def _origin(url: Any) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port


def _below(base: Any, url: Any) -> Any:
    return base.copy_with(raw_path=base.raw_path.partition(b"?")[0].rstrip(b"/") + url.raw_path)
