"""Writers that never pause, under forced failovers, one client after the other.

    python -m benchmarks.continuity --failovers 4

The clients, the load and the judge are those of `benchmarks.failover`; here nothing is timed and
all is counted: what was acknowledged and is gone, what is there twice, what the callers were told.
"""
