"""Bounds that the recipe and the command line share, apart from the schema, which takes long to import."""

MOST_NEW_TOKENS = 1 << 20
"""Largest number of tokens of a completion: random numbers are drawn for all of them beforehand."""
