"""Captions: what a vision-language model says of each image, kept as a table."""
