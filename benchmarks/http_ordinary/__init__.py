"""An ordinary day of HTTP: nothing fails, or hardly anything, and ours beside plain httpx2.

No column of ours may be worse than plain httpx2's beyond noise.
"""
