"""The judge of every run.  It imports nothing of the library, and none of its clients.

`history` is what a client was told, `checker` compares that with what the servers have at the end.
"""
