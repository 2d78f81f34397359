"""Watching streams: posts in, repeats and irrelevant ones filtered, heads on the rest; Redis, Kafka, folders, PostgreSQL."""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import UsageError


def require(module: str, extra: str, what: str) -> None:
    """Say in one line what to install, where a library of an extra is not there."""
    if find_spec(module) is None:
        raise UsageError(f'{what} with {module}, which is not installed: pip install "icehouse[{extra}]"')
