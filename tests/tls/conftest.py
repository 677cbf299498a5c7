"""One authority for these tests, and the helpers that they share with `tests/dns`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trustme

sys.path.append(str(Path(__file__).parents[1] / "dns"))


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)
