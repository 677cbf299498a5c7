"""One scenario, two pools: psycopg_pool's and ours, on the same server, in both shells."""
