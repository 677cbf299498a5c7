"""A client under test in a process of its own, and the parent's end of the pipe to it."""
