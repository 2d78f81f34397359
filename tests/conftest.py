"""Shared fixtures. Nothing here may reach the network, and nothing around may reach in."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

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

# A shell has what it runs in the background ignore Ctrl-C, and so would what tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Workers share the cores among themselves: threads in each of them would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Typer would build all commands again at every `CliRunner().invoke(app)`, thousands of times.
typer_main: Any = importlib.import_module("typer.main")
typer_main.get_command = functools.cache(typer_main.get_command)


def _not_waiting(descriptor: int) -> None:
    os.fstat(descriptor)  # fails as `os.fsync` does on what is not open


# No test pulls the plug, and waiting for the disk took a fifth of the time; processes that tests start, and kill, do wait.
os.fsync = _not_waiting

# Imported modules and collected tests are a million objects that stay. Looking for garbage among them took three seconds of
# every worker, and half a second of each test that looks for some.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Keep matplotlib's list of fonts from run to run: making it takes four seconds, and every run's cache folder is new."""
    if hasattr(config, "cache"):
        os.environ["MPLCONFIGDIR"] = str(config.cache.mkdir("matplotlib"))


def pytest_collection_finish() -> None:
    """Look for garbage from here on, and only among what tests make; at the very end everything goes."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


# Property tests draw the same examples each time, leave nothing in the working folder and mind no busy machine;
# `--hypothesis-profile default` explores.
settings.register_profile(
    "steady", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's cache folder of this run's own, which its workers share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("LOCALAPPDATA", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("APPDATA", str(folder / "config"))
        yield folder / "cache"
