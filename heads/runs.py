"""Runs: the folder that training leaves, how one is written, found, loaded and used, and how often test rows were scored.

======================  ==================================================================================
``run.json``            what was trained, on which features (spec and fingerprint), by which protocol
``metrics.json``        scores of each evaluated split with intervals, the choice and its curve
``head/``               the head itself: JSON and safetensors
``predictions.parquet`` item_id, split, y, predicted, and a column ``p_<class>`` for each class
``training.parquet``    item_id and role (train, dev, test) of every row that took part
``report.html``         the page to look at; ``report.json`` and ``figures/`` hold the same
``evaluations/``        what `icehouse evaluate` added later
``SHA256SUMS``          checksums of all but what came later, verified before a file is read
======================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptError, HeadError, IcehouseError, SpaceError, count_of, unknown_name
from ..store.files import SUMS, hold, publish, publish_folder, read_json, read_parquet, seal, unseal
from ..store.schema import check_space, check_spec
from .head import Head
from .inputs import Samples, load_samples
from .metrics import Predicted

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.store import Store

FORMAT = 1

_AGAIN = "restore it from a backup, or remove its folder and train it again"

# What two features must share, beside the fingerprint, for a head to take one for the other.
_SHAPE = ("modality", "output", "dim")


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of some rows."""

    classes: np.ndarray  # (k,) str
    proba: np.ndarray  # (n, k) float64

    @property
    def labels(self) -> np.ndarray:
        """Likeliest class of each row: shape (n,)."""
        return self.classes[self.proba.argmax(axis=1)]

    def to_arrow(self, ids: Sequence[str] | np.ndarray) -> pa.Table:
        """Table of `item_id`, `predicted` and ``p_<class>`` for each class."""
        return prediction_table(ids, self)


@dataclass(frozen=True)
class Scored:
    """Rows of a split that a run was scored on, as its ``predictions.parquet`` has them."""

    ids: np.ndarray  # (n,) str
    y: np.ndarray  # (n,) str: true labels
    predicted: Predicted
    classes: list[str]

    @property
    def codes(self) -> np.ndarray:
        """Place of each true label among `classes`; -1 for one that the head does not know: int, shape (n,)."""
        place = {label: i for i, label in enumerate(self.classes)}
        return np.array([place.get(label, -1) for label in self.y.tolist()], np.intp)

    def of(self, ids: Iterable[str]) -> Scored:
        """The rows of some items, in their order."""
        place = {item: i for i, item in enumerate(self.ids.tolist())}
        rows = np.array([place[item] for item in ids], np.intp)
        return Scored(self.ids[rows], self.y[rows], self.predicted[rows], self.classes)


