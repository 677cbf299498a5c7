"""COMMIT, and what became of one whose reply was lost."""
