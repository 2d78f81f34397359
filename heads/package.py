"""Packages of trained heads: a folder that predicts elsewhere, and ONNX without icehouse or Python.

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

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptError, HeadError, SpaceError
from ..store.files import SUMS, check_sums, publish, publish_folder, read_json
from ..store.schema import check_spec
from .families.linear import LogReg
from .inputs import Inputs, Tokens
from .runs import Run, write_json
from .torch_head import TorchHead

if TYPE_CHECKING:
    import onnx

    from ..store.store import Store
    from .head import Head
    from .runs import Run

FORMAT = 1

_MARK, _MODEL = "package.json", "model.onnx"


class Package(Run):
    """A packaged run, which predicts as the run does.

    `about` is ``package.json``, `encoders` what ``encoders.json`` says of each input's encoder.

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

    def probe(self, feature: str) -> dict[str, str] | None:
        """Vectors of the probe's contents by a feature's encoder; None for a feature that the package does not use."""
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
            f"{path} is no package: there is no {_MARK}; make one with `icehouse package RUN {shlex.quote(str(path))}`"
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
    if any(feature not in store.feature_names() for feature in run.features.values()):
        return None
    try:
        samples = run.samples(store)
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
    """Encoder of an input: its provenance, and its vectors of the probe contents."""
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


# Raw features go in, probabilities come out: centring, scaling and softmax are in the graph. An input of tokens brings its
# mask. Rows, and tokens, may be of any number. The file says in its metadata what it is and which features it takes. Before
# it is kept, ONNX Runtime's probabilities are compared with the head's own.


#: Version of ONNX's operators; any runtime since 2023 has it.
OPSET = 18

#: Largest difference of a probability from the head's own.
TOLERANCE = 1e-4

# Rows that are compared.
_CHECKED = 256


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    opset: int
    #: Shapes of what the graph takes, by name, "rows" and "tokens" standing for any number.
    inputs: dict[str, list[int | str]]
    #: Columns of its output ``probabilities``.
    classes: list[str]
    #: Largest absolute difference of a probability from the head's own, over the `rows` that were compared.
    difference: float
    rows: int


def export_onnx(run: Run, path: str | Path, *, rows: Inputs | None = None) -> Exported:
    """Write the head of a run or a package as ONNX, checked against the head itself on `rows` (random ones by default).

    HeadError if the family cannot be exported, the extra is not installed, or ONNX Runtime's probabilities differ by
    more than `TOLERANCE`.
    """
    tokens = [name for name, spec in run.specs.items() if spec.get("output") == "tokens"]
    about = {
        "icehouse.run": run.run_id,
        "icehouse.label": run.label,
        "icehouse.inputs": json.dumps(
            {
                name: {
                    "feature": run.features[name],
                    **{key: spec.get(key) for key in ("encoder", "modality", "output", "dim", "fingerprint")},
                    "cleaning": (spec.get("provenance") or {}).get("cleaning"),
                }
                for name, spec in run.specs.items()
            },
            ensure_ascii=False,
        ),
    }
    return write_onnx(run.head, path, tokens=tokens, about=about, rows=rows)


