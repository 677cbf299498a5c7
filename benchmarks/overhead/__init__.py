"""What the library costs while nothing fails, beside what it stands on.

    python -m benchmarks.overhead --quick

`batches` takes the times, `cases` says what is done, `database`, `web` and `names` with what,
`delay` puts a network between client and server, `weight` looks at imports, memory, threads and
sockets of fresh processes.  This file imports nothing: those processes are weighed with it.
"""
