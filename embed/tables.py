"""Feature tables of one encoder in one store, the probe that guards appends, and the verified encoder behind a feature.

A table is opened for writing in two steps. `FeatureTables.admit` holds the encoder's provenance against the spec, then its
probe against the stored one. Only then does `FeatureTables.open` make the tables that are missing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..data import image_files
from ..data.images import DECODER_VERSION, decode
from ..data.text import DEFAULT_CLEANING, clean, text_sha256
from ..errors import EncoderError, ImageError, SpaceError, UsageError
from ..store.schema import check_space, check_spec, features_schema, fingerprint, tower_of
from ..store.store import Store
from ..store.table import Table
from ..store.vectors import tokens_to_arrow, vectors_to_arrow
from .encoder import Encoder, Modality, Tokens, load_encoder, require_trusted
from .extract import Work

# Metadata says what a writer believes of itself; the probe says what it does. It catches what metadata cannot: another
# resize, a quick-GELU mismatch, a library that changed underneath. Two built-in contents need no file, so a store that was
# copied without its images is still guarded; up to four of the user's own join them while their files or texts are there.


#: Below this cosine two encodings of one content are not of one space.
MIN_COSINE = 0.999

#: At most this many of the user's own contents are kept.
OWN_CONTENTS = 4


def builtin_contents(modality: Modality) -> dict[str, Any]:
    """Contents every installation can make: id -> upright RGB image, or cleaned text."""
    if modality == "text":
        return {
            "builtin:flood": "flooded streets after the storm, families wait for help on their roofs",
            "builtin:lunch": "a photo of my lunch: rice, beans and a cup of coffee",
        }
    wide, tall = _pattern(640, 427, seed=1), _pattern(375, 520, seed=2)
    return {"builtin:wide": wide.copy(), "builtin:tall": tall.copy()}


@cache
def _pattern(width: int, height: int, seed: int) -> Image.Image:
    """Picture with detail at every scale, so that each way to resize it leaves its own trace."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rng = np.random.default_rng(seed)
    channels = []
    for _ in range(3):
        field = np.zeros((height, width))
        for octave in range(1, 8):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            wave = 2**octave * np.pi / max(width, height)
            field += np.sin(wave * (x * np.cos(angle) + y * np.sin(angle)) + phase) / octave
        # Hard edges and single-pixel stripes alias under nearest-neighbour or unfiltered bilinear resizing.
        field += np.sign(np.sin(x / 5.0 + y / 11.0)) * 0.8 + ((x + y) % 3 - 1) * 0.7
        channels.append(field)
    stacked = np.stack(channels, axis=-1)
    low, high = stacked.min(), stacked.max()
    return Image.fromarray(np.rint((stacked - low) / (high - low) * 255).astype(np.uint8))


