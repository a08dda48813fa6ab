"""The AAS-VC network, one idea per module.

Shape letters used throughout:

==  ==========================================================
B   utterances in a batch
S   source frames (padded)
T   target frames (padded)
K   source tokens: ``S // frames_per_token`` (padded)
M   mel channels
D   width of a layer
H   attention heads
==  ==========================================================

A ``padding`` mask is True where there is no data.
"""
