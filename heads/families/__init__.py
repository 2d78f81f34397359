"""Families of heads, one file each."""
