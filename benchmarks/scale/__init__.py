"""Many clients at once, and one client for long.

    python -m benchmarks.scale sim      thousands of clients in virtual time, around the same core
    python -m benchmarks.scale real     two hundred processes on one lab
    python -m benchmarks.scale soak     an hour, a failover a minute

`world` and `client` are the simulation, `sim` plays it, `real` and `soak` are measured, `report`
draws and compares.
"""