def write_onnx(
    head: Head,
    path: str | Path,
    *,
    tokens: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
    rows: Inputs | None = None,
) -> Exported:
    """Write a fitted torch head or `logreg` as ONNX, `tokens` naming its inputs that are tokens; see `export_onnx`."""
    from .. import __version__

    _require(head)
    path = Path(path)
    names = list(head.widths_)
    lacking = [name for name in tokens if name not in names]
    if lacking:
        raise HeadError(f"the head has no input {lacking[0]!r}; it has {', '.join(names)}")
    if isinstance(head, TorchHead):
        model = _from_torch(head, tokens)
    else:
        assert isinstance(head, LogReg)
        model = _from_logreg(head)
    classes = [str(label) for label in head.classes_.tolist()]
    _tidy(model)
    metadata = {
        "icehouse.version": __version__,
        "icehouse.head": head.family,
        "icehouse.classes": json.dumps(classes, ensure_ascii=False),
        "icehouse.widths": json.dumps(head.widths_, ensure_ascii=False),
        "icehouse.tokens": json.dumps(list(tokens), ensure_ascii=False),
        **(about or {}),
    }
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    rows = _random(head, tokens) if rows is None else _some(rows.select(names))
    difference = _difference(model.SerializeToString(), head, rows)
    if not difference <= TOLERANCE:
        raise HeadError(
            f"{path} was not written: its probabilities differ from the head's by up to {difference:.2g}, "
            f"more than {TOLERANCE}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with publish(path) as temp:
            temp.write_bytes(model.SerializeToString())
    except OSError as error:
        raise HeadError(f"cannot write {path}: {error.strerror or error}") from error
    return Exported(path, OPSET, _shapes(model), classes, difference, len(rows))


def _require(head: Head) -> None:
    """Refuse what cannot be exported, and say what is not installed."""
    if not head.batch_independent:
        raise HeadError(
            f"{head.family} as published predicts a row by its batch-mates, which no file can promise to repeat: "
            "fit it without as_published"
        )
    if not isinstance(head, (TorchHead, LogReg)):
        raise HeadError(
            f"{head.family} cannot be written as ONNX: the torch heads and logreg can; `icehouse package` keeps any head"
        )
    try:
        # PyTorch's exporter writes by way of onnxscript, which takes seconds to import.
        for name in ("onnx", "onnxruntime", *(["onnxscript"] if isinstance(head, TorchHead) else [])):
            import_module(name)
    except ImportError as error:
        raise HeadError(
            f"ONNX export needs {error.name or 'more packages'}: pip install 'icehouse[onnx]'"
        ) from None


def _from_torch(head: TorchHead, tokens: Sequence[str]) -> onnx.ModelProto:
    """The graph of a network with what stands around it."""
    import torch
    from torch import nn
    from torch.export import Dim

    names = list(head.widths_)

    class Probabilities(nn.Module):
        """The network on one tensor after the other, with softmax."""

        def __init__(self) -> None:
            super().__init__()
            self.network = head.network_

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            tensors = iter(given)
            inputs, masks = {}, {}
            for name in names:
                x = next(tensors)
                if name in tokens:
                    inputs[name], masks[name] = x, next(tensors)
                else:
                    inputs[name], masks[name] = x[:, None], torch.ones_like(x[:, :1], dtype=torch.bool)
            logits: torch.Tensor = self.network(inputs, masks)
            return logits.softmax(dim=1)

    # Neither 0 nor 1 rows or tokens, which the exporter would take for constants.
    examples: list[torch.Tensor] = []
    shapes: list[dict[int, Any]] = []
    labels: list[str] = []
    for name, width in head.widths_.items():
        if name in tokens:
            examples += [torch.zeros(3, 4, width), torch.ones(3, 4, dtype=torch.bool)]
            shapes += [{0: Dim.DYNAMIC, 1: Dim.DYNAMIC}] * 2
            labels += [name, _mask_of(name)]
        else:
            examples.append(torch.zeros(3, width))
            shapes.append({0: Dim.DYNAMIC})
            labels.append(name)
    try:
        program = torch.onnx.export(
            Probabilities().eval(),
            tuple(examples),
            dynamo=True,
            dynamic_shapes=(tuple(shapes),),
            input_names=labels,
            output_names=["probabilities"],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    except Exception as error:  # PyTorch's exporter raises what it likes
        first = str(error).strip().splitlines()[:1]
        raise HeadError(
            f"PyTorch cannot export this {head.family}: {type(error).__name__} {''.join(first)}"
        ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _from_logreg(head: LogReg) -> onnx.ModelProto:
    """Centre (where it does not hide behind unit length), multiply, add, softmax."""
    from onnx import TensorProto, helper, numpy_helper

    names, k = list(head.widths_), len(head.classes_)
    coef, intercept = head.coef_, head.intercept_.astype(np.float64)
    if len(coef) == 1:  # two classes: the first one's logit is zero
        coef, intercept = np.concatenate([np.zeros_like(coef), coef]), np.array([0.0, *intercept])
    # About the means of training, so that the sums do not lose their digits in float32.
    means = [head.means_[name] for name in names]
    intercept = intercept + coef @ np.concatenate(means)
    nodes, kept = [], []

    def constant(name: str, value: Any, kind: type = np.float32) -> str:
        kept.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    parts = []
    for i, name in enumerate(names):
        x = name
        if head.unit_:
            length = add("ReduceL2", [x, "axis"], f"length_{i}", keepdims=1)
            empty = add("Equal", [length, "zero"], f"empty_{i}")
            divisor = add("Where", [empty, "one", length], f"divisor_{i}")
            x = add("Div", [x, divisor], f"unit_{i}")
        parts.append(add("Sub", [x, constant(f"mean_{i}", means[i])], f"centred_{i}"))
    if head.unit_:
        constant("zero", 0)
        constant("one", 1)
        constant("axis", [1], np.int64)
    features = add("Concat", parts, "features", axis=1)
    logits = add(
        "Gemm", [features, constant("coef", coef), constant("intercept", intercept)], "logits", transB=1
    )
    add("Softmax", [logits], "probabilities", axis=1)
    graph = helper.make_graph(
        nodes,
        head.family,
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])
            for name, width in head.widths_.items()
        ],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", k])],
        kept,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="icehouse"
    )


