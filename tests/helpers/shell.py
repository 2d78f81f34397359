"""A command line on a store, as a user types it."""

from __future__ import annotations

import json
from typing import Any

from icehouse.cli import app
from icehouse.store.store import Store
from typer.testing import CliRunner


def call(store: Store, command: str, *arguments: str) -> Any:
    """The result of ``icehouse COMMAND -s STORE ARGUMENTS``."""
    return CliRunner().invoke(app, [command, "-s", str(store.path), *arguments])


def ran(store: Store, command: str, *arguments: str) -> Any:
    """The same, which must have worked."""
    result = call(store, command, *arguments)
    assert result.exit_code == 0, result.output
    return result


def told(store: Store, command: str, *arguments: str) -> Any:
    """What it prints as JSON."""
    return json.loads(ran(store, command, *arguments, "--json").stdout)


def refused(store: Store, command: str, *arguments: str, status: int = 2) -> str:
    """Its one line on stderr, where it must fail."""
    result = call(store, command, *arguments)
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return str(result.stderr)
