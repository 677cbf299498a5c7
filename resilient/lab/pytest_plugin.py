"""Fixtures for tests that need the lab.

from resilient.lab.pytest_plugin import lab, session_lab  # in a conftest.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .binaries import find_binaries
from .embedded import Lab
from .options import FAULTS, LabError, LabOptions

__all__ = ["lab", "session_lab", "skip_unless"]


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    """One lab for the whole session.  Where there is no PostgreSQL the tests are skipped."""
    try:
        find_binaries()
    except LabError as error:
        pytest.skip(str(error))
    with Lab(LabOptions()) as running:
        yield running


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """The session's lab, all members healthy at the start of the test and repaired after it."""
    yield session_lab
    session_lab.rejoin()


def skip_unless(lab: Lab, fault: str) -> None:
    """Skip the test, with the lab's reason, where it can't produce the fault."""
    if fault not in FAULTS:
        raise ValueError(fault)
    if fault in lab.skipped_faults:
        pytest.skip(f"{fault}: {lab.skipped_faults[fault]}")
