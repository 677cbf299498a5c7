"""Fixtures for this project's own tests that need the lab; others' are in `resilient.testing`.

from resilient.lab.pytest_plugin import lab, session_lab  # in a conftest.py
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .binaries import find_binaries
from .embedded import Lab
from .options import FAULTS, LabError, LabOptions

__all__ = ["lab", "running", "session_lab", "skip_unless"]


@contextmanager
def running(options: LabOptions) -> Iterator[Lab]:
    """A lab.  Where there is no PostgreSQL whoever asks is skipped."""
    try:
        find_binaries()
    except LabError as error:
        pytest.skip(str(error))
    with Lab(options) as lab:
        yield lab


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    """One lab for the whole session."""
    with running(LabOptions()) as lab:
        yield lab


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
