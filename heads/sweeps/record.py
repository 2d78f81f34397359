"""What a sweep has done so far, on disk, so that it goes on where it stopped.

``STORE/sweeps/<name>/`` holds ``sweep.json`` (the data it is about), ``trials/<key>.json`` (one a trial, written whole
when the trial ends), ``winners.json`` (the runs of each family's winner) and, until then, ``heads/<key>/<seed>/``.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import HeadError, UsageError, unknown_name
from ...store.checksums import seal, unseal
from ...store.files import publish, refuse_outside
from ..head import Head
from .plan import Trial

if TYPE_CHECKING:
    from ...store.store import Store

__all__ = ["SweepRecord", "list_sweeps", "read_record", "sweep_folder", "write_record"]

FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class SweepRecord:
    """The folder of a sweep."""

    path: Path

    @classmethod
    def open(cls, store: Store, name: str) -> SweepRecord:
        """Open a sweep that was begun.

        Raises
        ------
        HeadError
            If there is none; the message lists those there are.
        """
        record = cls(sweep_folder(store, name))
        if not (record.path / "sweep.json").exists():
            known = ", ".join(list_sweeps(store))
            remedy = f"there are: {known}" if known else "start one with `icehouse sweep`"
            raise unknown_name(HeadError(f"no sweep {name!r} in {store.path}; {remedy}"))
        return record

    @classmethod
    def begin(cls, store: Store, name: str, data: Mapping[str, Any], *, fresh: bool = False) -> SweepRecord:
        """Begin a sweep, or go on with one about the same data.

        Parameters
        ----------
        store : Store
        name : str
        data : mapping
            What the figures depend on: features with their fingerprints and digests, label, splits, metric.
        fresh : bool, default False
            Forget what was done; the runs of earlier winners stay.

        Raises
        ------
        HeadError
            If the sweep of that name is about other data; the message says what differs.
        """
        record = cls(sweep_folder(store, name))
        about = record.path / "sweep.json"
        refuse_outside(record.path)
        if fresh:
            # Not the folder: learning curves of that name lie there too.
            for left in ("trials", "heads"):
                shutil.rmtree(record.path / left, ignore_errors=True)
            for file in ("winners.json", "sweep.json"):
                (record.path / file).unlink(missing_ok=True)
        if about.exists():
            whole = read_record(about)
            before = whole["data"]
            features = {**before["features"], **data["features"]}
            # More inputs are welcome as long as the rows stay the same.
            common = {**data, "features": {**features, **before["features"]}}
            differs = [
                key
                for key in {**before, **common}
                if {**before, "features": features}.get(key) != common.get(key)
            ]
            if differs:
                raise HeadError(
                    f"sweep {name!r} was begun with other data ({', '.join(sorted(differs))} differ); "
                    "give another --name, or --fresh to begin it anew"
                )
            write_record(about, {**whole, "data": {**before, "features": features}})
            return record
        (record.path / "trials").mkdir(parents=True, exist_ok=True)
        write_record(
            about,
            {
                "format": FORMAT,
                "name": name,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "created_by": f"icehouse {__version__}",
                "data": dict(data),
            },
        )
        return record

    @property
    def name(self) -> str:
        """Name it was given."""
        return self.path.name

    @property
    def data(self) -> dict[str, Any]:
        """What it is about."""
        return dict(read_record(self.path / "sweep.json")["data"])

    def trial(self, trial: Trial) -> dict[str, Any] | None:
        """What is known of a trial; None if nothing is, or it cannot be read: the sweep does it again."""
        path = self._trial(trial)
        if path.exists():
            with contextlib.suppress(HeadError):
                return read_record(path)
        return None

    def all_trials(self) -> list[dict[str, Any]]:
        """Every trial that ended and can be read, in the order of their names."""
        found = []
        for path in sorted((self.path / "trials").glob("*.json")):
            with contextlib.suppress(HeadError):
                found.append(read_record(path))
        return found

    def save_trial(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Write what became of a trial."""
        write_record(self._trial(trial), dict(result))

    def save_head(self, trial: Trial, seed: int, head: Head) -> None:
        """Keep a fitted head until the winners are known."""
        folder = self._head(trial, seed)
        refuse_outside(folder)
        shutil.rmtree(folder, ignore_errors=True)
        head.save(folder)

    def load_head(self, trial: Trial, seed: int) -> Head | None:
        """A head that was kept; None if it is gone."""
        folder = self._head(trial, seed)
        return Head.load(folder) if (folder / "head.json").exists() else None

    def drop_heads(self) -> None:
        """Remove the kept heads: those of the winners are in their runs."""
        refuse_outside(self.path)
        shutil.rmtree(self.path / "heads", ignore_errors=True)

    @property
    def winners(self) -> dict[str, Any]:
        """Family to its winning trial and the runs of it."""
        path = self.path / "winners.json"
        return read_record(path) if path.exists() else {}

    def save_winners(self, winners: Mapping[str, Any]) -> None:
        """Write who won."""
        write_record(self.path / "winners.json", dict(winners))

    def _trial(self, trial: Trial) -> Path:
        return self.path / "trials" / f"{trial.key}.json"

    def _head(self, trial: Trial, seed: int) -> Path:
        return self.path / "heads" / trial.key / str(seed)


def list_sweeps(store: Store) -> list[str]:
    """Names of the sweeps of a store."""
    return sorted(path.parent.name for path in (store.path / "sweeps").glob("*/sweep.json"))


def sweep_folder(store: Store, name: str) -> Path:
    """Folder of a sweep, there or not; its name must be one that can be a folder's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a sweep: letters, digits, '.', '_' and '-'")
    return store.path / "sweeps" / name


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote."""
    try:
        value = unseal(json.loads(path.read_text(encoding="utf-8")), path.name)
    except (OSError, ValueError, RecursionError) as error:
        raise HeadError(f"{path} cannot be read ({error}); remove it, and the sweep does it again") from error
    return value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    text = json.dumps(seal(value, path.name), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with publish(path) as temp:
        temp.write_text(text, encoding="utf-8")
