"""The decisions: values in, values out.

Nothing here imports asyncio, threading, socket, time, random, a driver, dns or
OpenTelemetry; `now` (monotonic seconds) and `rng` are arguments.  What the shells do with a
decision is theirs, what is decided is written here, once, for sync and async.
"""
