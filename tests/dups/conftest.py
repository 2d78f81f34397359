"""A store with five items, and one feature of their images."""

from small_store import spec, store  # noqa: F401
