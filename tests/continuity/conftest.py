"""The lab, a proxy in front of its primary, and pools that go through it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient.lab import Lab, LabOptions
from resilient.lab.wire import WireProxy


@pytest.fixture
def proxy(lab: Lab) -> Iterator[WireProxy]:
    with WireProxy(lab.primary.address, lab.port) as running:
        yield running


@pytest.fixture(scope="package")
def asynchronous() -> Iterator[Lab]:
    """Servers that acknowledge before any standby has the transaction."""
    with Lab(LabOptions(sync=False, http=False)) as running:
        yield running
