"""What a pool costs its servers while nobody does anything, by kind of endpoint."""
