"""ORM transactions with think time, struck by failovers: how many go on, and what was told of keys.

python -m benchmarks.orm --failovers 10 --replication async --think-ms 50
"""
