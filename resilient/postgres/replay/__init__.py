"""What a transaction did so far, and doing it again on another session."""
