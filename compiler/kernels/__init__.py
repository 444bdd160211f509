"""Templates that build loops: one file for each way to compute something, beside what several of them share.

Which template serves a node is its op's affair (`ops`); what an algorithm costs is estimated here, beside its loops.
"""
