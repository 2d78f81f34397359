"""Exact join: all pairs of vectors whose cosine reaches a threshold, in memory that does not grow with their square."""
