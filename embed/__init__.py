"""Embedding: the `Encoder` contract, its families, the extraction pipeline."""
