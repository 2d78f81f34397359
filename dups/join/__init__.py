"""All pairs of vectors whose cosine reaches a threshold, exactly, and in memory that does not grow with their square."""
