"""What changes a graph before it is lowered: one pass a file, with what it requires and ensures (`manager`).

Their order, and the reason for it, is in `compiler.pipeline`.
"""
