"""Forced failovers of real servers under load, one client after the other.

    python -m benchmarks.failover --quick

`plan` says what is run, `subject` is the client under test in a process of its own, `faults` break
the servers, `runner` plays one case, `benchmarks.judge` judges it, `rows` and `report` keep and
show what came out.
"""
