"""The loop IR: kernels as explicit loops over buffers, their builder, printer, verifier and interpreter; programs of
kernels, and which steps of one wait for which.

Kernels are written in `kernels`, and translated to LLVM in `codegen`.
"""