def _tidy(model: onnx.ModelProto) -> None:
    """Name the free axes, and drop what only tells how the graph was traced."""
    graph = model.graph
    del graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*graph.input, *graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = ("rows", "tokens")[place]


def _difference(model: bytes, head: Head, rows: Inputs) -> float:
    """Largest difference of a probability between ONNX Runtime and the head: all rows together, and the first alone."""
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        worst = 0.0
        for part in (rows, rows[:1]):
            feed: dict[str, np.ndarray] = {}
            for name, array in part.items():
                if isinstance(array, Tokens):
                    feed[name], feed[_mask_of(name)] = np.asarray(array.values, np.float32), array.mask
                else:
                    feed[name] = np.asarray(array, np.float32)
            made = session.run(["probabilities"], feed)[0]
            apart = np.abs(made - head.predict_proba(part))
            worst = max(worst, float(apart.max()) if np.isfinite(apart).all() else float("inf"))
    except Exception as error:  # ONNX Runtime raises what it likes
        first = str(error).strip().splitlines()[:1]
        raise HeadError(f"ONNX Runtime cannot run this {head.family}: {''.join(first)}") from error
    return worst


def _random(head: Head, tokens: Sequence[str]) -> Inputs:
    """Rows around those of training, tokens of different lengths among them."""
    rng = np.random.default_rng(0)
    n, t = 64, 7
    arrays: dict[str, Any] = {}
    for i, (name, width) in enumerate(head.widths_.items()):
        if isinstance(head, TorchHead):
            centre = head.network_.get_buffer(f"centre_{i}").numpy()
            scale = 1 / float(head.network_.get_buffer(f"scale_{i}"))
        else:
            assert isinstance(head, LogReg)
            centre, scale = head.means_[name], 3 / max(float(np.linalg.norm(head.coef_, axis=1).max()), 1e-6)
        shape = (n, t, width) if name in tokens else (n, width)
        values = (centre + scale * rng.normal(size=shape)).astype(np.float32)
        if name in tokens:
            mask = np.arange(t) < rng.integers(1, t + 1, n)[:, None]
            arrays[name] = Tokens(values * mask[..., None], mask)
        else:
            arrays[name] = values
    return Inputs(arrays)


def _some(rows: Inputs) -> Inputs:
    """At most `_CHECKED` complete rows, spread over all."""
    rows = rows[np.flatnonzero(rows.complete())]
    if len(rows) == 0:
        raise HeadError("there is no row with every input to compare on")
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _CHECKED)).astype(np.intp))]


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    return {
        value.name: [dim.dim_param or int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }


def _mask_of(name: str) -> str:
    return f"{name}_mask"
