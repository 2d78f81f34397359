"""Torch heads: layers, and a trainer that fits many configurations as one program."""
