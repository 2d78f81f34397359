"""Captions through an encoder's text tower, into feature tables that know what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...data.text import clean, text_sha256
from ...errors import CaptionError
from ...store.schema import FAILURES, check_space, vector_type
from ...store.store import Store
from ...store.table import Table
from ...store.vectors import vectors_to_arrow
from ..encoder import Encoder, fingerprint
from ..extract import Encoded, Extractor, Failure, StageClock, Work
from ..pipeline import DEFAULT_CLEANING
from ..tables import OWN_CONTENTS, check_probe, feature_provenance, library_versions, make_probe
from .feature_keys import Caption, Keys
from .sentences import pack
from .table import STAGE

__all__ = ["CHUNK", "OUTPUTS", "POOLING", "Tally", "Writer"]

#: Outputs of the text tower that are kept.
OUTPUTS = ("joint", "pooled")

#: How long captions become vectors; part of the provenance.
POOLING = "sentences-v1"

#: Captions that are packed, encoded and committed together.
CHUNK = 2048

Progress = Callable[[int, int, str], None]


class Tally(Protocol):
    """What a writer counts."""

    embedded: int
    pooled: int
    failed: int


class Writer:
    """Encodes captions and appends their vectors, if the encoder is the one that wrote before."""

    def __init__(
        self,
        store: Store,
        name: str,
        modality: str,
        encoder: Encoder,
        cleaning: str | None,
        dtype: str | None,
        captions: Table,
        keyed: Keys,
    ) -> None:
        self.store = store
        self.name = name
        self.modality = modality
        self.encoder = encoder
        self.keyed = keyed
        self.outputs = [o.name for o in encoder.outputs if o.modality == "text" and o.name in OUTPUTS]
        if not self.outputs:
            raise CaptionError(f"{encoder.id} has no text tower, which captions need")
        about = captions.spec
        self.captions = {"name": about["name"], "fingerprint": about["fingerprint"]}
        self.specs = {
            output: store.feature_table(self._feature(output)).spec
            for output in self.outputs
            if self._feature(output) in store.feature_names()
        }
        cleanings = {spec["provenance"].get("cleaning") or DEFAULT_CLEANING for spec in self.specs.values()}
        self.cleaning = cleaning or (cleanings.pop() if cleanings else DEFAULT_CLEANING)
        stored = {spec["dtype"] for spec in self.specs.values()}
        self.dtype = dtype or (stored.pop() if stored else "float16")
        self.clock = StageClock()

    def _feature(self, output: str) -> str:
        return f"{self.name}/{self.modality}/{output}"

    def _spec(self, output: str) -> dict[str, Any]:
        provenance = {
            **feature_provenance(self.encoder, "text", output, self.cleaning),
            "pooling": POOLING,
            "captions": self.captions,
        }
        return {
            "encoder": self.encoder.id,
            "name": self.name,
            "modality": self.modality,
            "output": output,
            "dim": self.encoder.output("text", output).dim,
            "dtype": self.dtype,
            "key": self.keyed.column,
            "provenance": provenance,
            "fingerprint": fingerprint(provenance),
            "offers": self.outputs,
            "versions": library_versions(),
        }

    def admit(self, rows: Sequence[Caption]) -> None:
        """Hold the encoder against the tables there are, fingerprint and probe, and make those that are missing."""
        for output, spec in self.specs.items():
            check_space(f"the feature {self._feature(output)}", spec, self._spec(output))
        if self.specs:
            texts = {text_sha256(row.text): row.text for row in rows[: 4 * OWN_CONTENTS]}
            probes = {output: spec["probe"] for output, spec in self.specs.items()}
            find = partial(self._probe_text, texts)
            check_probe(self.encoder, "text", f"{self.name}/{self.modality}", probes, find)
        missing = [output for output in self.outputs if output not in self.specs]
        if not missing:
            return
        own = {text_sha256(row.text): self._probe_text({}, "", row.text) for row in rows[:OWN_CONTENTS]}
        probe = make_probe(self.encoder, "text", own, missing)
        for output in missing:
            spec = {**self._spec(output), "probe": probe[output]}
            schema = _schema(self.keyed.column, spec["dim"], self.dtype)
            self.store.ensure_feature_table(self._feature(output), spec, schema)

    def _probe_text(self, texts: Mapping[str, str], key: str, text: str | None = None) -> str | None:
        """First piece of a caption, cleaned: what the probe encodes of it."""
        text = texts.get(key) if text is None else text
        pieces = self._pieces(text) if text else []
        return pieces[0] if pieces else None

    def _pieces(self, text: str) -> list[str]:
        count = self.encoder.count_tokens
        cleaned = (clean(piece, self.cleaning) for piece in pack(text, self.encoder.context_length, count))
        return [piece for piece in cleaned if piece]

    def write(
        self,
        todo: Sequence[tuple[Caption, list[str]]],
        report: Tally,
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        """Encode and commit, some thousand captions at a time."""
        done = 0
        remaining = iter(todo)
        while chunk := list(islice(remaining, CHUNK)):
            pieces = [self._pieces(row.text) for row, _ in chunk]
            vectors, why = self._encode([p for some in pieces for p in some], batch_size)
            keys: list[str] = []
            tags: list[str] = []
            counts: list[int] = []
            pooled: dict[str, list[np.ndarray]] = {output: [] for output in self.outputs}
            for (row, owners), some in zip(chunk, pieces, strict=True):
                lost = [piece for piece in some if text_sha256(piece) not in vectors]
                if lost or not some:
                    report.failed += 1
                    self._record(owners[0], why.get(lost[0]) if lost else None)
                    continue
                report.embedded += 1
                report.pooled += len(some) > 1
                found = [vectors[text_sha256(piece)] for piece in some]
                weights = self.encoder.count_tokens(some).astype(np.float64)
                for key in owners:
                    keys.append(key)
                    tags.append(row.key)
                    counts.append(len(some))
                for output in self.outputs:
                    vector = _pool([v[output] for v in found], weights, unit=output == "joint")
                    pooled[output] += [vector] * len(owners)
            if keys:
                self._commit(keys, tags, counts, pooled)
            done += len(chunk)
            if progress:
                progress(done, len(todo), "captions")

    def _encode(
        self, pieces: Sequence[str], batch_size: int
    ) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Failure]]:
        """Vectors of each distinct piece, by its sha256 and output, and by piece why there are none."""
        extractor = Extractor(
            self.encoder,
            image_outputs=(),
            text_outputs=self.outputs,
            cleaning="none",
            image_done=set(),
            text_done=set(),
            shortest=None,
            workers=1,
            batch_size=batch_size,
            dtype=self.dtype,
            clock=self.clock,
        )
        vectors: dict[str, dict[str, np.ndarray]] = {}
        failures: dict[str, Failure] = {}
        for event in extractor.run(_works(pieces)):
            if isinstance(event, Failure):
                failures[event.item_id] = event
            elif isinstance(event, Encoded):
                for i, key in enumerate(event.keys):
                    vectors[key] = {output: np.asarray(values)[i] for output, values in event.outputs.items()}
        return vectors, failures

    def _record(self, owner: str, failure: Failure | None) -> None:
        """Put a caption that the encoder could not take into the ledger, once."""
        items = self.store.items.read(["item_id", self.keyed.column])
        item_id = items.filter(pc.equal(items[self.keyed.column], owner))["item_id"][0].as_py()
        ledger = self.store.failures.read(["item_id", "stage", "encoder"])
        row = {"item_id": item_id, "stage": STAGE, "encoder": self.name}
        if row in ledger.to_pylist():
            return
        row["error"] = failure.error if failure else "EmptyCaption"
        row["message"] = failure.message if failure else "nothing is left of the caption after cleaning"
        rows = pa.Table.from_pylist([{**row, "at": datetime.now(UTC)}], schema=FAILURES)
        self.store.failures.append(rows)

    def _commit(
        self, keys: list[str], tags: list[str], counts: list[int], vectors: Mapping[str, list[np.ndarray]]
    ) -> None:
        for output in self.outputs:
            table = self.store.feature_table(self._feature(output))
            columns: dict[str, Any] = {self.keyed.column: pa.array(keys, pa.string())}
            if self.keyed.column == "item_id":
                columns["caption_key"] = pa.array(tags, pa.string())
            columns["pieces"] = pa.array(counts, pa.int16())
            columns["vector"] = vectors_to_arrow(np.stack(vectors[output]).astype(np.float32), self.dtype)
            rows = pa.table(columns).cast(table.snapshot().schema)
            if self.keyed.column == "item_id":
                # An item whose picture or text has changed has another caption now.
                table.upsert(rows, key="item_id")
            else:
                table.append(rows, unique=self.keyed.column)


def _works(pieces: Sequence[str]) -> Iterator[Work]:
    for piece in dict.fromkeys(pieces):
        yield Work(piece, None, piece)


def _pool(vectors: Sequence[np.ndarray], weights: np.ndarray, *, unit: bool) -> np.ndarray:
    """Mean of the pieces' vectors, weighted by their tokens; brought back to unit length where the pieces have it."""
    if len(vectors) == 1:
        return vectors[0]
    stacked = np.stack(vectors).astype(np.float64)
    mean: np.ndarray = weights @ stacked / weights.sum()
    norms = np.linalg.norm(stacked, axis=1)
    if unit or np.allclose(norms, 1.0, atol=1e-3):
        mean = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return mean.astype(np.float32)


def _schema(key: str, dim: int, dtype: str) -> pa.Schema:
    fields = [pa.field(key, pa.string(), nullable=False)]
    if key == "item_id":
        fields.append(pa.field("caption_key", pa.string()))
    return pa.schema(
        [*fields, pa.field("pieces", pa.int16()), pa.field("vector", vector_type(dim, dtype), nullable=False)]
    )
