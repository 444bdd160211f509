"""From loops to LLVM: kernels, the entry points by which threads share a run, and object code.

Nothing is decided here: how a kernel computes is written in its loops.
"""