def probe_vectors(
    encoder: Encoder, modality: Modality, contents: Sequence[Any], outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Encode probe contents, always whole and one at a time, so that neither decoding nor batching plays a part.

    Each output's (n, dim) float32 array; token states are averaged over the real tokens.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for content in contents:
        if modality == "image":
            encoded = encoder.encode_images(encoder.prepare_image(content)[None], outputs)
        else:
            encoded = encoder.encode_texts([content], outputs)
        for name in outputs:
            rows[name].append(_pooled(encoded[name]))
    return {name: np.stack(vectors) for name, vectors in rows.items()}


def _pooled(encoded: np.ndarray | Tokens) -> np.ndarray:
    if isinstance(encoded, Tokens):
        mean: np.ndarray = encoded.values[0][encoded.mask[0]].mean(axis=0)
        return mean
    return encoded[0]


def make_probe(
    encoder: Encoder, modality: Modality, own: Mapping[str, Any], outputs: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Probe of a new table: for each output, content id -> its vector (float16, base64)."""
    contents = {**builtin_contents(modality), **dict(list(own.items())[:OWN_CONTENTS])}
    vectors = probe_vectors(encoder, modality, list(contents.values()), outputs)
    return {
        name: {
            key: base64.b64encode(row.astype("<f2").tobytes()).decode()
            for key, row in zip(contents, rows, strict=True)
        }
        for name, rows in vectors.items()
    }


def check_probe(
    encoder: Encoder,
    modality: Modality,
    table: str,
    probes: Mapping[str, Mapping[str, str]],
    find: Callable[[str], Any] | None = None,
) -> None:
    """Re-encode a table's probe contents and compare."""
    contents = builtin_contents(modality)
    for key in dict.fromkeys(key for probe in probes.values() for key in probe):
        if find is not None and key not in contents and not key.startswith("builtin:"):
            content = find(key)
            if content is not None:
                contents[key] = content
    outputs = list(probes)
    keys = [key for key in contents if all(key in probe for probe in probes.values())]
    if not keys or not outputs:
        return
    now = probe_vectors(encoder, modality, [contents[key] for key in keys], outputs)
    for name in outputs:
        for key, vector in zip(keys, now[name], strict=True):
            cosine = _cosine(_decoded(probes[name][key]), vector)
            if not cosine >= MIN_COSINE:
                raise SpaceError(
                    f"{table}: {encoder.id} no longer encodes as it did: probe {key[:20]} of {name} comes back at cosine "
                    f"{cosine:.4f} (at least {MIN_COSINE} is needed); use the versions the table was made with "
                    "(see `icehouse info --json`), or start another table with --name"
                )


def _decoded(text: str) -> np.ndarray:
    """Vector of a probe; none at all, which is like no other, where the text is no vector."""
    try:
        return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float32)
    except (ValueError, TypeError):
        return np.empty(0, np.float32)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("nan")
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


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
    """Provenance that vectors for a feature would have if `encoder` made them now."""
    before = spec["provenance"]
    now = feature_provenance(
        encoder, tower_of(spec["modality"]), spec["output"], before.get("cleaning", cleaning)
    )
    return now | {key: before[key] for key in ("pooling", "captions") if key in before}


def feature_spec(*, provenance: Mapping[str, Any], **entries: Any) -> dict[str, Any]:
    """Spec of a feature's table; its fingerprint is that of the provenance."""
    return {
        **entries,
        "provenance": dict(provenance),
        "fingerprint": fingerprint(provenance),
        "versions": {**_library_versions()},
    }


def append_features(
    table: Table,
    keys: Sequence[str],
    values: Sequence[np.ndarray | Tokens],
    columns: Mapping[str, pa.Array] | None = None,
) -> None:
    """Append vectors or token states, with further columns, to the table of a feature.

    What is kept by content is not written twice; what is kept by item takes the place of what the item had, whose picture or
    text may have changed.
    """
    snapshot = table.snapshot()
    spec, schema = snapshot.spec, snapshot.schema
    rows: dict[str, Any] = {spec["key"]: pa.array(keys, pa.string()), **(columns or {})}
    tokens = [v for v in values if isinstance(v, Tokens)]
    if tokens:
        arrays = [tokens_to_arrow(v.values, v.mask, spec["dtype"]) for v in tokens]
        rows["tokens"] = pa.chunked_array(arrays)
    else:
        vectors = [v for v in values if not isinstance(v, Tokens)]
        rows["vector"] = vectors_to_arrow(np.concatenate(vectors), spec["dtype"])
    fitted = pa.table(rows).select(schema.names).cast(schema)
    if spec["key"] == "item_id":
        table.upsert(fitted, key="item_id")
    else:
        table.append(fitted, unique=spec["key"])


class FeatureTables:
    """Feature tables under one name."""

    def __init__(
        self,
        store: Store,
        name: str,
        encoder_id: str,
        *,
        outputs: Sequence[str],
        cleaning: str | None,
        dtype: str | None,
        modalities: Sequence[str] = MODALITIES,
    ) -> None:
        self.store = store
        self.name = name
        self.encoder_id = encoder_id
        self.modalities = modalities
        self.asked = tuple(outputs)
        self._encoder: Encoder | None = None
        self._first: list[Work] = []
        self._specs: dict[tuple[str, str], dict[str, Any]] = {}
        for feature in store.feature_names():
            prefix, modality, output = feature.rsplit("/", 2)
            if prefix == name and modality in modalities:
                self._specs[modality, output] = store.feature_table(feature).snapshot().spec
        self.cleaning = self._agree_on_cleaning(cleaning)
        self.dtype = self._agree_on_dtype(dtype)

    def _agree_on_cleaning(self, asked: str | None) -> str:
        there = {
            s["provenance"].get("cleaning") or DEFAULT_CLEANING
            for (modality, _), s in self._specs.items()
            if tower_of(modality) == "text"
        }
        if asked is not None and there - {asked}:
            raise SpaceError(
                f"{self.name}: its texts were cleaned with {', '.join(sorted(there))}, not {asked}; "
                "keep to that, or start another table with --name"
            )
        return asked or (there.pop() if there else DEFAULT_CLEANING)

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

    def outputs(self, modality: str) -> list[str]:
        """Outputs to write: asked for, and offered as far as is known before the encoder is loaded."""
        if self._encoder is not None:
            offered = [o.name for o in self._encoder.outputs if o.modality == tower_of(modality)]
        else:
            specs = [spec for (there, _), spec in self._specs.items() if there == modality]
            if not specs:
                return list(self.asked)
            offered = specs[0]["offers"]
        return [name for name in self.asked if name in offered]

    def done(self, modality: str) -> set[str]:
        """Contents (sha256) that have every output to be written."""
        sets = []
        for output in self.outputs(modality):
            if (modality, output) not in self._specs:
                return set()
            key = self.key(modality)
            snapshot = self.store.feature_table(f"{self.name}/{modality}/{output}").snapshot()
            sets.append(set(snapshot.read(columns=[key])[key].to_pylist()))
        return set.intersection(*sets) if sets else set()

    @property
    def encoder(self) -> Encoder:
        """The encoder that was admitted."""
        assert self._encoder is not None
        return self._encoder

    def same_encoder(self) -> bool:
        """Whether every table names the encoder that was asked for; else only loading it can tell."""
        return all(spec["encoder"] == self.encoder_id for spec in self._specs.values())

    def admit(self, encoder: Encoder, first: list[Work]) -> None:
        """Permit an encoder to write, if it encodes as those before it did."""
        self._encoder, self._first = encoder, first
        if not any(self.outputs(modality) for modality in self.modalities):
            raise EncoderError(f"{encoder.id} offers none of {', '.join(self.asked)}")
        for modality in self.modalities:
            tables = {output: spec for (there, output), spec in self._specs.items() if there == modality}
            for output, spec in tables.items():
                check_space(
                    f"the feature {self.name}/{modality}/{output}", spec, self._spec(modality, output)
                )
            if tables:
                probes = {output: spec["probe"] for output, spec in tables.items()}
                find = partial(self.stored_content, modality)
                check_probe(encoder, tower_of(modality), f"{self.name}/{modality}", probes, find)

    def open(self, modality: str) -> None:
        """Make the tables of a modality that are missing, each with its probe."""
        missing = [name for name in self.outputs(modality) if (modality, name) not in self._specs]
        if not missing:
            return
        probes = make_probe(self.encoder, tower_of(modality), self.own_contents(modality), missing)
        for output in missing:
            spec = {**self._spec(modality, output), "probe": probes[output]}
            schema = self.schema(modality, output)
            name = f"{self.name}/{modality}/{output}"
            self._specs[modality, output] = (
                self.store.ensure_feature_table(name, spec, schema).snapshot().spec
            )

    def table(self, modality: str, output: str) -> Table:
        """Return a table that `open` made or found."""
        return self.store.feature_table(f"{self.name}/{modality}/{output}")

    def key(self, modality: str) -> str:
        """Name of the column that the vectors are kept by."""
        return f"{modality}_sha256"

    def dim(self, modality: str, output: str) -> int:
        """Width of an output's vectors."""
        return self.encoder.output(tower_of(modality), output).dim

    def schema(self, modality: str, output: str) -> pa.Schema:
        """Columns of a table."""
        return features_schema(tower_of(modality), output, self.dim(modality, output), self.dtype)

    def provenance(self, modality: str, output: str) -> dict[str, Any]:
        """Everything that decides what a vector means."""
        return feature_provenance(self.encoder, tower_of(modality), output, self.cleaning)

    def _spec(self, modality: str, output: str) -> dict[str, Any]:
        return feature_spec(
            encoder=self.encoder.id,
            name=self.name,
            modality=modality,
            output=output,
            dim=self.dim(modality, output),
            dtype=self.dtype,
            key=self.key(modality),
            provenance=self.provenance(modality, output),
            offers=[o.name for o in self.encoder.outputs if o.modality == tower_of(modality)],
        )

    def own_contents(self, modality: str) -> dict[str, Any]:
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
        try:
            self.encoder.prepare_image(image)
        except Exception:  # told when the picture itself is encoded
            return False
        return True

    def stored_content(self, modality: str, key: str) -> Any:
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
        data, _ = image_files.read(path)
        return hashlib.sha256(data).hexdigest(), decode(data).image
    except (OSError, ValueError, ImageError):
        return None


@cache
def _library_versions() -> Mapping[str, str]:
    """Versions of what has a part in a vector, as far as it is installed."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


# A store holds vectors, not models. To encode one thing more (a query, a class prompt, a row to predict) the encoder is
# loaded from the feature's spec, and must still have its fingerprint and pass its probe.


_SPACE = ("encoder", "name", "modality", "output")


def load_checked(
    spec: Mapping[str, Any],
    encoder: Encoder | None = None,
    *,
    device: str = "auto",
    texts_only: bool = False,
) -> Encoder:
    """Load the encoder that a feature's spec names, and make sure that it still is the one."""
    check_spec(spec, "the feature", (*_SPACE, "provenance"))
    if encoder is None:
        require_trusted(spec["encoder"])
        encoder = load_encoder(spec["encoder"], device=device)
    modality, output = spec["modality"], spec["output"]
    now = provenance_now(encoder, spec, DEFAULT_CLEANING)
    if texts_only:
        now.pop("decoder", None)
        now |= {key: spec["provenance"][key] for key in ("decoder",) if key in spec["provenance"]}
    feature = f"the feature {spec['name']}/{modality}/{output}"
    check_space(feature, spec, {"encoder": encoder.id, "provenance": now, "fingerprint": fingerprint(now)})
    check_probe(encoder, tower_of(modality), f"{spec['name']}/{modality}", {output: spec.get("probe") or {}})
    return encoder


def cleaning_beside(store: Store, spec: Mapping[str, Any]) -> str:
    """Cleaning of the texts that were embedded beside this feature, so that another text is treated as they were."""
    prefix = f"{spec['name']}/text/"
    for name in store.feature_names():
        if name.startswith(prefix):
            provenance = store.feature_table(name).snapshot().spec.get("provenance") or {}
            return str(provenance.get("cleaning") or DEFAULT_CLEANING)
    return DEFAULT_CLEANING
