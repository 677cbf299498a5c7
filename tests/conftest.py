"""One lab for all tests that need it: there is one port 53 in a namespace."""

from __future__ import annotations

from resilient.lab.pytest_plugin import lab, session_lab

from .seen import make_seen, seen

__all__ = ["lab", "make_seen", "seen", "session_lab"]
