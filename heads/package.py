"""A package: one folder with everything that a trained head needs to predict, and nothing of the store it came from.

======================  ==================================================================================
``package.json``        that it is a package, its format, and which run it was
``run.json``            inputs with spec and fingerprint, classes, protocol; `Run.record`
``metrics.json``        scores with intervals; `Run.metrics`
``head/``               the head: JSON, safetensors or a library's own text format; never pickle
``encoders.json``       the encoder behind each input: its id, the cleaning of texts, and a probe, by which an encoder that
                        no longer encodes as it did is found out
``model.onnx``          the head for other runtimes, if asked for
``README.txt``          how to use it
``SHA256SUMS``          checksums of all of these, verified whenever it is loaded; ``sha256sum -c`` reads them too
======================  ==================================================================================

Pictures, texts, ids and labels of items stay behind: of the probe only the two contents that every installation can
make, and of ``run.json`` what training was about. Heads that remember training rows (`knn`, `tip-adapter`) remember
their vectors here too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptError, HeadError, SpaceError
from ..store.files import SUMS, check_sums, publish_folder, read_json
from ..store.schema import check_spec
from .inputs import Inputs
from .runs import Run, write_json

if TYPE_CHECKING:
    from ..store.store import Store
    from .export_onnx import Exported

__all__ = ["Package", "is_package", "package"]

FORMAT = 1

_MARK, _MODEL = "package.json", "model.onnx"


class Package(Run):
    """A packaged run; it predicts as the run does.

    Attributes
    ----------
    path : Path
    record, metrics : dict
        As the run's.
    about : dict
        ``package.json``.
    encoders : dict of str to dict
        Input to what ``encoders.json`` says of its encoder.

    Examples
    --------
    >>> Package.load("flood-head").predict_features({"text": X}).labels               # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        self.about: dict[str, Any] = verify(path)
        super().__init__(path)
        self.encoders: dict[str, dict[str, Any]] = _encoders(path, self.features)

    @classmethod
    def load(cls, store: Store | str | Path, run_id: str = "") -> Package:
        """Open the package in a folder, verifying every file of it; HeadError if it is no package, newer or damaged."""
        return cls(Path(store) if isinstance(store, (str, Path)) else store.path)

    @property
    def run_id(self) -> str:
        """Id of the run that it was made of."""
        return str(self.about["run_id"])

    @property
    def model(self) -> Path | None:
        """The ONNX file, if there is one."""
        path = self.path / _MODEL
        return path if path.exists() else None

    def probe(self, feature: str) -> dict[str, str] | None:
        """What the encoder of a feature made of the probe's contents; None for a feature that the package does not use."""
        for name, used in self.features.items():
            if used == feature:
                return dict(self.encoders[name]["probe"])
        return None

    def __repr__(self) -> str:
        return f"Package({str(self.path)!r}, {self.family} on {', '.join(self.features)})"


def is_package(path: str | Path) -> bool:
    """Whether a folder says that it is a package, intact or not."""
    return (Path(path) / _MARK).is_file()


def package(
    store: Store, run: Run | str, out: str | Path, *, onnx: bool = False
) -> tuple[Package, Exported | None]:
    """Write a run as a package, with ``model.onnx`` if `onnx`.

    The folder appears whole or not at all, in place of a package that is there; HeadError if there is something else.
    """
    run = run if isinstance(run, Run) else Run.load(store, run)
    out = Path(out).resolve()
    _require_free(out)
    encoders = {name: _encoder(store, run, name) for name in run.specs}
    head = run.head
    exported: list[Exported] = []
    try:
        with publish_folder(out) as folder:
            head.save(folder / "head")
            write_json(folder / "run.json", run.record)
            write_json(folder / "metrics.json", run.metrics)
            write_json(folder / "encoders.json", encoders)
            if onnx:
                from .export_onnx import export_onnx

                exported.append(export_onnx(run, folder / _MODEL, rows=stored_rows(store, run)))
            write_json(folder / _MARK, _about(run))
            (folder / "README.txt").write_text(_readme(run, out.name), encoding="utf-8")
    except OSError as error:
        raise HeadError(f"cannot write {out}: {error.strerror or error}") from error
    return Package(out), exported[0] if exported else None


