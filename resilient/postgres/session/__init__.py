"""The connection that a caller holds: psycopg's, with thin hooks."""
