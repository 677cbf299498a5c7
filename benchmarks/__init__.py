"""What this project costs and what it brings, measured on real servers beside its peers.

See README.md in this folder.
"""
