"""The pools: psycopg_pool's, dialling whatever the topology names."""
