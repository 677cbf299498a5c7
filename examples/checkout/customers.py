"""Customers who pay, all the time, and what they met."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import httpx2

#: a customer waits no longer, seconds; then it is a failure, and tried again under the same id
PATIENCE_S = 20.0
PACE_S = 0.05
TRIES = 100


@dataclass(frozen=True, slots=True)
class Try:
    """One POST.  `error`: empty for 201."""

    id: str
    began_at: float
    ended_at: float
    error: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_at - self.began_at


class Customers:
    """`count` of them, one payment after the other; a payment that failed is tried again."""

    def __init__(self, url: str, count: int = 4) -> None:
        self._url = url
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._pay, name=f"customer-{n}") for n in range(count)
        ]
        self.tries: list[Try] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _pay(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=PATIENCE_S, trust_env=False) as client:
            while not self._over.is_set():
                number = uuid.uuid4().hex
                # what was begun is paid in the end, or it is told that it never was
                for _ in range(TRIES):
                    if not self._once(client, number).error:
                        break
                    time.sleep(PACE_S * 4)
                time.sleep(PACE_S)

    def _once(self, client: httpx2.Client, number: str) -> Try:
        began_at, error = time.monotonic(), ""
        try:
            response = client.post("/checkout", params={"id": number})
            if response.status_code != 201:
                error = f"{response.status_code} {response.text.strip()[:80]}"
        except httpx2.HTTPError as exc:
            error = type(exc).__name__
        done = Try(number, began_at, time.monotonic(), error)
        self.tries.append(done)
        return done


def bad_time(tries: Sequence[Try], slow_s: float, since: float, until: float) -> float:
    """Seconds in which somebody's payment failed or was slow, its further tries included: the
    union of those payments."""
    payments: dict[str, list[Try]] = {}
    for one in tries:
        payments.setdefault(one.id, []).append(one)
    spans = (
        (min(one.began_at for one in each), max(one.ended_at for one in each))
        for each in payments.values()
        if any(one.error for one in each) or each[-1].ended_at - each[0].began_at > slow_s
    )
    total, reached = 0.0, since
    for began_at, ended_at in sorted(spans):
        total += max(0.0, min(ended_at, until) - max(began_at, reached))
        reached = max(reached, ended_at)
    return total


def silence(tries: Sequence[Try], since: float, until: float) -> float:
    """The longest time in which nobody's payment succeeded."""
    good = sorted(one.ended_at for one in tries if not one.error)
    edges = [since, *(at for at in good if since < at < until), until]
    return max(b - a for a, b in pairwise(edges))
