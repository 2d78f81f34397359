"""State of the server: the open store or package, the heads that answer, and what is loaded once for all requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import HeadError, StoreError, UsageError
from ...heads.package import Package, is_package
from ...heads.runs import Run, list_runs
from ...store.store import Store


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the server is run; the defaults suit a laptop.

    `token` guards every route but health. `hosts` are further names by which the server may be called. A body has at most
    `max_body` bytes and takes at most `body_seconds` to come; at most `queue` inputs wait for a model.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    max_body: int = 64 * 2**20
    body_seconds: float = 30.0
    queue: int = 256
    device: str = "auto"
    workers: int | None = None


class State:
    """What the routes share; made by `open`, carried by the application as ``app.state.served``.

    Attributes
    ----------
    store : Store or None
        None where a package is served by itself.
    runs : dict of str to Run
        Heads that answer, by id; the first is the one that is meant where none is named.
    settings : Settings
    """

    def __init__(self, store: Store | None, runs: Sequence[Run], settings: Settings) -> None:
        self.store = store
        self.runs = {run.run_id: run for run in runs}
        self.settings = settings

    @classmethod
    def open(
        cls, path: str | Path | None, runs: Sequence[str] = (), settings: Settings | None = None
    ) -> State:
        """Open a store, or a package in its place, and the heads to answer with.

        Parameters
        ----------
        path : str or Path or None
            A store, or a folder that `icehouse package` made.
        runs : sequence of str
            Ids of runs, parts of them, "latest", or folders of packages; by default the store's latest, if it has any.
        """
        if path is not None and is_package(path):
            return cls(None, [Package.load(path), *map(_package, runs)], settings or Settings())
        store = None if path is None else Store.open(path)
        if runs:
            heads = [_head(store, name) for name in dict.fromkeys(runs)]
        else:
            heads = [] if store is None else list_runs(store, damaged=[])[-1:]
        if store is None and not heads:
            raise StoreError("there is nothing to serve: name a store or a package")
        return cls(store, heads, settings or Settings())

    @property
    def name(self) -> str:
        """What is served, for the pages' titles: the name of the store's or the package's folder."""
        path = self.store.path if self.store is not None else next(iter(self.runs.values())).path
        return path.resolve().name

    def run(self, name: str | None = None) -> Run:
        """Find the head that is meant: the first, or one by its id or an unambiguous part of it."""
        if not self.runs:
            raise HeadError(
                "no head answers here: train one with `icehouse train` and start the server again"
            )
        if name is None:
            return next(iter(self.runs.values()))
        fitting = [run for key, run in self.runs.items() if key == name] or [
            run for key, run in self.runs.items() if name and name in key
        ]
        if len(fitting) != 1:
            raise UsageError(f"no run {name!r} answers here; there are: {', '.join(self.runs)}")
        return fitting[0]

    def start(self) -> None:
        """Load what takes time; called once before the first request."""

    def close(self) -> None:
        """Give back threads and files."""


def _head(store: Store | None, name: str) -> Run:
    if is_package(name):
        return Package.load(name)
    if store is None:
        return _package(name)
    return Run.load(store, name)


def _package(name: str) -> Package:
    if not is_package(name):
        raise UsageError(f"{name!r} is no package; without a store only packages can be served")
    return Package.load(name)
