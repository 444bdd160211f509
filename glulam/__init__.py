"""glulam: a graph compiler for neural-network layer stacks on CPUs."""

__version__ = "0.1.0"
