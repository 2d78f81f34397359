"""The feature tables of one encoder in one store: what they hold, and who may append to them.

A table is opened for writing in two steps. `FeatureTables.admit` holds the encoder's provenance against the spec, then its
probe against the stored one. Only then does `FeatureTables.open` make the tables that are missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pyarrow.compute as pc

from ..data.images import DECODER_VERSION, decode
from ..data.text import clean, text_sha256
from ..errors import EncoderError, ImageError, SpaceError, UsageError
from ..store.provenance import check_space
from ..store.schema import features_schema, tower_of
from ..store.store import Store
from ..store.table import Table
from .encoder import Encoder, Modality, Output, fingerprint
from .extract import Work, read_file
from .probe import OWN_CONTENTS, check_probe, make_probe

__all__ = ["MODALITIES", "FeatureTables", "feature_provenance", "library_versions", "provenance_now"]

Dtype = Literal["float16", "float32"]

MODALITIES: tuple[Modality, ...] = get_args(Modality)

_LIBRARIES = ("icehouse", "torch", "torchvision", "open_clip_torch", "transformers", "pillow")


def feature_provenance(encoder: Encoder, modality: Modality, output: str, cleaning: str) -> dict[str, Any]:
    """Everything that decides what a stored vector means: the encoder's own, the output, the decoder or the cleaning."""
    provenance = {**encoder.provenance(modality), "output": output}
    if modality == "text":
        provenance["cleaning"] = cleaning
    else:
        provenance["decoder"] = DECODER_VERSION
    return provenance


def provenance_now(encoder: Encoder, spec: Mapping[str, Any], cleaning: str) -> dict[str, Any]:
    """Provenance that vectors for a feature would have if `encoder` made them now.

    Parameters
    ----------
    spec : mapping
        The feature table's. Which captions it is of, and how long ones are pooled, is taken over from it.
    cleaning : str
        Of texts, where the spec names none.
    """
    before = spec["provenance"]
    now = feature_provenance(
        encoder, tower_of(spec["modality"]), spec["output"], before.get("cleaning", cleaning)
    )
    return now | {key: before[key] for key in ("pooling", "captions") if key in before}


