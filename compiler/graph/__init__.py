"""The graph of layer nodes: types, layouts, values and nodes, the contract of an op, text form, verifier, evaluation.

The ops themselves are in `ops`, what changes a graph is in `passes`.
"""
