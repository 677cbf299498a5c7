"""One lab for all tests that need it: there is one port 53 in a namespace."""

from __future__ import annotations

import signal

from resilient.lab.pytest_plugin import lab, session_lab

from .seen import make_seen, seen

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores interrupts, and so would the programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["lab", "make_seen", "seen", "session_lab"]
