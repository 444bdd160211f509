"""Loading and running what was compiled: artifacts, memory, threads, profiles. It imports nothing of the compiler.

LLVM serves as the linker of object code, and is imported when a model is loaded.
"""