class FeatureTables:
    """Feature tables under one name.

    Parameters
    ----------
    store : Store
    name : str
        Folder under ``features/``.
    encoder_id : str
    outputs : sequence of str
        Outputs asked for; those that the encoder does not offer are left out.
    cleaning : str or None
        Text cleaning asked for; None takes that of the tables, else `default_cleaning`.
    dtype : {"float16", "float32"} or None
        Stored precision asked for; None takes that of the tables, else float16.

    Raises
    ------
    SpaceError
        If the tables hold texts cleaned in another way.
    UsageError
        If `dtype` is not one of the two, or not that of the tables.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        encoder_id: str,
        *,
        outputs: Sequence[str],
        cleaning: str | None,
        default_cleaning: str,
        dtype: str | None,
    ) -> None:
        self.store = store
        self.name = name
        self.encoder_id = encoder_id
        self.asked = tuple(outputs)
        self._encoder: Encoder | None = None
        self._first: list[Work] = []
        self._specs: dict[tuple[str, str], dict[str, Any]] = {}
        for feature in store.feature_names():
            prefix, modality, output = feature.rsplit("/", 2)
            if prefix == name:
                self._specs[modality, output] = store.feature_table(feature).snapshot().spec
        self.cleaning = self._agree_on_cleaning(cleaning, default_cleaning)
        self.dtype = self._agree_on_dtype(dtype)

    def _agree_on_cleaning(self, asked: str | None, default: str) -> str:
        there = {
            s["provenance"].get("cleaning") or default
            for (modality, _), s in self._specs.items()
            if modality == "text"
        }
        if asked is not None and there - {asked}:
            raise SpaceError(
                f"{self.name}: its texts were cleaned with {', '.join(sorted(there))}, not {asked}; "
                "keep to that, or start another table with --name"
            )
        return asked or (there.pop() if there else default)

    def _agree_on_dtype(self, asked: str | None) -> Dtype:
        if asked not in (None, "float16", "float32"):
            raise UsageError(f"--dtype {asked}: float16 or float32")
        there = {spec["dtype"] for spec in self._specs.values()}
        if asked is not None and there - {asked}:
            raise UsageError(
                f"{self.name}: its vectors are stored as {', '.join(sorted(there))}, not {asked}; "
                "leave --dtype out, or start another table with --name"
            )
        return cast(Dtype, asked or (there.pop() if there else "float16"))

    def outputs(self, modality: Modality) -> list[str]:
        """Outputs to write: asked for, and offered as far as is known before the encoder is loaded."""
        if self._encoder is not None:
            offered = [o.name for o in self._encoder.outputs if o.modality == modality]
        else:
            specs = [spec for (there, _), spec in self._specs.items() if there == modality]
            if not specs:
                return list(self.asked)
            offered = specs[0]["offers"]
        return [name for name in self.asked if name in offered]

    def done(self, modality: Modality) -> set[str]:
        """Contents (sha256) that have every output to be written."""
        sets = []
        for output in self.outputs(modality):
            if (modality, output) not in self._specs:
                return set()
            key = f"{modality}_sha256"
            snapshot = self.store.feature_table(f"{self.name}/{modality}/{output}").snapshot()
            sets.append(set(snapshot.read(columns=[key])[key].to_pylist()))
        return set.intersection(*sets) if sets else set()

    def same_encoder(self) -> bool:
        """Whether every table names the encoder that was asked for; else only loading it can tell."""
        return all(spec["encoder"] == self.encoder_id for spec in self._specs.values())

    def admit(self, encoder: Encoder, first: list[Work]) -> None:
        """Let an encoder write, if it encodes as those before it did.

        Parameters
        ----------
        first : list of Work
            The first of what it shall encode; new tables take their probe's own contents from it.

        Raises
        ------
        SpaceError
            If the fingerprint or the probe of a table says otherwise.
        EncoderError
            If the encoder offers none of the outputs asked for.
        """
        self._encoder, self._first = encoder, first
        if not any(self.outputs(modality) for modality in MODALITIES):
            raise EncoderError(f"{encoder.id} offers none of {', '.join(self.asked)}")
        for modality in MODALITIES:
            tables = {output: spec for (there, output), spec in self._specs.items() if there == modality}
            for output, spec in tables.items():
                check_space(
                    f"the feature {self.name}/{modality}/{output}", spec, self._spec(modality, output)
                )
            if tables:
                probes = {output: spec["probe"] for output, spec in tables.items()}
                find = partial(self._stored_content, modality)
                check_probe(encoder, modality, f"{self.name}/{modality}", probes, find)

    def open(self, modality: Modality) -> None:
        """Make the tables of a modality that are missing, each with its probe."""
        missing = [name for name in self.outputs(modality) if (modality, name) not in self._specs]
        if not missing:
            return
        assert self._encoder is not None
        probes = make_probe(self._encoder, modality, self._own_contents(modality), missing)
        for output in missing:
            spec = {**self._spec(modality, output), "probe": probes[output]}
            schema = features_schema(modality, output, self._output(modality, output).dim, self.dtype)
            name = f"{self.name}/{modality}/{output}"
            self._specs[modality, output] = (
                self.store.ensure_feature_table(name, spec, schema).snapshot().spec
            )

    def table(self, modality: Modality, output: str) -> Table:
        """Return a table that `open` made or found."""
        return self.store.feature_table(f"{self.name}/{modality}/{output}")

    def _output(self, modality: Modality, output: str) -> Output:
        assert self._encoder is not None
        return self._encoder.output(modality, output)

    def _spec(self, modality: Modality, output: str) -> dict[str, Any]:
        encoder = self._encoder
        assert encoder is not None
        provenance = feature_provenance(encoder, modality, output, self.cleaning)
        return {
            "encoder": encoder.id,
            "name": self.name,
            "modality": modality,
            "output": output,
            "dim": self._output(modality, output).dim,
            "dtype": self.dtype,
            "key": f"{modality}_sha256",
            "provenance": provenance,
            "fingerprint": fingerprint(provenance),
            "offers": [o.name for o in encoder.outputs if o.modality == modality],
            "versions": library_versions(),
        }

    def _own_contents(self, modality: Modality) -> dict[str, Any]:
        """First few contents of the run, by sha256, as the encoder takes them."""
        own: dict[str, Any] = {}
        for work in self._first:
            if len(own) == OWN_CONTENTS:
                break
            if modality == "text" and work.text:
                own[text_sha256(work.text)] = clean(work.text, self.cleaning)
            elif modality == "image" and work.file is not None:
                content = _read_image(work.file)
                if content is not None and self._prepares(content[1]):
                    own[content[0]] = content[1]
        return own

    def _prepares(self, image: Any) -> bool:
        assert self._encoder is not None
        try:
            self._encoder.prepare_image(image)
        except Exception:  # told when the picture itself is encoded
            return False
        return True

    def _stored_content(self, modality: Modality, key: str) -> Any:
        """Content of an item with that sha256, or None where it can no longer be had."""
        column = f"{modality}_sha256"
        items = self.store.items.snapshot().read(columns=["path", "root", "text", column])
        for row in items.filter(pc.equal(items[column], key)).to_pylist():
            if modality == "text":
                return clean(row["text"], self.cleaning)
            content = _read_image(Path(row["root"]) / row["path"])
            if content is not None and content[0] == key:
                return content[1]
        return None


def _read_image(path: Path) -> tuple[str, Any] | None:
    """sha256 and whole upright picture of a file, or None if it cannot be had."""
    try:
        data, _ = read_file(path)
        return hashlib.sha256(data).hexdigest(), decode(data).image
    except (OSError, ValueError, ImageError):
        return None


def library_versions() -> dict[str, str]:
    """Versions of what has a part in a vector, as far as it is installed."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
