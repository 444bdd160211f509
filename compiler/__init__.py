"""From a graph of layers to native code. Start with `driver`, the whole way on one page, and `pipeline`, its passes.

What a layer means is in `ops`; how to run what was compiled is in `glulam.runtime`, which imports nothing of this.
"""
