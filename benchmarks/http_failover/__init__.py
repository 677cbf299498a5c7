"""Upstreams that die, hang, reset, leave DNS or say 503, under load, one client after the other.

    python -m benchmarks.http_failover --quick

The pieces are those of `benchmarks.failover`: `plan`, `subject`, `runner`, `report`.
"""
