"""Shared fixtures. Nothing here may reach the network, and nothing around may reach in."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What a shell or a CI service says of terminals, and a user of stores, changes what commands print and where they look.
# Some of it is read when typer is imported, so it has to go before that.
for name in list(os.environ):
    if name.startswith("ICEHOUSE_") or name in {
        "CLICOLOR_FORCE",
        "COLUMNS",
        "FORCE_COLOR",
        "GITHUB_ACTIONS",
        "LINES",
        "NO_COLOR",
        "PY_COLORS",
        "TERMINAL_WIDTH",
        "TTY_COMPATIBLE",
        "TTY_INTERACTIVE",
    }:
        del os.environ[name]

# Workers share the cores among themselves: threads in each of them would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