class Run:
    """A trained head with its record; make one with `load`.

    Attributes
    ----------
    path : Path
    record : dict
        ``run.json``.
    metrics : dict
        ``metrics.json``.

    Examples
    --------
    >>> run = Run.load("icehouse-store", "latest")                                    # doctest: +SKIP
    >>> run.predict_features({"text": X}).labels                                      # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record: dict[str, Any] = _read_json(path, "run.json")
        version = self.record.get("format", 0)
        if type(version) is not int:
            raise HeadError(f"run {path.name} is damaged: its format {version!r} is no number; {_AGAIN}")
        if version > FORMAT:
            raise HeadError(
                f"run {path.name} is of format {self.record['format']}; this icehouse reads up to {FORMAT}"
            )
        self.metrics: dict[str, Any] = _read_json(path, "metrics.json")
        try:
            # A run without checksums, of an older icehouse, is known by what it must have.
            for name, given in self.record["inputs"].items():
                str(given["feature"])
                check_spec(given["spec"], f"input {name!r}", ("encoder", "modality", "output", "provenance"))
            (
                str(self.record["head"]["family"]),
                dict(self.record["head"]["params"]),
                list(self.record["classes"]),
            )
            str(self.record["label"]), str(self.record["created_at"]), list(self.metrics["protocol"]["notes"])
            self.summary(), self.missing
        except CorruptError as error:
            raise HeadError(f"run {path.name} is damaged: {error}; {_AGAIN}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise HeadError(f"run {path.name} is damaged: its record lacks {error}; {_AGAIN}") from error

    @classmethod
    def load(cls, store: Store | str | Path, run_id: str) -> Run:
        """Open a run by its id, by an unambiguous part of it, or the one started last as "latest".

        The label that runs have learned stands for the one of them that was started last.

        Parameters
        ----------
        store : Store or path
        run_id : str

        Raises
        ------
        HeadError
            If there is no such run, or several; the message lists runs.
        """
        folder = _folder(store)
        ids = _ids(folder)
        if not ids:
            missing = HeadError(f"no runs in {folder.parent}; train one with `icehouse train`")
            raise missing if run_id == "latest" else unknown_name(missing)
        if run_id == "latest":
            return cls(folder / ids[-1])
        fitting = [name for name in ids if name == run_id] or [
            name for name in ids if run_id and run_id in name
        ]
        if not fitting:
            fitting = [name for name in ids if _label_of(folder / name) == run_id][-1:]
        if len(fitting) != 1:
            what = "fits several runs" if fitting else "is no run"
            shown = ", ".join((fitting or ids)[-5:])
            raise unknown_name(
                HeadError(f"{run_id!r} {what} of {folder.parent}: {shown} (see `icehouse runs`)")
            )
        return cls(folder / fitting[0])

    @property
    def run_id(self) -> str:
        """Its id, which is its folder's name."""
        return self.path.name

    @property
    def family(self) -> str:
        """Family of its head."""
        return str(self.record["head"]["family"])

    @property
    def label(self) -> str:
        """Column of labels that it learned."""
        return str(self.record["label"])

    @property
    def classes(self) -> list[str]:
        """Labels that it can predict."""
        return list(self.record["classes"])

    @property
    def positive(self) -> str | None:
        """Class whose average precision is meant, of two: as it was given, or the rarer one in training; else None."""
        given = self.record.get("positive")
        return None if given is None else str(given)

    @property
    def majority(self) -> str | None:
        """The commonest label of its training rows, the baseline of its scores; None where it had none."""
        given = self.record.get("majority")
        return None if given is None else str(given)

    @property
    def missing(self) -> str:
        """Treatment of rows that lack an input: "drop" or "keep"."""
        return str(self.record["data"]["missing"])

    @property
    def features(self) -> dict[str, str]:
        """Input to feature name: ``{"image": "mini/image/pooled"}``."""
        return {name: str(given["feature"]) for name, given in self.record["inputs"].items()}

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """Input to the spec of the feature that it was trained on: encoder, output, dim, provenance, fingerprint."""
        return {name: dict(given["spec"]) for name, given in self.record["inputs"].items()}

    @cached_property
    def head(self) -> Head:
        """The fitted head, read when first asked for."""
        head = Head.load(self.path / "head")
        if [str(label) for label in head.classes_.tolist()] != self.classes:
            raise HeadError(
                f"run {self.run_id} is damaged: its head has other classes than its record; {_AGAIN}"
            )
        return head

    @property
    def notes(self) -> list[str]:
        """Remarks for a reader of the scores: on the protocol, and of class prompts that could not be compared."""
        from .registry import head_class

        notes = [*self.metrics["protocol"]["notes"]]
        try:
            kind = head_class(self.family)
        except IcehouseError:
            return notes  # a family that is not installed here
        if kind.takes_prompts == "never":
            return notes
        from .families.zero_shot import prompt_notes

        given = self.record["head"]["params"]
        return [*notes, *(note for note in prompt_notes(kind, given, self.specs) if note not in notes)]

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, {self.family} on {', '.join(self.features)})"

    def check_space(self, specs: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise HeadError if `specs` (input to spec) lack an input of the run, SpaceError if one is of another space."""
        for name, mine in self.specs.items():
            given = specs.get(name)
            if given is None:
                raise HeadError(
                    f"run {self.run_id} needs the input {name!r} ({self.features[name]}), which is not there"
                )
            check_space(f"input {name!r} of run {self.run_id}", mine, given)
            for part in _SHAPE:
                if part in given and part in mine and given[part] != mine[part]:
                    raise SpaceError(
                        f"input {name!r} of run {self.run_id} is {_described(mine)}, but was given {_described(given)}"
                    )

    def predict_features(self, X: Any) -> Prediction:
        """Predict from features by the run's input names; call `check_space` on their specs first."""
        return Prediction(self.head.classes_, self.head.predict_proba(X))

    def predictions(self) -> pa.Table:
        """``predictions.parquet``: dev and test rows with their label, prediction and probabilities."""
        return self._table("predictions.parquet", ("item_id", "split", "y", "predicted"))

    def scored(self, split: str) -> Scored:
        """Rows of a split with their label, prediction and probabilities."""
        import pyarrow.compute as pc

        table = self.predictions()
        table = table.filter(pc.equal(table["split"], split))
        ids, y, labels = (np.array(table[name].to_pylist(), str) for name in ("item_id", "y", "predicted"))
        proba = np.stack([table[f"p_{label}"].to_numpy() for label in self.classes], axis=1)
        predicted = Predicted(labels, np.array(self.classes, str), proba.astype(np.float64))
        return Scored(ids, y, predicted, self.classes)

    def training_items(self) -> dict[str, set[str]]:
        """Role (train, dev, test) to the ids of the items that had it."""
        table = self._table("training.parquet", ("item_id", "role"))
        roles: dict[str, set[str]] = {}
        for item, role in zip(table["item_id"].to_pylist(), table["role"].to_pylist(), strict=True):
            roles.setdefault(role, set()).add(item)
        return roles

    def learned_items(self) -> set[str]:
        """Ids of the items that the head learned from."""
        roles = self.training_items()
        learned = ("train", "dev") if self.record["protocol"]["refit"] else ("train",)
        return set().union(*(roles.get(role, set()) for role in learned))

    def samples(
        self,
        store: Store,
        *,
        label: str | None = None,
        where: str | None = None,
        split_column: str | None = None,
    ) -> Samples:
        """Rows of the run's features in a store, once their spaces are known to be its own."""
        for name, feature in self.features.items():
            if feature not in store.feature_names():
                known = ", ".join(store.feature_names()) or "none"
                raise HeadError(
                    f"run {self.run_id} needs {feature} for its input {name!r}; this store has: {known}"
                )
        self.check_space({name: store.feature_table(feature).spec for name, feature in self.features.items()})
        data = self.record["data"]
        return load_samples(
            store,
            self.features,
            label=label,
            where=where,
            split_column=split_column or (data["split_column"] if label is not None else "split"),
            missing=data["missing"],
        )

    def _table(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Read a Parquet file of the run, which must have `columns`."""
        try:
            table = read_parquet(self.path, name)
            if lacking := [column for column in columns if column not in table.column_names]:
                raise CorruptError(f"{self.path / name} lacks the column {lacking[0]!r}")
        except CorruptError as error:
            raise HeadError(f"run {self.run_id} is damaged: {error}; {_AGAIN}") from error
        return table

    def summary(self) -> dict[str, Any]:
        """One row of `icehouse runs`, as JSON values."""
        test, dev = self.metrics.get("test"), self.metrics.get("dev")
        scored = test or dev
        return {
            "run_id": self.run_id,
            "head": self.family,
            "inputs": self.features,
            "label": self.label,
            "classes": len(self.classes),
            "scored_on": "test" if test else "dev" if dev else None,
            "rows": scored["n"] if scored else None,
            "one_class": scored.get("one_class") if scored else None,
            "macro_f1": scored["macro_f1"] if scored else None,
            "accuracy": scored["accuracy"] if scored else None,
            "created_at": self.record["created_at"],
        }


def list_runs(store: Store | str | Path, damaged: list[str] | None = None) -> list[Run]:
    """All runs of a store, oldest first; what is wrong with damaged ones goes to `damaged`, or becomes a warning."""
    folder = _folder(store)
    found = []
    for name in _ids(folder):
        try:
            found.append(Run(folder / name))
        except HeadError as error:
            if damaged is None:
                warnings.warn(str(error), stacklevel=2)
            else:
                damaged.append(str(error))
    return found


def write_run(
    store: Store | str | Path,
    head: Head,
    record: Mapping[str, Any],
    metrics: Mapping[str, Any],
    predictions: pa.Table,
    training: pa.Table,
    started: datetime | None = None,
) -> Run:
    """Write a run whole, under a new id; id, format, number and times are added to `record` (``run.json``)."""
    from pyarrow import parquet

    from .. import __version__

    now = datetime.now(UTC)
    started = started or now
    about: dict[str, Any] = {
        "format": FORMAT,
        "created_at": now.isoformat(timespec="seconds"),
        "started_at": started.isoformat(timespec="microseconds"),
        "created_by": f"icehouse {__version__}",
        **record,
    }

    def write(folder: Path) -> None:
        head.save(folder / "head")
        parquet.write_table(predictions, folder / "predictions.parquet")
        parquet.write_table(training, folder / "training.parquet")
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "run.json", about)

    folder = _folder(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadError(f"cannot write under {folder}: {error.strerror or error}") from error
    with hold(folder):
        about["number"] = 1 + max((_started(folder / name)[1] for name in _ids(folder)), default=0)
        return Run(write_folder(folder, f"{started:%Y%m%d-%H%M%S}-{head.family}", write))


def write_folder(parent: Path, stem: str, write: Callable[[Path], None]) -> Path:
    """Make a new folder ``parent/<stem>-<4 hex digits>``, whole or not at all; `write` fills it."""
    try:
        while (path := parent / f"{stem}-{secrets.token_hex(2)}").exists():
            pass
        with publish_folder(path) as folder:
            write(folder)
    except OSError as error:
        raise HeadError(f"cannot write under {parent}: {error.strerror or error}") from error
    return path


def prediction_table(
    ids: Sequence[str] | np.ndarray,
    prediction: Prediction,
    *,
    split: Sequence[str | None] | np.ndarray | None = None,
    y: Sequence[str] | np.ndarray | None = None,
) -> pa.Table:
    """Table of predictions: item_id, split and y where given, predicted, ``p_<class>`` for each class (float32)."""
    import pyarrow as pa

    columns: dict[str, Any] = {"item_id": pa.array(list(ids), pa.string())}
    if split is not None:
        columns["split"] = pa.array(list(split), pa.string())
    if y is not None:
        columns["y"] = pa.array([str(label) for label in y], pa.string())
    columns["predicted"] = pa.array([str(label) for label in prediction.labels.tolist()], pa.string())
    for i, label in enumerate(prediction.classes.tolist()):
        columns[f"p_{label}"] = pa.array(prediction.proba[:, i].astype(np.float32))
    return pa.table(columns)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that any parser reads; a number that JSON has not is an error here, not in the reader."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_sealed(path: Path) -> dict[str, Any]:
    """JSON that `write_sealed` wrote; OSError or ValueError if it is not there or another."""
    return unseal(json.loads(path.read_text(encoding="utf-8")), path.name)


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with a checksum of it inside, whole or not at all."""
    with publish(path) as temp:
        write_json(temp, seal(value, path.name))


def _folder(store: Store | str | Path) -> Path:
    return Path(store) / "runs" if isinstance(store, (str, Path)) else store.path / "runs"


def _ids(folder: Path) -> list[str]:
    """Names of the runs in `folder`, in the order in which they were started."""
    if not folder.is_dir():
        return []
    # One that lost its record is a damaged run, not none.
    found = {path.parent for name in ("run.json", SUMS) for path in folder.glob(f"[!.]*/{name}")}
    return [path.name for path in sorted(found, key=lambda path: (*_started(path), path.name))]


def _label_of(path: Path) -> str | None:
    """The label that a run learned, as far as its record can be read."""
    try:
        return str(json.loads((path / "run.json").read_text(encoding="utf-8"))["label"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _started(path: Path) -> tuple[datetime, int]:
    """Start time and number of a run: 0 in runs that have none; by its name if its record cannot be read."""
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        started = datetime.fromisoformat(record.get("started_at") or record["created_at"])
        return (started if started.tzinfo else started.replace(tzinfo=UTC)), int(record.get("number", 0))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    try:
        return datetime.strptime(path.name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC), 0
    except ValueError:
        return datetime.min.replace(tzinfo=UTC), 0


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).exists():
        raise HeadError(f"{folder} is no run: there is no {name}")
    try:
        return read_json(folder, name)
    except (CorruptError, FileNotFoundError) as error:
        raise HeadError(f"run {folder.name} cannot be read: {error}; {_AGAIN}") from error


def _described(spec: Mapping[str, Any]) -> str:
    return f"{spec.get('encoder')} {spec.get('modality')}/{spec.get('output')} of width {spec.get('dim')}"


# A score on test is an honest estimate the first time. Each further head that is scored on the same rows, and compared,
# makes the best of them look better than it is. So every scoring of rows is counted, by whatever command: a run and a
# leaderboard say how many there were.
#
# ``STORE/looks/<digest>.json`` is about one set of rows and one label: ``label``, ``rows``, ``items`` (a digest of 16 hex
# digits for each item id, in one string) and ``looks`` (by what, and how often). Sets that share a row count for each other:
# rows left out for want of an input, or by ``--where``, make no new test set.

# Hexadecimal digits of an item's digest.
_DIGITS = 16


def log_scoring(store: Store, label: str, ids: Iterable[str], by: str) -> dict[str, Any]:
    """Log that rows were scored by a command ("train", "sweep", "evaluate", "shots"), and return their count so far."""
    folder = store.path / "looks"
    items = _item_digests(ids)
    try:
        folder.mkdir(exist_ok=True)
        with hold(folder):
            _add_scorings(folder, label, items, {by: 1})
    except OSError as error:
        raise HeadError(f"cannot write to {folder}: {error.strerror or error}") from error
    return _count_of(store, label, items)


def scoring_count(store: Store, label: str, ids: Iterable[str]) -> dict[str, Any]:
    """Count of scorings of any of the rows `ids` against `label`.

    ``total``, ``by`` command, and the files that could not be read as ``damaged``, so that there may have been more.
    """
    return _count_of(store, label, _item_digests(ids))


def _count_of(store: Store, label: str, items: set[str]) -> dict[str, Any]:
    by: Counter[str] = Counter()
    damaged = []
    for path in sorted((store.path / "looks").glob("[!.]*")):
        try:
            known = _read_scorings(path)
        except (OSError, ValueError):  # those set aside as damaged too
            damaged.append(path.name)
            continue
        if known["label"] == label and not items.isdisjoint(known["items"]):
            by.update(known["looks"])
    return {"total": by.total(), "by": dict(by), **({"damaged": damaged} if damaged else {})}


def scoring_text(looks: Mapping[str, Any]) -> str:
    """Say in a sentence what `scoring_count` returns."""
    total, damaged = looks["total"], looks.get("damaged")
    least = f"at least, {', '.join(damaged)} cannot be read" if damaged else ""
    if total <= 1 and not damaged:
        return "looks: these rows were scored for the first time, as far as this store knows"
    listed = ", ".join(f"{what} {n}" for what, n in sorted(looks["by"].items()))
    detail = "; ".join(part for part in (listed, least) if part)
    return (
        f"looks: these rows, or some of them, have been scored {count_of(total, 'time')} ({detail}); the best "
        "of several flatters"
    )


def _item_digests(ids: Iterable[str]) -> set[str]:
    return {
        hashlib.blake2b(str(item).encode("utf-8", "surrogatepass"), digest_size=_DIGITS // 2).hexdigest()
        for item in ids
    }


def _read_scorings(path: Path) -> dict[str, Any]:
    """Counts of one file, `items` as a set; ValueError where it is damaged."""
    value = read_sealed(path)
    try:
        items = value["items"]
        found = {items[start : start + _DIGITS] for start in range(0, len(items), _DIGITS)}
        looks = {str(by): int(times) for by, times in value["looks"].items()}
        return {"label": str(value["label"]), "items": found, "looks": looks}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged") from error


def _add_scorings(folder: Path, label: str, items: set[str], looks: dict[str, int]) -> None:
    name = hashlib.sha256(json.dumps([label, sorted(items)]).encode()).hexdigest()[:16]
    path = folder / f"{name}.json"
    before: dict[str, int] = {}
    if path.exists():
        try:
            before = _read_scorings(path)["looks"]
        except ValueError:
            path.rename(folder / f"{name}.damaged")
    value = {
        "format": FORMAT,
        "label": label,
        "rows": len(items),
        "looks": dict(Counter(before) + Counter(looks)),
    }
    write_sealed(path, {**value, "items": "".join(sorted(items))})