def verify(path: Path) -> dict[str, Any]:
    """Verify that a folder is a package and every file as written (HeadError names it); returns ``package.json``."""
    if not is_package(path):
        raise HeadError(
            f"{path} is no package: there is no {_MARK}; make one with `icehouse package RUN {path}`"
        )
    again = "it is damaged or was changed: package the run again"
    try:
        if not check_sums(path, only=True):
            raise CorruptError(f"it cannot be verified, there is no {SUMS}")
        about = read_json(path, _MARK)
        if type(about.get("format")) is not int or "run_id" not in about:
            raise CorruptError(f"{_MARK} names no format or no run")
    except (CorruptError, OSError) as error:
        raise HeadError(f"package {path}: {error}: {again}") from error
    if about["format"] > FORMAT:
        raise HeadError(
            f"package {path} is of format {about['format']}; this icehouse reads up to {FORMAT}: upgrade it"
        )
    return about


def _encoders(path: Path, inputs: Iterable[str]) -> dict[str, dict[str, Any]]:
    try:
        found = read_json(path, "encoders.json")
        for name in inputs:
            check_spec(found[name], f"input {name!r}", ("probe",))
        return {name: {**found[name], "probe": dict(found[name]["probe"])} for name in inputs}
    except (CorruptError, OSError, KeyError, TypeError, ValueError) as error:
        raise HeadError(
            f"package {path}: encoders.json is damaged ({error}): package the run again"
        ) from error


def stored_rows(store: Store, run: Run) -> Inputs | None:
    """The run's inputs as the store has them, to compare an export on; None where it no longer has them."""
    from .evaluate import load_run_samples

    if any(feature not in store.feature_names() for feature in run.features.values()):
        return None
    try:
        samples = load_run_samples(store, run)
    except SpaceError:
        return None  # embedded again by another encoder: of that name, but no longer the run's
    return samples.X if samples.X.complete().any() else None


def _require_free(out: Path) -> None:
    """Refuse to take the place of anything but a package or an empty folder."""
    if out.is_dir() and (is_package(out) or not any(out.iterdir())):
        return
    if out.exists():
        what = "a folder with other things" if out.is_dir() else "no folder"
        raise HeadError(f"{out} is {what}, not a package, and is left as it is: choose another place")


def _encoder(store: Store, run: Run, name: str) -> dict[str, Any]:
    """Who made an input, and how it encodes what anybody can encode."""
    feature, spec = run.features[name], run.specs[name]
    probe: dict[str, str] = {}
    if isinstance(run, Package):
        probe = run.probe(feature) or {}
    elif feature in store.feature_names():
        there = store.feature_table(feature).spec
        # Of another space it says nothing about this one.
        if there.get("fingerprint") == spec.get("fingerprint"):
            own = there.get("probe") or {}
            probe = {key: value for key, value in own.items() if key.startswith("builtin:")}
    provenance = spec.get("provenance") or {}
    return {
        "feature": feature,
        "encoder": spec.get("encoder"),
        "fingerprint": spec.get("fingerprint"),
        "cleaning": provenance.get("cleaning"),
        "weights_sha256": provenance.get("weights_sha256"),
        "probe": probe,
    }


def _about(run: Run) -> dict[str, Any]:
    from .. import __version__

    return {
        "format": FORMAT,
        "run_id": run.run_id,
        "head": run.family,
        "inputs": run.features,
        "classes": run.classes,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "created_by": f"icehouse {__version__}",
    }


def _readme(run: Run, name: str) -> str:
    inputs = ", ".join(f"{input_} ({feature})" for input_, feature in run.features.items())
    return (
        f"A {run.family} head that tells {len(run.classes)} classes of {run.label!r} from {inputs}; "
        "made with icehouse, run " + run.run_id + ".\n"
        f"On raw rows: icehouse predict {name} photos/ posts.csv --out predictions.csv\n"
        f'In Python: from icehouse.heads.package import Package; Package.load("{name}").predict_features(features)\n'
    )
