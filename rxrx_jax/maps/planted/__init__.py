"""A gene screen at the level of embeddings whose truth is planted, and how well each alignment of its map finds it.

Simulated: no number that comes of it is a claim about real screens.
"""
